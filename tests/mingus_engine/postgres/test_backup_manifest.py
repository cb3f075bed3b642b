"""The manifest's text: what is written is what PostgreSQL writes, and nothing hostile gets through the reader."""

import hashlib
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.errors import Damaged
from mingus_engine.postgres import backup_manifest
from mingus_engine.postgres.backup_manifest import ManifestFile, WalRange, generate, parse, scan
from tests.support.directories import make_directory
from tests.support.processes import unprivileged_user

# As PostgreSQL 15 wrote it, cut to two files.
BODY = b"""{ "PostgreSQL-Backup-Manifest-Version": 1,
"Files": [
{ "Path": "backup_label", "Size": 225, "Last-Modified": "2026-01-02 03:04:05 GMT", \
"Checksum-Algorithm": "CRC32C", "Checksum": "78563412" },
{ "Encoded-Path": "626173652fff", "Size": 0, "Last-Modified": "1970-01-01 00:00:00 GMT" }
],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "A/2000100" }
],
"""
FILES = (
    ManifestFile(b"backup_label", 225, 1767323045, "CRC32C", bytes.fromhex("78563412")),
    ManifestFile(b"base/\xff", 0, 0),
)
RANGES = (WalRange(1, 0x2000028, 0xA02000100),)


def sealed(body):
    return body + b'"Manifest-Checksum": "' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def test_the_text_is_what_postgres_writes():
    assert generate(FILES, RANGES, server_version=15, system_identifier=7) == sealed(BODY)
    assert FILES[0].crc32c == 0x12345678
    assert FILES[1].crc32c is None


def test_version_2_has_the_system_identifier():
    text = generate([], RANGES, server_version=18, system_identifier=(1 << 64) - 1)
    assert text.startswith(
        b'{ "PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": 18446744073709551615,\n"Files": [\n],\n'
    )
    assert parse(text).system_identifier == (1 << 64) - 1


def test_a_manifest_is_json():
    assert len(json.loads(generate(FILES, RANGES, server_version=18, system_identifier=7))["Files"]) == 2


paths = st.binary(min_size=1, max_size=40).filter(lambda path: b"\0" not in path)
files = st.builds(
    lambda path, size, mtime, crc: ManifestFile(
        path, size, mtime, "CRC32C" if crc is not None else "", crc.to_bytes(4, "little") if crc is not None else b""
    ),
    paths,
    st.integers(0, 1 << 40),
    st.integers(-(1 << 31), 1 << 33),
    st.none() | st.integers(0, (1 << 32) - 1),
)
lsns = st.integers(0, (1 << 64) - 1)
ranges = st.builds(WalRange, st.integers(1, (1 << 32) - 1), lsns, lsns)


@given(st.lists(files, max_size=5), st.lists(ranges, max_size=3), st.sampled_from([15, 16, 17, 18]), lsns)
def test_what_was_written_is_read_back(entries, needed, version, identifier):
    found = parse(generate(entries, needed, server_version=version, system_identifier=identifier))
    assert found.files == tuple(entries)
    assert found.wal_ranges == tuple(needed)
    assert (found.version, found.system_identifier) == ((2, identifier) if version >= 17 else (1, None))


def test_every_flipped_bit_and_every_cut_is_refused():
    text = sealed(BODY)
    for at in range(len(text)):
        flipped = bytearray(text)
        flipped[at] ^= 1
        with pytest.raises(Damaged, match="backup_manifest line"):
            parse(bytes(flipped))
        with pytest.raises(Damaged, match="backup_manifest line"):
            parse(text[:at])
    with pytest.raises(Damaged, match="something follows"):
        parse(text + b"\n")


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_fail_in_another_way(data):
    with pytest.raises(Damaged):
        parse(data)


LINE = b'{ "Encoded-Path": "626173652fff", "Size": 0, "Last-Modified": "1970-01-01 00:00:00 GMT" }'


@pytest.mark.parametrize(
    "hostile",
    [
        b"[" * 5000,
        b'{"Path": ' + b"[" * 8000,
        b'{"Path": "a", "Path": "b", "Size": 0}',
        b'{"Path": "a", "Size": -1}',
        b'{"Path": "a", "Size": true}',
        b'{"Path": "a", "Size": 1e3}',
        b'{"Path": "a", "Size": NaN}',
        b'{"Path": "a", "Size": ' + b"9" * 5000 + b"}",
        b'{"Path": "", "Size": 0}',
        b'{"Path": "a\\u0000", "Size": 0}',
        b'{"Path": "\\ud800", "Size": 0}',
        b'{"Path": 7, "Size": 0}',
        b'{"Encoded-Path": "zz", "Size": 0}',
        b'{"Path": "a", "Size": 0, "Last-Modified": "yesterday"}',
        b'{"Path": "a", "Size": 0, "Checksum-Algorithm": "CRC32C", "Checksum": "00"}',
        b'{"Path": "' + b"a" * 20_000 + b'", "Size": 0}',
        b'"text"',
        b"\xff\xfe",
        b"{} {}",
        b"{},\n{}",
    ],
)
def test_hostile_entries_are_refused_with_their_line(hostile):
    with pytest.raises(Damaged, match="line 4"):
        parse(sealed(BODY.replace(LINE, hostile)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"Timeline": 1', b'"Timeline": 0'),
        (b'"0/2000028"', b'"0"'),
        (b'"0/2000028"', b'"0/123456789"'),
        (b'Version": 1', b'Version": 3'),
        (b'Version": 1', b'Version": true'),
        (b'"Files": [', b'"Files": {'),
        (b'12" },\n', b'12" }\n'),
    ],
)
def test_other_hostile_parts_are_refused(old, new):
    assert old in BODY
    with pytest.raises(Damaged):
        parse(sealed(BODY.replace(old, new)))


def test_many_files_are_read_one_by_one():
    out = io.BytesIO()
    writer = backup_manifest.ManifestWriter(out.write, 18, 7)
    for number in range(20_000):
        writer.add(b"base/5/%d" % number, number, 0, number)
    writer.finish(RANGES)
    out.seek(0)
    count = 0

    def on_file(file):
        nonlocal count
        count += file.size == file.crc32c

    assert scan(out, on_file).files == ()
    assert count == 20_000


def test_servers_read_what_we_write_and_we_read_what_servers_write(pg, workspace):
    folder = make_directory(workspace / "b", owner=unprivileged_user(), mode=0o700)
    pg.tool("pg_basebackup", "-D", folder, "-X", "fetch", "-c", "fast", "--no-sync", "-d", pg.dsn())
    theirs = (folder / "backup_manifest").read_bytes()
    found = parse(theirs)
    identifier = pg.value("select system_identifier from pg_control_system()")
    ours = generate(found.files, found.wal_ranges, server_version=pg.version.major, system_identifier=identifier)
    assert ours == theirs
