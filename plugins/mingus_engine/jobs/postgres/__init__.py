"""Jobs of PostgreSQL alone: archiving and reading the write-ahead log, recovery windows and targets, extraction."""
