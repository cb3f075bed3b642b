"""Real servers for the tests: PostgreSQL 15, 16 and 18, Redis, S3, and the processes and directories they live in.

Nothing here knows MINGUS. Everything listens on loopback, on a free port, in a directory that goes away; every
process dies with the test process, whatever ends it (``processes.start``). Fixtures are in ``fixtures``, made known
by tests/conftest.py.
"""
