"""A PostgreSQL data directory as a target, the throw-away server that is started on it, and what is checked there.

``target`` builds the directory so that it cannot start before it is complete: ``global/pg_control`` is written last,
and only when ``backup_label`` is there (without it a server starts and silently has wrong rows). ``server`` runs it on
a private socket with everything off that could reach out: archiving, replication, jobs. ``checks`` examines it.
"""
