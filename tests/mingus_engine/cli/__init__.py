"""The command line, run as its users run it: a process with arguments, an environment and two streams."""
