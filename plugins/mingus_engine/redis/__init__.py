"""What sources and targets of Redis (and Valkey) share: connecting, the RDB and AOF formats, the programs."""
