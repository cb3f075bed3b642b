"""Every limit of the engine, with the reason for the number. Units are in the names."""

from __future__ import annotations

from datetime import timedelta

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- what is compared, compressed and sealed -------------------------------------------------

# Comparison unit of databases: eight 8 KiB pages. 64 KiB stores 14.5 % again where 2.5 % of the pages
# changed, 1 MiB would store 72 % (DESIGN §4).
BLOCK_BYTES = 64 * KIB
# One compressed and sealed blob holds at most this much plain text: above it two zstd threads
# fight for the cache (PERF.md).
BLOB_PLAIN_BYTES = 256 * KIB
# Where a change would spread what was one blob over more than so many, all of it is stored again. Changes that hit
# single blocks at random then store twice as much, and a restore opens twice as many blobs as after a full backup, for
# ever; without it to four times as many (docs/DESIGN.md).
SCATTER_MAX_BLOBS = 3
# What a reader accepts as a blob's plain length, checked before decompression (DESIGN §4).
BLOB_PLAIN_MAX_BYTES = 4 * MIB
# What a worker reads at once: large enough that Python's overhead vanishes, small enough for memory.
SLAB_BYTES = 4 * MIB
# A 16-byte keyed BLAKE3 over at most 2^40 blocks collides with probability < 2^-48.
BLOCK_HASH_BYTES = 16

# --- packs --------------------------------------------------------------------------------------

# S3 costs 7 s of CPU per GB at 256 KiB objects, 1.2-1.6 at 16 MiB and more (PERF.md).
PACK_MAX_BYTES = 64 * MIB
# Bounds the directory of a pack of highly compressible data, which is held in memory and must fit
# one blob: 8,192 blobs of 256 KiB are 2 GiB of plain text and about 1.2 MiB of directory.
PACK_MAX_BLOBS = 8192

# --- shards ---------------------------------------------------------------------------------------

SHARD_TARGET_BYTES = 128 * KIB
SHARD_MAX_BYTES = 256 * KIB
# A file over this has its map (extents, hashes) in blobs of its own, one pair per so many bytes.
MAP_SPAN_BYTES = 64 * MIB
# An entry with more inline bytes than this moves its map to blobs too, so that a shard of few
# fragmented files stays below SHARD_MAX_BYTES.
ENTRY_INLINE_MAX_BYTES = 32 * KIB

# --- objects --------------------------------------------------------------------------------------

# Header of a sealed object. 1 TB of packs is some 16,000 references of about 120 bytes: 2 MB.
HEADER_MAX_BYTES = 64 * MIB
# Sealed body of a manifest: one shard reference per 128 KiB of entries, facts, run keys.
BODY_MAX_BYTES = 64 * MIB

# --- protocol ---------------------------------------------------------------------------------------

# Writer's and store's clock may differ this much before a commit is refused (DESIGN §4 "Time").
CLOCK_SKEW_MAX = timedelta(minutes=5)
# A cleaner spares what an open read run younger than this names.
READ_RUN_MAX_AGE = timedelta(days=7)

# --- pipeline ---------------------------------------------------------------------------------------

# Two to three threads on two cores were fastest; more only add memory (PERF.md).
WORKERS_DEFAULT = 3
QUEUE_ITEMS = 8
# Restore: ranges of one pack whose gap is at most this are fetched by one read (DESIGN §5).
FETCH_GAP_BYTES = 512 * KIB
# ... and one read is at most this large, so that the prefetcher's memory is bounded.
FETCH_MAX_BYTES = 4 * MIB
# ... and blobs of so much are planned together; what lies between them is at most as much again.
FETCH_BATCH_BYTES = 8 * MIB
# From a store that is not a disk a batch is larger: after many increments, every pack costs a request a batch.
PREFETCH_BATCH_BYTES = 64 * MIB
# Requests under way at a time to such a store, up to 4 MiB each: at 30 ms and 1 MiB, some 500 MB/s.
PREFETCH_REQUESTS = 16
# What was fetched ahead and not taken yet: in the spool, two batches of three readers with what lies between ...
PREFETCH_SPOOL_BYTES = 1024 * MIB
# ... in files that are given back as a whole; in memory, where there is no spool.
PREFETCH_SPOOL_FILE_BYTES = 64 * MIB
PREFETCH_MAX_BYTES = 32 * MIB

# --- PostgreSQL ---------------------------------------------------------------------------------------

PAGE_BYTES = 8192
# PostgreSQL splits relations into segments of 1 GiB; block numbers in checksums count across them.
RELATION_SEGMENT_BLOCKS = 131072
POSTGRES_VERSIONS = range(15, 19)
# Two connections read as fast as BASE_BACKUP sends; more help only where the server has cores or the network latency to
# spare (POSTGRES.md §7).
SQL_CONNECTIONS_DEFAULT = 2
