"""Jobs of Redis alone: backing up, the command stream and its windows, restoring, recovery to a moment."""
