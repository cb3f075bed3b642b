"""CRC32C of a file with holes: appending zeros costs time by the logarithm of their number.

A CRC is linear over GF(2): feeding *n* zero bytes to the register is multiplying it by the *n*-th power of one 32 × 32
bit matrix (Mark Adler's ``crc32_combine`` in zlib). POSTGRES.md §3.
"""

from __future__ import annotations

import crc32c

# Below this, feeding zeros (some 10 GB/s) is quicker than the matrices.
_ZEROS = bytes(64 * 1024)
_MASK = 0xFFFFFFFF
# Reflected Castagnoli polynomial (RFC 3720, appendix B.4).
_POLYNOMIAL = 0x82F63B78


def append(checksum: int, data: bytes | memoryview) -> int:
    """CRC32C of what *checksum* covers followed by *data*."""
    return crc32c.crc32c(data, checksum)


def append_zeros(checksum: int, length: int) -> int:
    """CRC32C of what *checksum* covers followed by *length* zero bytes."""
    if length <= len(_ZEROS):
        return append(checksum, _ZEROS[:length])
    register, power = checksum ^ _MASK, 0
    while length:
        if length & 1:
            register = _times(_power(power), register)
        length >>= 1
        power += 1
    return register ^ _MASK


def _times(matrix: tuple[int, ...], vector: int) -> int:
    total = 0
    for column in matrix:
        if vector & 1:
            total ^= column
        vector >>= 1
        if not vector:
            break
    return total


_powers: list[tuple[int, ...]] = []


def _power(number: int) -> tuple[int, ...]:
    """The matrix that feeds 2**number zero bytes, as columns. Threads may compute the same one; they agree."""
    while len(_powers) <= number:
        known = tuple(_powers)
        if known:
            last = known[-1]
            matrix = tuple(_times(last, column) for column in last)
        else:
            bit = (_POLYNOMIAL, *(1 << i for i in range(31)))
            for _ in range(3):  # one zero bit, squared three times: one zero byte
                bit = tuple(_times(bit, column) for column in bit)
            matrix = bit
        if len(_powers) == len(known):
            _powers.append(matrix)
    return _powers[number]
