"""Facts about Redis (and Valkey) that sources and targets share: the protocol, the RDB and AOF formats, the programs."""
