"""What PostgreSQL's formats and programs look like: shared by sources and targets, which do not know each other.

Nothing here opens a backup or restores one. ``backup_manifest`` and ``tablespace_map`` are texts inside a base backup,
``control_data`` is what ``pg_controldata`` prints, ``programs`` finds PostgreSQL's programs.
"""
