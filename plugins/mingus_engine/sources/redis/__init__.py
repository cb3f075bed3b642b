"""Sources of Redis and Valkey: snapshots, append-only files, the command stream, and what belongs to each."""
