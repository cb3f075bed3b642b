"""A reader of repository format 1, written from docs/FORMAT.md alone: it imports nothing of the product.

It proves that the text is enough. Usage::

    python independent_reader.py REPOSITORY KEY              list the snapshots and their files
    python independent_reader.py REPOSITORY KEY DIRECTORY    extract the newest snapshot of every source

KEY is a 32-byte key (hex or base64), a passphrase or an escrow text. Needs cryptography, zstandard and blake3.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
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
    if not condition:
        raise ValueError(what)


# --- §1 ---


def ulid(raw: bytes) -> str:
    number = int.from_bytes(raw, "big")
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def P(*parts: str | bytes) -> bytes:  # noqa: N802
    raw = [p.encode() if isinstance(p, str) else p for p in parts]
    return b"".join(struct.pack("<H", len(p)) + p for p in raw)


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(key)


def unseal(key: bytes, info: bytes, salt: bytes, commitment: bytes, sealed: bytes, aad: bytes, what: str) -> bytes:
    both = hkdf(key, salt, info, 64)
    need(hmac.compare_digest(both[32:], commitment), f"{what}: wrong key")
    return AESGCM(both[:32]).decrypt(bytes(12), sealed, aad)


def plain(form: bytes, limit: int = 4 * MIB) -> bytes:
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
    kind: str
    header: dict[str, Any]
    placement: dict[str, Any]
    header_raw: bytes
    signature: bytes
    before_body: bytes
    sealed: bytes


def envelope(raw: bytes, kind: str) -> Envelope:
    magic, version, zero, found, h, q, s = struct.unpack_from("<8sHH4sIII", raw)
    need((magic, version, zero, found) == (b"MINGUSOB", 1, 0, kind.encode()), f"not a {kind}")
    need(len(raw) == 28 + h + 64 + q + s, f"length of a {kind}")
    header_raw, signature, placement = raw[28 : 28 + h], raw[28 + h : 92 + h], raw[92 + h : 92 + h + q]
    before, sealed = raw[: 92 + h + q], raw[92 + h + q :]
    return Envelope(kind, json.loads(header_raw), json.loads(placement), header_raw, signature, before, sealed)


def verify(e: Envelope, public: bytes) -> None:
    signed = P("mingus/1 signature", struct.pack("<H", 1), e.kind) + e.header_raw
    Ed25519PublicKey.from_public_bytes(public).verify(e.signature, signed)


def key_bytes(text: str) -> bytes | None:
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

    def snapshots(self) -> Iterator[Snapshot]:
        for name in self.names("snapshots/"):
            m = re.fullmatch(rf"snapshots/([a-z0-9][a-z0-9-]{{0,62}})/({ULID})\.[0-9a-f]{{64}}", name)
            if m is None:
                continue
            e = envelope(self.whole(name), "SNAP")
            verify(e, self.public)
            need((e.header["source"], e.header["ulid"]) == (m[1], m[2]), f"{name}: swapped")
            yield Snapshot(self, name, e)


# --- §5, §6, §8 ---


@dataclass
class File:
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

    def _blob(self, run: str, number: int, at: int, length: int, kind: int) -> bytes:
        name, size = self._packs[run, number]
        need(at + length <= size, f"{name}: beyond its end")
        head = self.repository.range(name, 0, 64)
        magic, version, _, zero, n, raw_run, salt = struct.unpack("<8sHBBI16s32s", head)
        need((magic, version, zero, n, ulid(raw_run)) == (b"MINGUSPK", 1, 0, number, run), f"{name}: header")
        key = hkdf(bytes.fromhex(self.body["run_keys"][run]), salt, P("mingus/1", "MINGUSPK", "pack"), 32)
        aad = head[:11] + bytes([kind]) + head[12:32]
        form = AESGCM(key).decrypt(at.to_bytes(12, "little"), self.repository.range(name, at, length), aad)
        return plain(form)

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
                data = bytes(length)
                if not flags:
                    data = self._blob(runs[run], number, position, sealed, 1)[inside : inside + length]
                need(len(data) == length, f"{file.path!r}: short blob")
                yield data
                held += data
                while len(held) >= BLOCK or (held and at == file.size):
                    self._compare(held[:BLOCK], block_hashes[block * 16 : block * 16 + 16], file)
                    held, block = held[BLOCK:], block + 1
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
        """Lineage, first LSN and bytes of every log container."""
        for name, lineage, start, end, run, size in self._logs:
            yield lineage, start, self._log(name, lineage, start, end, run, size)

    def _log(self, name: str, lineage: str, start: int, end: int, run: str, size: int) -> Iterator[bytes]:
        raw = self.repository.whole(name)
        need(len(raw) == size and raw[:8] == b"MINGUSLG" and ulid(raw[16:32]) == run, f"{name}: header")
        need(struct.unpack_from("<QQ", raw, 64) == (start, end), f"{name}: range")
        info = P("mingus/1", "MINGUSLG", "log", self.source, lineage)
        aead = AESGCM(hkdf(bytes.fromhex(self.body["run_keys"][run]), raw[32:64], info, 32))

        def blob(at: int, length: int, kind: int) -> bytes:
            aad = raw[:11] + bytes([kind]) + raw[12:32] + struct.pack("<Q", start)
            return plain(aead.decrypt(at.to_bytes(12, "little"), raw[at : at + length], aad))

        (length,) = struct.unpack_from("<I", raw, size - 4)
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
        need(kind in (1, 2, 3) and zero == 0 and zeros == 0, "record of a shard")
        path, target, _ = take(p), take(t), take(x)
        found = list(struct.iter_unpack("<QIHHIIII", take(32 * extents)))
        yield File(path, kind, mode, uid, gid, size, mtime, target, found, take(16 * hashed), take(32 * maps), table)
    need(heap == len(raw), "bytes behind a shard")


def extract(snapshot: Snapshot, to: Path) -> None:
    """Write files and directories below *to* (links are listed only); refuses paths that lead out of it."""
    for file in snapshot.files():
        parts = file.path.split(b"/")
        need(all(part not in (b"", b".", b"..") for part in parts), f"{file.path!r}: leads out of the target")
        path = Path(to, *(part.decode("utf-8", "surrogateescape") for part in parts))
        if file.kind == 2:
            path.mkdir(parents=True, exist_ok=True)
        elif file.kind == 1:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:
                for data in snapshot.content(file):
                    out.write(data)


def main(root: str, key: str, to: str = "") -> None:
    repository = Repository(Path(root), key)
    newest: dict[str, Snapshot] = {}
    for snapshot in repository.snapshots():
        known = newest.get(snapshot.source)
        if known is None or snapshot.header["position"] >= known.header["position"]:
            newest[snapshot.source] = snapshot
        print(snapshot.source, snapshot.ulid, snapshot.header["kind"], snapshot.header["written_at"])
        if not to:
            for file in snapshot.files():
                print(f"  {'?-dl'[file.kind]}{file.mode:04o} {file.size:12} {file.path.decode('utf-8', 'replace')}")
    if to:
        for source, snapshot in newest.items():
            extract(snapshot, Path(to, source))


if __name__ == "__main__":
    main(*sys.argv[1:])
