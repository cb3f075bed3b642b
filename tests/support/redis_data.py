"""Keys of every type and encoding that a Redis writes, made by the server itself."""

import time

from tests.support.redis import RedisServer

#: A library of functions.
LIBRARY = b"#!lua name=ledger\nredis.register_function('twice', function(keys, args) return 2 * args[1] end)\n"
LARGE_BYTES = 3 * 1024 * 1024


def fill_every_encoding(server: RedisServer) -> int:
    """Keys in several databases, some of which expire, a library of functions, and one key that has expired.

    Returns how many there are that have not expired. ``maxmemory-policy`` decides whether idle times or frequencies
    are stored with them.
    """
    with server.client() as client:
        client.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)
        for name, value in _STRINGS.items():
            client.set(name, value)
        client.set("k" * 20000, "a key of 14 bits")
        client.set("repeated:" * 200, "a key that is compressed")
        client.set(b"\x00\xff\r\n", "a key of bytes")
        client.sadd("set:numbers", *range(200))
        client.sadd("set:16", 1000, -1000)
        client.sadd("set:64", 1 << 40)
        client.sadd("set:texts", *(f"member {n}" for n in range(300)))
        client.rpush("list:short", "a", "2", "c")
        client.rpush("list:long", *(f"entry {n}" * 5 for n in range(3000)))
        client.rpush("list:plain", "x" * 20000, "small", "y" * 20000)
        client.hset("hash:small", mapping={"a": 1, "b": "two"})
        client.hset("hash:many", mapping={f"field {n}": f"value {n}" * 3 for n in range(2000)})
        client.hset("hash:wide", mapping={"field": "z" * 5000})
        client.zadd("zset:small", {"a": 1, "b": 2.5, "c": float("inf")})
        client.zadd("zset:many", {f"member {n}": n / 3 for n in range(1500)})
        client.pfadd("hll:dense", *range(20000))
        client.geoadd("geo", [13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania"])
        client.setbit("bits", 100000, 1)
        _streams(server)
        client.set("large:plain", _noise(LARGE_BYTES))
        client.set("large:zeros", bytes(LARGE_BYTES))
        client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    now = int(time.time() * 1000)
    with server.client(3) as client:
        for n in range(500):
            client.set(f"session:{n}", f"state of {n} " * 10, pxat=now + 3600_000 + n)
        client.hset("session:hash", mapping={"user": 5, "cart": "x" * 30})
        client.pexpireat("session:hash", now + 7200_000)
        client.set("expired", "gone", px=1)
    with server.client(15) as client:
        client.set("in the last database", "1")
    return _keys(server) - 1


def _streams(server: RedisServer) -> None:
    with server.client() as client:
        for n in range(400):
            client.xadd("stream", {"amount": n, "note": f"entry {n}"})
        client.xdel("stream", client.xrange("stream", count=1)[0][0])
        client.xgroup_create("stream", "workers", "0")
        client.xgroup_create("stream", "idle", "$")
        client.xreadgroup("workers", "one", {"stream": ">"}, count=100)
        client.xreadgroup("workers", "two", {"stream": ">"}, count=50)
        pending = client.xpending_range("stream", "workers", "-", "+", 20)
        client.xack("stream", "workers", *(entry["message_id"] for entry in pending))
        client.xgroup_createconsumer("stream", "workers", "three")
        client.xgroup_create("stream:empty", "g", "$", mkstream=True)


def _keys(server: RedisServer) -> int:
    with server.client() as client:
        return sum(found["keys"] for name, found in client.info("keyspace").items() if name.startswith("db"))


def _noise(count: int) -> bytes:
    """Bytes that do not compress, the same each time."""
    value, out = 1, bytearray()
    while len(out) < count:
        value = value * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        out += value.to_bytes(8, "little") * 1
    return bytes(out[:count])


_STRINGS: dict[str, str | bytes | int] = {
    "string:empty": "",
    "string:8": -7,
    "string:16": 30000,
    "string:32": -2_000_000_000,
    "string:64": 1 << 50,
    "string:short": "text",
    "string:14-bits": _noise(3000),
    "string:32-bits": _noise(70000),
    "string:compressed": "ab" * 5000,
    "string:leading-zero": "007",
}
