"""Makes a copy of an ELF program whose data segments are writable.

The wheel that carries PostgreSQL 18 was edited by patchelf so that ``pg_verifybackup``'s ``.dynamic`` section lies in a
segment the loader maps read-only: the loader crashes before ``main`` when it relocates that section. The flag is the
whole defect, so setting it mends the copy. Layout: ELF-64, little-endian (System V ABI, "Program Header").
"""

import struct
from pathlib import Path

PT_LOAD = 1
PF_X, PF_W = 1, 2


def copy_with_writable_data(source: Path, target: Path) -> None:
    """Copy an ELF-64 file with PF_W set on every loadable segment that is not executable; the copy is mode 0755.

    Raises ValueError if ``source`` is not a little-endian ELF-64 file.
    """
    image = bytearray(source.read_bytes())
    if image[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"not a little-endian ELF-64 file: {source}")
    (table,) = struct.unpack_from("<Q", image, 32)
    entry_bytes, entries = struct.unpack_from("<HH", image, 54)
    for position in range(table, table + entry_bytes * entries, entry_bytes):
        kind, flags = struct.unpack_from("<II", image, position)
        if kind == PT_LOAD and not flags & PF_X:
            struct.pack_into("<I", image, position + 4, flags | PF_W)
    target.write_bytes(image)
    target.chmod(0o755)
