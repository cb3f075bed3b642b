"""Programs of the servers that are backed up: ``accounts`` says who runs them, ``running`` runs them; ``guardian`` is
the process between the engine and a program, which ends the program with the engine.
"""
