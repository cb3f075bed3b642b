"""Redis 7 and later, and Valkey, as a source: a snapshot (RDB) of every primary, and what explains it.

Words: *shard* one primary with its replicas, the only one unless there is a cluster; *node* one server; *fork* the
moment a snapshot is of; *offset* where in the replication stream that is; *sample* some keys, read by commands.

What happens, in every shard at the same time: (1) the nodes are found (settings, Sentinels, cluster) and a healthy
replica is chosen, else the primary; (2) configuration, users, functions and modules are asked for; (3) keys are
sampled; (4) the server forks and sends its RDB (``replication``) or writes it to its disk (``bgsave``); (5) the sample
is read again, so that it holds what did not change while it forked; (6) the RDB is looked at byte by byte on its way:
beginning, end, CRC-64; (7) the nodes must still be what they were.

All give the same files: ``dump.rdb``, in a cluster below ``shard-<n>/``; configuration under ``mingus-config/``, what
only documents the origin under ``mingus-origin/``. Nothing is changed on a server, so nothing can be left behind.

Not promised: one moment for all shards of a cluster (each is consistent by itself, as a cluster itself promises no
more); what modules keep outside the RDB.
"""
