"""Bytes at rest: named immutable objects in a directory or an S3 bucket.

``base`` is the contract, ``opening`` makes a store from settings, ``probe`` finds out how one really behaves.
``local`` stands on ``folders`` (symlink-proof walks, durable folders), ``durable`` and ``unnamed`` (files without a
name until they are whole); ``s3`` on ``s3_client``, ``s3_errors`` and ``s3_listing``; ``bodies`` reads what is put.
``retrying``, ``throttled`` and ``faulty`` wrap any store and know none of them.

Promised: an object is stored whole and durable or not at all; a listing is complete or an error. Not promised: that
nobody else writes, that two stores order their clocks, that bytes stay good (verification L1 is for that).
"""
