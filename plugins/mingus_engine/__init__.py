"""MINGUS Backup & Recovery: the engine. Pure Python; knows nothing of Airflow, and works without it.

Glossary
    source      what is backed up (a PostgreSQL cluster); named by an id that never changes.
    repository  where backups are kept: a directory or an S3 prefix of immutable objects, sealed under its own keys.
    snapshot    one backup. It always restores as a full one, in one pass; its *manifest* is the commit point.
    run         one job that writes, archives logs or reads; has a key of its own.
    pack, blob  a file of sealed blobs; a blob is one compressed and sealed piece (data, shard, map).
    extent      which range of a file lies in which blob. Shards hold the entries of the files, in path order.
    epoch, slot the long-term key of a repository | a way to open it: environment key, passphrase, escrow key.
    proof       the record of a restore test, stored beside the snapshot it is about.

The path of a backup: back up (read once, seal, store, commit) → ship (copy bit for bit, seal the manifest under the
other repository's key) → verify (restore, start, check, record the proof) → restore. Each is one function of
``mingus_engine.jobs``; ``python -m mingus_engine`` is the command line over them.

Layers, from above: cli · jobs · sources, targets, repository · postgres · store, codec · settings, bounds, errors.

Not promised: that a backup is good before it was verified; that a lost key can be replaced.
"""

__version__ = "0.1.0"
