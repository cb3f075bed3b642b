"""Rescue: reads a repository of format 1 without MINGUS, needing nothing but this file, the repository and a key.

It is put into every repository, beside the text that it was written from (docs/FORMAT.md), and imports nothing of the
product. A repository in an object store is copied to a directory first, by any tool. Needs Python 3.11 and
`pip install cryptography zstandard blake3`.

    python rescue.py REPOSITORY list
    python rescue.py REPOSITORY verify SOURCE
    python rescue.py REPOSITORY restore SOURCE DIRECTORY

The key (32 bytes in hex or base64, a passphrase, or the escrow text) is taken from MINGUS_ESCROW_KEY,
BACKUP_ENCRYPTION_KEY or MINGUS_PASSPHRASE, else asked for.

A restored PostgreSQL cluster starts with `pg_ctl -D DIRECTORY start` of its own major version, as the user that owns
the files. Tablespaces are put beside it, into DIRECTORY.tablespaces.
"""

from __future__ import annotations

import argparse
import base64
import getpass
import hashlib
import hmac
import json
import os
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MIB = 1 << 20
SPAN = 64 * MIB
BLOCK = 64 * 1024
ULID = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def need(condition: bool, what: str) -> None:
    """Refuse what must not be."""
    if not condition:
        raise ValueError(what)


# --- §1 ---


def ulid(raw: bytes) -> str:
    """26 characters of 16 bytes."""
    number = int.from_bytes(raw, "big")
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def P(*parts: str | bytes) -> bytes:  # noqa: N802
    """P of the text."""
    raw = [p.encode() if isinstance(p, str) else p for p in parts]
    return b"".join(struct.pack("<H", len(p)) + p for p in raw)


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with SHA-256."""
    return HKDF(hashes.SHA256(), length, salt, info).derive(key)


def unseal(key: bytes, info: bytes, salt: bytes, commitment: bytes, sealed: bytes, aad: bytes, what: str) -> bytes:
    """The text inside a seal."""
    both = hkdf(key, salt, info, 64)
    need(hmac.compare_digest(both[32:], commitment), f"{what}: wrong key")
    return AESGCM(both[:32]).decrypt(bytes(12), sealed, aad)


def plain(form: bytes, limit: int = 4 * MIB) -> bytes:
    """The data of a plain form."""
    codec, length = struct.unpack_from("<BI", form)
    need(length <= limit and codec in (0, 1), "plain form")
    data = form[5:]
    if codec == 1:
        data = zstandard.ZstdDecompressor(max_window_size=8 * MIB).decompress(
            data, max_output_size=max(length, 1), allow_extra_data=False
        )
    need(len(data) == length, "length of a plain form")
    return data


# --- §3, §4 ---


@dataclass
class Envelope:
    """A small object, taken apart."""

    kind: str
    header: dict[str, Any]
    placement: dict[str, Any]
    header_raw: bytes
    signature: bytes
    before_body: bytes
    sealed: bytes


def envelope(raw: bytes, kind: str) -> Envelope:
    """Take an object of *kind* apart."""
    magic, version, zero, found, h, q, s = struct.unpack_from("<8sHH4sIII", raw)
    need((magic, version, zero, found) == (b"MINGUSOB", 1, 0, kind.encode()), f"not a {kind}")
    need(len(raw) == 28 + h + 64 + q + s, f"length of a {kind}")
    header_raw, signature, placement = raw[28 : 28 + h], raw[28 + h : 92 + h], raw[92 + h : 92 + h + q]
    before, sealed = raw[: 92 + h + q], raw[92 + h + q :]
    return Envelope(kind, json.loads(header_raw), json.loads(placement), header_raw, signature, before, sealed)


def verify(e: Envelope, public: bytes) -> None:
    """Check the installation's signature."""
    signed = P("mingus/1 signature", struct.pack("<H", 1), e.kind) + e.header_raw
    Ed25519PublicKey.from_public_bytes(public).verify(e.signature, signed)


def key_bytes(text: str) -> bytes | None:
    """The 32 bytes that *text* spells, if it does."""
    for decode in (bytes.fromhex, lambda t: base64.b64decode(t.replace("-", "+").replace("_", "/"), validate=True)):
        try:
            raw = decode(text.strip())
        except ValueError:
            continue
        if len(raw) == 32:
            return raw
    return None


def slot_private(slot: dict[str, Any], text: str, repository: str) -> bytes | None:
    """The private half, ``None`` when *text* is not what opens this slot."""
    if slot["kind"] == "escrow":
        letters = re.sub("[- \n]", "", text.upper().strip().removeprefix("MINGUS-ESCROW-1"))
        try:
            raw = base64.b32decode(letters + "=" * (-len(letters) % 8))
        except ValueError:
            return None
        good = len(raw) == 36 and hashlib.sha256(b"mingus escrow" + raw[:32]).digest()[:4] == raw[32:]
        private = raw[:32] if good else None
    else:
        wrap = slot["wrap"]
        salt = bytes.fromhex(wrap["salt"])
        if wrap["kdf"] == "hkdf":
            key = key_bytes(text)
        else:
            need(wrap["memory_kib"] <= MIB and wrap["iterations"] <= 64 and wrap["lanes"] <= 64, "Argon2id cost")
            key = Argon2id(
                salt=salt, length=32, iterations=wrap["iterations"], lanes=wrap["lanes"], memory_cost=wrap["memory_kib"]
            ).derive(text.encode())
        if key is None:
            return None
        info = P("mingus/1", "slot", repository, slot["kind"])
        sealed, commitment = bytes.fromhex(wrap["sealed"]), bytes.fromhex(wrap["commitment"])
        try:
            private = unseal(key, info, salt, commitment, sealed, bytes.fromhex(slot["public"]), slot["name"])
        except ValueError:
            return None
    if (
        private is None
        or X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw().hex() != slot["public"]
    ):
        return None
    return private


class Repository:
    """A repository in a directory, opened with *key*."""

    def __init__(self, root: Path, key: str) -> None:
        self.root = root
        found = []
        for name in self.names("config/"):
            e = envelope(self.whole(name), "CONF")
            verify(e, bytes.fromhex(e.header["signing_public"]))
            need(e.header["format"] == 1 and not e.header["features"], "too new")
            found.append((e.header["generation"], e.header["ulid"], e))
        _, _, self.config = max(found, key=lambda f: f[:2])
        header = self.config.header
        self.id, self.public = header["repository"], bytes.fromhex(header["signing_public"])
        for slot in header["slots"]:
            private = slot_private(slot, key, self.id)
            if private is not None:
                self._slot, self._private = slot, X25519PrivateKey.from_private_bytes(private)
                break
        else:
            raise ValueError("the key opens no slot")
        epoch = header["epoch"]
        if header["previous"]:
            epoch = envelope(self.whole(header["previous"]), "CONF").header["epoch"]
        mac_key = hkdf(self.epoch_key(epoch), b"", P("mingus/1", "config mac"), 32)
        mac = hmac.digest(mac_key, self.config.header_raw, "sha256")
        need(hmac.compare_digest(mac.hex(), self.config.placement["mac"]), "MAC of the configuration")

    def names(self, prefix: str) -> list[str]:
        files = sorted(p for p in (self.root / prefix).rglob("*") if p.is_file())
        return [str(p.relative_to(self.root)) for p in files]

    def whole(self, name: str) -> bytes:
        raw = (self.root / name).read_bytes()
        sha = re.search(r"\.([0-9a-f]{64})(\.|$)", name)
        need(sha is None or hashlib.sha256(raw).hexdigest() == sha[1], f"{name}: SHA-256")
        return raw

    def range(self, name: str, at: int, length: int) -> bytes:
        with (self.root / name).open("rb") as file:
            file.seek(at)
            raw = file.read(length)
        need(len(raw) == length, f"{name}: too short")
        return raw

    def epoch_key(self, epoch: str) -> bytes:
        suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
        info = P("mingus/1", "key", "epoch", self.id, epoch, self._slot["name"], bytes.fromhex(self._slot["public"]))
        for name in self.names(f"keys/{epoch}/"):
            if not name.split("/")[2].startswith(self._slot["name"] + "."):
                continue
            e = envelope(self.whole(name), "EKEY")
            verify(e, self.public)
            try:
                key = suite.decrypt(bytes.fromhex(e.header["sealed"]), self._private, info)
            except InvalidTag:
                continue
            commitment = hkdf(key, b"", P("mingus/1", "key commitment"), 32)
            need(commitment.hex() == self.config.header["epochs"][epoch], "commitment of the epoch key")
            return key
        raise ValueError(f"no key of epoch {epoch} for slot {self._slot['name']}")

    def body(self, e: Envelope, what: str) -> dict[str, Any]:
        need(e.placement["repository"] == self.id, f"{what}: of another repository")
        info = P("mingus/1", "seal", self.id, e.kind, e.header["source"], e.header["ulid"])
        salt, commitment = bytes.fromhex(e.placement["salt"]), bytes.fromhex(e.placement["commitment"])
        form = unseal(self.epoch_key(e.placement["epoch"]), info, salt, commitment, e.sealed, e.before_body, what)
        body = plain(form, 64 * MIB)
        need(hashlib.sha256(body).hexdigest() == e.header["digest"], f"{what}: digest")
        found: dict[str, Any] = json.loads(body)
        return found

    def log_key(self, source: str, run: str) -> bytes:
        """The key of a writer of log containers that no manifest at hand names."""
        for name in self.names(f"logs/{source}/keys/"):
            if name.startswith(f"logs/{source}/keys/{run}."):
                e = envelope(self.whole(name), "LKEY")
                verify(e, self.public)
                need((e.header["source"], e.header["ulid"]) == (source, run), f"{name}: swapped")
                return bytes.fromhex(self.body(e, name)["run_key"])
        raise ValueError(f"no key of the log writer {run}")

    def snapshots(self, source: str = "") -> Iterator[Snapshot]:
        """Those of *source*, or all; one that is damaged is named on stderr."""
        for name in self.names(f"snapshots/{source}/" if source else "snapshots/"):
            try:
                yield from self._snapshot(name)
            except (ValueError, KeyError, TypeError, InvalidTag, InvalidSignature) as error:
                print(f"damaged: {name}: {type(error).__name__} {error}", file=sys.stderr)

    def _snapshot(self, name: str) -> Iterator[Snapshot]:
        m = re.fullmatch(rf"snapshots/([a-z0-9][a-z0-9-]{{0,62}})/({ULID})\.[0-9a-f]{{64}}", name)
        if m is not None:
            e = envelope(self.whole(name), "SNAP")
            verify(e, self.public)
            need((e.header["source"], e.header["ulid"]) == (m[1], m[2]), f"{name}: swapped")
            yield Snapshot(self, name, e)


# --- §5, §6, §8 ---


@dataclass
class File:
    """One entry of a shard."""

    path: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: bytes
    extents: list[tuple[int, ...]]
    hashes: bytes
    maps: bytes
    runs: list[str]


class Snapshot:
    """One snapshot; ``files`` and ``content`` read it."""

    def __init__(self, repository: Repository, name: str, e: Envelope) -> None:
        self.repository, self.name, self.header = repository, name, e.header
        self.source, self.ulid = e.header["source"], e.header["ulid"]
        self.body = repository.body(e, name)
        put = e.placement["pack_put_by"]
        self._packs = {}
        for i, (run, number, size, sha) in enumerate(e.header["packs"]):
            tail = f".{put[str(i)]}" if str(i) in put else ""
            of = e.header["runs"][run]
            self._packs[of, number] = f"packs/{self.source}/{of}/{number}.{sha}{tail}", size
        put = e.placement["log_put_by"]
        self._logs = []
        for i, (lineage, start, end, run, size, sha) in enumerate(e.header["logs"]):
            tail = f".{put[str(i)]}" if str(i) in put else ""
            name = f"logs/{self.source}/{lineage}/{start:016X}-{end:016X}.{sha}{tail}"
            self._logs.append((name, lineage, start, end, run, size))
        self._hash_key = bytes.fromhex(self.body["hash_key"])
        self._opened: dict[tuple[str, int], tuple[bytes, AESGCM]] = {}
        self._last: tuple[tuple[str, int, int], bytes] = (("", 0, 0), b"")  # small files beside each other share it

    def _pack(self, run: str, number: int) -> tuple[bytes, AESGCM]:
        if (run, number) not in self._opened:
            name, _ = self._packs[run, number]
            head = self.repository.range(name, 0, 64)
            magic, version, _, zero, n, raw_run, salt = struct.unpack("<8sHBBI16s32s", head)
            need((magic, version, zero, n, ulid(raw_run)) == (b"MINGUSPK", 1, 0, number, run), f"{name}: header")
            key = hkdf(self._run_key(run), salt, P("mingus/1", "MINGUSPK", "pack"), 32)
            self._opened[run, number] = head, AESGCM(key)
        return self._opened[run, number]

    def _run_key(self, run: str) -> bytes:
        known = self.body["run_keys"].get(run)
        return bytes.fromhex(known) if known else self.repository.log_key(self.source, run)

    def _blob(self, run: str, number: int, at: int, length: int, kind: int) -> bytes:
        name, size = self._packs[run, number]
        need(at + length <= size, f"{name}: beyond its end")
        head, aead = self._pack(run, number)
        aad = head[:11] + bytes([kind]) + head[12:32]
        return plain(aead.decrypt(at.to_bytes(12, "little"), self.repository.range(name, at, length), aad))

    def files(self) -> Iterator[File]:
        last = None
        for first, run, number, at, length, digest in self.body["shards"]:
            raw = self._blob(run, number, at, length, 2)
            need(blake3(raw, key=self._hash_key).hexdigest() == digest, "digest of a shard")
            for i, file in enumerate(_shard(raw)):
                need(i > 0 or file.path.hex() == first, "first path of a shard")
                need(last is None or file.path > last, "order of paths")
                last = file.path
                yield file

    def content(self, file: File) -> Iterator[bytes]:
        """The bytes of *file* in pieces; every block with a known hash is compared."""
        at = 0
        spans = [(file.extents, file.runs, file.hashes)] if not file.maps else self._maps(file)
        for extents, runs, block_hashes in spans:
            held = b""
            block = 0
            for offset, length, run, flags, number, position, sealed, inside in extents:
                need(offset == at and length > 0 and flags <= 1, f"{file.path!r}: extent at {offset}")
                at += length
                pieces: Iterator[bytes]
                if flags:
                    pieces = (bytes(min(BLOCK, length - i)) for i in range(0, length, BLOCK))
                else:
                    if self._last[0] != (runs[run], number, position):
                        self._last = (runs[run], number, position), self._blob(runs[run], number, position, sealed, 1)
                    pieces = iter([self._last[1][inside : inside + length]])
                done = offset
                for data in pieces:
                    done += len(data)
                    yield data
                    held += data
                    while len(held) >= BLOCK or (held and done == file.size):
                        self._compare(held[:BLOCK], block_hashes[block * 16 : block * 16 + 16], file)
                        held, block = held[BLOCK:], block + 1
                need(done == at, f"{file.path!r}: short blob")
            need(not held and block * 16 == len(block_hashes), f"{file.path!r}: number of hashes")
        need(at == file.size, f"{file.path!r}: size")

    def _compare(self, data: bytes, expected: bytes, file: File) -> None:
        need(expected in (bytes(16), blake3(data, key=self._hash_key).digest(16)), f"{file.path!r}: block hash")

    def _maps(self, file: File) -> Iterator[tuple[list[tuple[int, ...]], list[str], bytes]]:
        places = [(file.runs[run], n, at, size) for run, _, n, at, size in struct.iter_unpack("<HHIII", file.maps)]
        for extents_at, hashes_at in zip(places[::2], places[1::2], strict=True):
            raw = self._blob(*extents_at, 3)
            version, runs, count = struct.unpack_from("<HHI", raw)
            need(version == 1 and len(raw) == 8 + 16 * runs + 32 * count, "extents blob")
            table = [ulid(raw[8 + 16 * i : 24 + 16 * i]) for i in range(runs)]
            yield list(struct.iter_unpack("<QIHHIIII", raw[8 + 16 * runs :])), table, self._blob(*hashes_at, 4)

    def logs(self) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        """Lineage, first LSN and bytes of every log container that the snapshot itself needs."""
        for name, lineage, start, end, run, size in self._logs:
            yield lineage, start, self._log(name, lineage, start, end, run, size)

    def archive(self, lineage: str) -> Iterator[tuple[str, int, int, Iterator[bytes]]]:
        """Lineage, range and bytes of every log container of the same timeline that the repository has."""
        for name in self.repository.names(f"logs/{self.source}/{lineage.rpartition('/')[0]}/"):
            m = re.fullmatch(r"logs/[^/]+/(.+)/([0-9A-F]{16})-([0-9A-F]{16})\.[0-9a-f]{64}(\..*)?", name)
            if m is not None:
                start, end = int(m[2], 16), int(m[3], 16)
                size = (self.repository.root / name).stat().st_size
                yield m[1], start, end, self._log(name, m[1], start, end, "", size)

    def _log(self, name: str, lineage: str, start: int, end: int, run: str, size: int) -> Iterator[bytes]:
        head = self.repository.range(name, 0, 80)
        need(head[:8] == b"MINGUSLG" and (not run or ulid(head[16:32]) == run), f"{name}: header")
        need(struct.unpack_from("<QQ", head, 64) == (start, end), f"{name}: range")
        info = P("mingus/1", "MINGUSLG", "log", self.source, lineage)
        aead = AESGCM(hkdf(self._run_key(ulid(head[16:32])), head[32:64], info, 32))

        def blob(at: int, length: int, kind: int) -> bytes:
            aad = head[:11] + bytes([kind]) + head[12:32] + struct.pack("<Q", start)
            return plain(aead.decrypt(at.to_bytes(12, "little"), self.repository.range(name, at, length), aad))

        (length,) = struct.unpack("<I", self.repository.range(name, size - 4, 4))
        directory = json.loads(blob(size - 4 - length, length, 255))
        need((directory["lineage"], directory["start"], directory["end"]) == (lineage, start, end), f"{name}: swapped")
        digest, total = blake3(), 0
        for at, sealed, expected in directory["blobs"]:
            data = blob(at, sealed, 1)
            need(len(data) == expected, f"{name}: blob at {at}")
            digest.update(data)
            total += len(data)
            yield data
        need((total, digest.hexdigest()) == (directory["length"], directory["digest"]), f"{name}: digest")


def _shard(raw: bytes) -> Iterator[File]:
    version, runs, count = struct.unpack_from("<HHI", raw)
    need(version == 1, "version of a shard")
    table = [ulid(raw[8 + 16 * i : 24 + 16 * i]) for i in range(runs)]
    record, heap = 8 + 16 * runs, 8 + 16 * runs + 52 * count

    def take(length: int) -> bytes:
        nonlocal heap
        heap += length
        need(heap <= len(raw), "heap of a shard")
        return raw[heap - length : heap]

    for i in range(count):
        kind, zero, p, t, x, mode, uid, gid, size, mtime, extents, hashed, maps, zeros = struct.unpack_from(
            "<BBHHHIIIQqIIII", raw, record + 52 * i
        )
        need(kind in range(1, 7) and zero == 0 and zeros == 0, "record of a shard")
        path, target, _ = take(p), take(t), take(x)
        found = list(struct.iter_unpack("<QIHHIIII", take(32 * extents)))
        yield File(path, kind, mode, uid, gid, size, mtime, target, found, take(16 * hashed), take(32 * maps), table)
    need(heap == len(raw), "bytes behind a shard")


def inside(root: Path, path: bytes) -> Path:
    """*path* below *root*; one that leads out of it is refused."""
    parts = path.split(b"/")
    need(all(part not in (b"", b".", b"..") and b"\0" not in part for part in parts), f"{path!r}: leads out")
    return Path(root, *(os.fsdecode(part) for part in parts))


def extract(snapshot: Snapshot, to: Path, tablespaces: Path | None = None) -> None:
    """Write all files and directories below the new directory *to*, ``global/pg_control`` as the last.

    Symbolic links are not made but for those of tablespaces, whose files go to *tablespaces*, and of snapshots of
    files, after all else. Of these files also modes and times are restored; owners, devices and extended attributes
    are not, and other names of a file become copies.
    """
    if snapshot.header["kind"].startswith("files"):
        _extract_tree(snapshot, to)
        return
    tablespaces = tablespaces or to.with_name(to.name + ".tablespaces")
    to.mkdir(mode=0o700, parents=True)
    last: File | None = None
    for file in snapshot.files():
        path = inside(to, file.path)
        if file.kind == 2:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif file.kind == 3 and re.fullmatch(rb"pg_tblspc/[0-9]+", file.path):
            place = (tablespaces / path.name).absolute()
            place.mkdir(mode=0o700, parents=True)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.symlink_to(place)
        elif file.path == b"global/pg_control":
            last = file
        elif file.kind == 1 and file.path not in LEFT_OUT:
            write(path, snapshot.content(file))
    if last is not None:
        _relocate(to, tablespaces)
        _write_wal(snapshot, to)
        os.sync()
        write(inside(to, last.path), snapshot.content(last))
        os.sync()


def _extract_tree(snapshot: Snapshot, to: Path) -> None:
    to.mkdir(mode=0o700, parents=True)
    for file in snapshot.files():
        path = inside(to, file.path)
        if file.kind == 2:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif file.kind == 1:
            write(path, snapshot.content(file))
            path.chmod(file.mode)
            os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
        elif file.kind != 3:
            print("left out, neither file nor directory nor link:", file.path)
    # From the end, so that what is in a directory comes before its mode, and links after all that is written.
    for file in reversed([file for file in snapshot.files() if file.kind in (2, 3)]):
        path = inside(to, file.path)
        if file.kind == 3:
            path.symlink_to(os.fsdecode(file.target))
        else:
            path.chmod(file.mode)
        os.utime(path, ns=(file.mtime_ns, file.mtime_ns), follow_symlinks=False)


# Of the server that was backed up: they would make the restored one a standby, or belong to a dead process.
LEFT_OUT = {b"standby.signal", b"recovery.signal", b"postmaster.pid", b"postmaster.opts"}


def write(path: Path, chunks: Iterator[bytes]) -> None:
    """A new file, for its owner only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("xb") as out:
        path.chmod(0o600)
        out.writelines(chunks)


def _relocate(to: Path, tablespaces: Path) -> None:
    """The server makes its links from this file at the first start: name the new places."""
    path = to / "tablespace_map"
    if path.exists():
        lines = [line.split(b" ", 1)[0] for line in path.read_bytes().split(b"\n") if line]
        new = [b"%s %s\n" % (oid, os.fsencode((tablespaces / os.fsdecode(oid)).absolute())) for oid in lines]
        path.write_bytes(b"".join(new))


def _write_wal(snapshot: Snapshot, to: Path) -> None:
    """All WAL from the start of the snapshot on, as far as it goes without a gap: recovery goes to its end."""
    facts = snapshot.body["facts"]
    size, timeline = int(facts["wal_segment_bytes"]), int(facts["timeline"])
    high, low = str(facts["start_lsn"]).split("/")
    at = (int(high, 16) << 32 | int(low, 16)) // size * size
    wal = to / "pg_wal"
    (wal / "archive_status").mkdir(mode=0o700, parents=True, exist_ok=True)
    found = [log for log in snapshot.archive(f"{facts['system_id']}/{timeline}/x") if not log[0].endswith("history")]
    while True:
        pieces = sorted((log for log in found if at <= log[1] < at + size), key=lambda log: (log[1], -log[2]))
        end = at
        name = f"{timeline:08X}{at >> 32:08X}{at % (1 << 32) // size:08X}"
        for _, start, stop, chunks in pieces:
            if start <= end < stop:
                with (wal / name).open("r+b" if end > at else "w+b") as out:
                    out.truncate(size)  # what is not written reads as zeros, as in a segment of the server
                    out.seek(start - at)
                    out.writelines(chunks)
                (wal / name).chmod(0o600)
                end = stop
        if end < at + size:
            break
        at = end
    stop_high, stop_low = str(facts["stop_lsn"]).split("/")
    need(end >= (int(stop_high, 16) << 32 | int(stop_low, 16)), "WAL that the snapshot needs is missing")
    for lineage, _, chunks in snapshot.logs():
        if lineage.endswith("/history"):
            write(wal / f"{int(lineage.split('/')[1]):08X}.history", chunks)


def redis_hints(to: Path) -> Iterator[str]:
    """How to start a Redis on what was restored: one that looks for another kind of file is empty, without a word."""
    for folder in [to, *sorted(path for path in to.glob("shard-*") if path.is_dir())]:
        if (folder / "dump.rdb").exists():
            yield f"redis-server --dir {folder.absolute()} --dbfilename dump.rdb --appendonly no"
        for manifest in folder.glob("*/*.manifest"):
            names = f"--appenddirname {manifest.parent.name} --appendfilename {manifest.name[: -len('.manifest')]}"
            yield f"redis-server --dir {folder.absolute()} --appendonly yes {names}"


def verify_all(snapshot: Snapshot) -> int:
    """Read everything that the snapshot needs; the plain bytes read."""
    total = 0
    for file in snapshot.files():
        if file.kind == 1:
            total += sum(map(len, snapshot.content(file)))
    return total + sum(len(chunk) for _, _, chunks in snapshot.logs() for chunk in chunks)


def find(repository: Repository, source: str, prefix: str) -> Snapshot:
    """The newest snapshot of *source*, or the one whose ULID begins with *prefix*."""
    found = [s for s in repository.snapshots(source) if s.ulid.startswith(prefix.upper())]
    need(bool(found) and (not prefix or len({s.ulid for s in found}) == 1), f"{len(found)} snapshots {prefix!r}")
    return max(found, key=lambda s: (s.header["position"], s.ulid))


def main(arguments: list[str], key: str = "") -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="Read a MINGUS repository of format 1 without MINGUS.")
    parser.add_argument("repository", type=Path, help="its directory")
    parser.add_argument("--snapshot", default="", help="beginning of its ULID; default: the newest")
    parser.add_argument(
        "--fingerprint", default="", help="of the installation, from the escrow sheet: refuse any other"
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="sources and snapshots")
    for verb, text in (("verify", "read everything"), ("restore", "write it into a new directory")):
        one = verbs.add_parser(verb, help=text)
        one.add_argument("source")
        if verb == "restore":
            one.add_argument("directory", type=Path)
    args = parser.parse_args(arguments)
    names = ("MINGUS_ESCROW_KEY", "BACKUP_ENCRYPTION_KEY", "MINGUS_PASSPHRASE")
    known = next((os.environ[name] for name in names if os.environ.get(name)), "")
    repository = Repository(args.repository, key or known or getpass.getpass("key, passphrase or escrow text: "))
    fingerprint = hashlib.sha256(repository.public).hexdigest()
    need(args.fingerprint.lower() in ("", fingerprint), f"the installation is {fingerprint}")
    print("installation", fingerprint)
    if args.verb == "list":
        for snapshot in sorted(repository.snapshots(), key=lambda s: (s.source, s.header["position"])):
            print(snapshot.source, snapshot.ulid, snapshot.header["kind"], snapshot.header["written_at"])
        return
    snapshot = find(repository, args.source, args.snapshot)
    print("snapshot", snapshot.ulid, snapshot.header["kind"], snapshot.header["written_at"])
    if args.verb == "verify":
        print("good:", verify_all(snapshot), "bytes")
    else:
        extract(snapshot, args.directory)
        print("restored to", args.directory)
        for hint in redis_hints(args.directory):
            print("start it with:", hint)


if __name__ == "__main__":
    main(sys.argv[1:])
