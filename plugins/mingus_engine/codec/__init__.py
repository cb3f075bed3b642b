"""Bytes at rest: how values become bytes and bytes become values again. No I/O on stores, no protocol.

``plainjson``   strict, deterministic JSON of headers and bodies
``sealing``     key derivation (HKDF-SHA256), AES-256-GCM, key commitment
``blobs``       a blob's plain form: codec, length, payload
``containers``  sealed files of many blobs: packs and log containers
``directories`` what a pack holds: the sealed list at its end
``entries``     files, their extents and block hashes
``shards``      sorted runs of entries, cut where the content says

docs/FORMAT.md has the byte table of everything here. Everything read is hostile until it was opened: each decoder
checks lengths before it allocates and raises :class:`mingus_engine.errors.Damaged` naming what it read.
"""
