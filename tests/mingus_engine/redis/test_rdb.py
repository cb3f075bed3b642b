"""The walk against real servers: it finds what they have, and what it gives they take."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.errors import Damaged
from mingus_engine.redis.rdb import Aux, Function, Item, Key, ModuleAux, RdbWalk, Resize, dump_payload
from mingus_engine.redis.rdb_format import crc64
from tests.support.fixtures import MakeRedis
from tests.support.redis import RedisServer
from tests.support.redis_data import LARGE_BYTES, LIBRARY, fill_every_encoding

MANY = 1 << 30


def pieces(data: bytes, size: int) -> Iterator[memoryview]:
    for at in range(0, len(data), size):
        yield memoryview(data)[at : at + size]


def walk(data: bytes, size: int = 256 * 1024, values: int = MANY) -> list[Item]:
    walking = RdbWalk(pieces(data, size), "the RDB", value_max_bytes=values)
    found = list(walking)
    assert walking.facts is not None
    assert walking.facts.bytes == walking.walked_bytes
    return found


def keys(items: list[Item]) -> list[Key]:
    return [item for item in items if isinstance(item, Key)]


def saved(server: RedisServer) -> bytes:
    server.execute("SAVE")
    return (server.directory / "dump.rdb").read_bytes()


def rdb(body: bytes, magic: bytes = b"REDIS0012", *, checksum: bool = True) -> bytes:
    body = magic + body + b"\xff"
    return body + (crc64(body) if checksum else 0).to_bytes(8, "little")


def text(value: bytes) -> bytes:
    return bytes([0x40 | len(value) >> 8, len(value) & 0xFF]) + value


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru", "allkeys-lfu"])
def test_a_real_rdb_walks_to_what_the_server_has_and_restores_to_the_same(make_redis: MakeRedis, policy: str) -> None:
    origin, copy = make_redis(maxmemory_policy=policy), make_redis(maxmemory_policy=policy)
    count = fill_every_encoding(origin)
    found = walk(saved(origin))
    alive = [key for key in keys(found) if key.name != b"expired"]
    assert len(alive) == count
    for database in {key.database for key in alive}:
        with origin.client(database) as there, copy.client(database) as here:
            of_it = [key for key in alive if key.database == database]
            asked = there.pipeline(transaction=False)
            for key in of_it:
                asked.type(key.name)
                asked.execute_command("PEXPIRETIME", key.name)
            answers = asked.execute()
            assert answers[::2] == [key.type_name.encode() for key in of_it]
            assert answers[1::2] == [key.expire_ms for key in of_it]
            restored = here.pipeline(transaction=False)
            for key in of_it:
                assert key.value is not None
                extra = ["IDLETIME", key.idle_s] if key.idle_s >= 0 else []
                extra = ["FREQ", key.frequency] if key.frequency >= 0 else extra
                payload = dump_payload(key.type, key.value, 10)
                restored.execute_command("RESTORE", key.name, max(0, key.expire_ms), payload, "ABSTTL", *extra)
            restored.execute()
    origin.execute("DEL", "expired", database=3)
    assert copy.execute("DEBUG", "DIGEST") == origin.execute("DEBUG", "DIGEST")
    assert (max(key.idle_s for key in alive) >= 0) == (policy == "allkeys-lru")
    assert (max(key.frequency for key in alive) >= 0) == (policy == "allkeys-lfu")
    assert [item.code for item in found if isinstance(item, Function)] == [LIBRARY]
    assert Resize(3, 502, 502) in found
    assert Aux(b"redis-ver", b"7.0.15") in found


def test_however_an_rdb_is_cut_it_walks_to_the_same(make_redis: MakeRedis) -> None:
    server = make_redis()
    fill_every_encoding(server)
    data = saved(server)
    whole = walk(data)
    for size in (1 << 30, 65537, 4093):
        assert walk(data, size) == whole
    without = walk(data, values=0)
    assert [key._replace(value=None) for key in keys(whole)] == keys(without)


def test_of_large_values_only_those_that_may_be_held_are_given(make_redis: MakeRedis) -> None:
    server = make_redis()
    fill_every_encoding(server)
    found = {key.name: key for key in keys(walk(saved(server), 50000, LARGE_BYTES // 2))}
    assert found[b"large:plain"].value is None
    assert found[b"large:plain"].size > LARGE_BYTES
    assert found[b"string:32-bits"].value is not None


def test_an_expired_key_is_walked_and_says_when_it_expired(make_redis: MakeRedis) -> None:
    server = make_redis()
    fill_every_encoding(server)
    (expired,) = (key for key in keys(walk(saved(server))) if key.name == b"expired")
    assert 0 < expired.expire_ms < 1000 * (1 + int(server.execute("TIME")[0]))


def test_without_a_checksum_the_walk_reads_to_the_end_and_says_so(make_redis: MakeRedis) -> None:
    server = make_redis(rdbchecksum="no")
    server.fill(10)
    walking = RdbWalk([saved(server)])
    assert len(keys(list(walking))) == 10
    assert walking.facts is not None
    assert not walking.facts.checksum


# -- encodings that Redis 7.0 reads and does not write ---------------------------------------------------------------


def ziplist(*entries: bytes) -> bytes:
    body, before = b"", 0
    for entry in entries:
        whole = bytes([before, len(entry)]) + entry
        body += whole
        before = len(whole)
    return struct.pack("<IIH", 10 + len(body) + 1, 10 + len(body) - before, len(entries)) + body + b"\xff"


OLDER = {
    "list:1": (1, b"\x02" + text(b"a") + b"\xc0\x05", ["LRANGE", "0", "-1"], [b"a", b"5"]),
    "zset:3": (3, b"\x02" + text(b"a") + b"\x031.5" + text(b"b") + b"\xfe", ["ZRANGE", "0", "-1", "WITHSCORES"],
               [b"a", b"1.5", b"b", b"inf"]),
    "hash:9": (9, text(b"\x01\x01k\x03\x00abc\xff"), ["HGETALL"], {b"k": b"abc"}),
    "list:10": (10, text(ziplist(b"a", b"bc")), ["LRANGE", "0", "-1"], [b"a", b"bc"]),
    "zset:12": (12, text(ziplist(b"a", b"1")), ["ZRANGE", "0", "-1", "WITHSCORES"], [b"a", b"1"]),
    "hash:13": (13, text(ziplist(b"k", b"v")), ["HGETALL"], {b"k": b"v"}),
    "list:14": (14, b"\x02" + text(ziplist(b"a")) + text(ziplist(b"b")), ["LRANGE", "0", "-1"], [b"a", b"b"]),
}  # fmt: skip


def test_encodings_of_older_servers_are_walked_as_the_server_reads_them(make_redis: MakeRedis) -> None:
    body = b"".join(bytes([kind]) + text(name.encode()) + value for name, (kind, value, _, _) in OLDER.items())
    body = b"\xfe\x00\xfb\x07\x01" + b"\xfd" + (2_000_000_000).to_bytes(4, "little") + b"\x00\x01x\x01y" + body
    data = rdb(body, b"REDIS0007")
    server, copy = make_redis(start=False), make_redis()
    (server.directory / "dump.rdb").write_bytes(data)
    server.start()
    for found in (walk(data), walk(data, 1)):
        assert [(key.name.decode(), key.type) for key in keys(found)] == [
            ("x", 0), *((name, kind) for name, (kind, *_) in OLDER.items())
        ]  # fmt: skip
        assert keys(found)[0].expire_ms == 2_000_000_000_000 == server.execute("PEXPIRETIME", "x")
    for key in keys(walk(data))[1:]:
        command, expected = OLDER[key.name.decode()][2:]
        assert key.value is not None
        copy.execute("RESTORE", key.name, "0", dump_payload(key.type, key.value, 7))
        for one in (server, copy):
            assert one.execute(command[0], key.name, *command[1:]) == expected


def test_a_stream_of_redis_5_is_walked_and_restored(make_redis: MakeRedis) -> None:
    """Type 15 is type 19 without the ids and counts that 7.0 added."""
    server = make_redis()
    server.execute("XADD", "s", "5-1", "field", "value")
    server.execute("XGROUP", "CREATE", "s", "group", "0")
    server.execute("XREADGROUP", "GROUP", "group", "one", "STREAMS", "s", ">")
    (key,) = keys(walk(saved(server)))
    assert key.type == 19
    assert key.value is not None
    newer = b"\x01\x05\x01" + b"\x05\x01\x00\x00\x01"  # length, last id; first id, deleted id, added
    at = key.value.index(newer)
    group = key.value.index(b"\x05group\x05\x01\x01")
    older = key.value[: at + 3] + key.value[at + len(newer) : group + 8] + key.value[group + 9 :]
    for size in (1, 4096):
        (found,) = keys(walk(rdb(b"\x0f\x01s" + older, b"REDIS0009"), size))
        assert found.value == older
    server.execute("RESTORE", "t", "0", dump_payload(15, older, 9))
    assert server.execute("XPENDING", "t", "group")["pending"] == 1


# -- encodings of newer servers --------------------------------------------------------------------------------------

DAY_MS = struct.pack("<q", 1_900_000_000_000)
STREAM_3 = (
    b"\x01" + text(bytes(16)) + text(b"listpack") + b"\x01\x05\x01\x05\x01\x00\x00\x01"
    b"\x01" + text(b"group") + b"\x05\x01\x01" + b"\x01" + bytes(16) + DAY_MS + b"\x01"
    b"\x01" + text(b"one") + DAY_MS + DAY_MS + b"\x01" + bytes(16)
)  # fmt: skip
MODULE = (
    b"\x81" + (0x1234 << 10 | 1).to_bytes(8, "big") + b"\x01\x05\x02\x80\x00\x00\x01\x00\x03abcd\x04abcdefgh\x05"
    + text(b"part") + b"\x00"
)  # fmt: skip
NEWER = {
    (b"REDIS0011", 20): text(b"a listpack"),
    (b"REDIS0011", 21): STREAM_3,
    (b"REDIS0012", 22): b"\x02\x00" + text(b"f") + text(b"v") + b"\x81" + bytes(8) + text(b"g") + text(b"w"),
    (b"REDIS0012", 23): text(b"a listpack"),
    (b"REDIS0012", 24): DAY_MS + b"\x02\x01" + text(b"f") + text(b"v") + b"\x00" + text(b"g") + text(b"w"),
    (b"REDIS0012", 25): DAY_MS + text(b"a listpack"),
    (b"REDIS0012", 7): MODULE,
    (b"VALKEY080", 22): b"\x02" + text(b"f") + text(b"v") + DAY_MS + text(b"g") + text(b"w") + b"\xff" * 8,
}


@pytest.mark.parametrize(("magic", "kind"), NEWER)
def test_encodings_of_newer_servers_are_measured(magic: bytes, kind: int) -> None:
    value = NEWER[magic, kind]
    data = rdb(bytes([kind]) + text(b"key") + value + b"\x00\x03end\x01x", magic)
    for size in (1, 7, 4096):
        found, end = keys(walk(data, size))
        assert (found.name, found.type, found.value, found.size) == (b"key", kind, value, len(value))
        assert found.module == ("AAAAAABI0" if kind == 7 else "")
        assert end.name == b"end"


def test_opcodes_between_the_keys_are_walked_over() -> None:
    slots = b"\xf4\x05\x03\x01"
    module = b"\xf7" + MODULE[:9] + b"\x02\x02" + MODULE[9:]
    body = b"\xfe\x00" + slots + module + b"\xf8\x05\x00\x01a\x01b" + b"\xf9\xff\xfc" + DAY_MS + b"\x00\x01c\x01d"
    found = walk(rdb(body))
    assert found[0] == ModuleAux("AAAAAABI0")
    assert keys(found) == [
        Key(0, b"a", -1, 0, b"\x01b", 2, 5, -1),
        Key(0, b"c", 1_900_000_000_000, 0, b"\x01d", 2, -1, 255),
    ]
    imports = b"\xf3" + text(b"job") + b"\x02\x00\x05\x07\x09"
    assert keys(walk(rdb(imports + b"\x00\x01c\x01d", b"VALKEY080")))
    with pytest.raises(Damaged, match="opcode 243 is not known in RDB version 12"):
        walk(rdb(imports))


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [6, 8, 26, 100, 242, 246])
def test_an_unknown_type_is_named_with_its_place(kind: int) -> None:
    with pytest.raises(Damaged, match=rf"the RDB at byte 14: type or opcode {kind} is not known in RDB version 12"):
        walk(rdb(b"\x00\x01a\x01b" + bytes([kind]) + b"\x01c\x01d"))


HUGE = b"\x81" + b"\xff" * 8
HOSTILE = {
    "a key of 2^64 bytes": b"\x00" + HUGE,
    "a value of 2^64 bytes": b"\x00\x01a" + HUGE,
    "a list of 2^64 strings": b"\x01\x01a" + HUGE + b"\x01x" * 50,
    "a hash of 2^64 fields": b"\x04\x01a" + HUGE + b"\x01x" * 50,
    "scores for 2^64 members": b"\x03\x01a" + HUGE,
    "a list in a container 3": b"\x12\x01a\x01\x03\x01x",
    "a stream of 2^64 listpacks": b"\x13\x01a" + HUGE,
    "a module's part 6": b"\x07\x01a\x01\x06",
    "a consumer of 2^60 entries": b"\x0f\x01a\x00\x00\x00\x00\x01\x01g\x00\x00\x00\x01\x01c" + bytes(8) + HUGE,
    "a compressed bomb": b"\x00\x01a\xc3\x03\x81" + b"\x00" * 3 + b"\xff" * 5 + b"abc",
    "a compressed key that is a bomb": b"\x00\xc3\x03\x80\x00\xff\xff\xffabc\x01x",
    "a string of no encoding": b"\x00\x01a\xc4x",
    "a length of no form": b"\x01\x01a\x82xxxxxxxxxxxx",
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("values", [0, MANY])
def test_what_cannot_be_is_refused_without_taking_memory(what: str, values: int) -> None:
    with pytest.raises(Damaged, match="the RDB"):
        walk(rdb(HOSTILE[what], b"REDIS0012", checksum=False), values=values)


@pytest.mark.parametrize("tail", [b"x", b"\n\n", bytes(9), rdb(b"\x00\x01a\x01b")])
def test_what_follows_the_end_is_refused(tail: bytes) -> None:
    whole = rdb(b"\x00\x01a\x01b")
    assert walk(whole + b"\n") == walk(whole)
    with pytest.raises(Damaged, match=r"follows its end|not whole"):
        walk(whole + tail)


def every_encoding() -> bytes:
    """All of the above in one, small."""
    body = b"\xfa\x05field\xc3\x05\x0a\x00a\xe0\x00\x00\xfe\x00\xfb\x05\x01\xf5" + text(b"#!lua name=a")
    for (magic, kind), value in NEWER.items():
        if magic != b"VALKEY080":
            body += b"\xfc" + DAY_MS + bytes([kind]) + text(b"key %d" % kind) + value
    for kind, value, _, _ in OLDER.values():
        body += b"\xf8\x05" + bytes([kind]) + text(b"key %d" % kind) + value
    return body + b"\xfe\x03\xf7" + MODULE[:9] + b"\x02\x02" + MODULE[9:]


def test_every_flipped_bit_of_a_small_rdb_is_refused() -> None:
    whole = rdb(every_encoding())
    assert len(keys(walk(whole))) == 14
    for at in range(len(whole)):
        for bit in range(8):
            with pytest.raises(Damaged):
                walk(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])


@given(
    st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4),
    st.sampled_from([1, 1000]),
    st.sampled_from([b"REDIS0012", b"VALKEY080"]),
)
def test_without_a_checksum_damage_is_refused_or_harmless(
    changes: list[tuple[int, bytes]], size: int, magic: bytes
) -> None:
    data = bytearray(rdb(every_encoding(), magic, checksum=False))
    for at, new in changes:
        place = 9 + at % (len(data) - 18)
        data[place : place + len(new)] = new
    with suppress(Damaged):
        for key in keys(walk(bytes(data), size)):
            assert key.value is not None
            assert key.size == len(key.value) <= len(data)


@given(st.binary(max_size=300))
def test_garbage_is_refused(garbage: bytes) -> None:
    with suppress(Damaged):
        walk(b"REDIS0012" + garbage)
