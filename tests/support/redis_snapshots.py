"""Snapshots of real Redis servers in a repository, with files or facts changed at will: what no backup would commit,
and a restore must refuse all the same.
"""

import dataclasses
import json
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.redis.restore import RedisRestoreReport, restore_redis
from mingus_engine.jobs.verify import VerifyReport, verify
from mingus_engine.redis import sample
from mingus_engine.repository.manifests import Manifest
from mingus_engine.settings import Settings, parse
from tests.support import repositories
from tests.support.directories import make_directory
from tests.support.processes import unprivileged_user, wait_until
from tests.support.redis import RedisServer
from tests.support.repositories import TEST_KEY, MadeRepository, MadeSource

SOURCE = "sessions"
KEY_VARIABLE = "MINGUS_TEST_REDIS_KEY"
_SETTINGS = ("appendonly", "save", "appenddirname", "appendfilename", "dbfilename", "databases", "maxmemory")


@dataclass
class RedisRepository:
    """A repository for the source ``sessions``, below ``root``. ``monkeypatch`` carries the key."""

    root: Path
    made: MadeRepository
    messages: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, root: Path, monkeypatch: Any) -> "RedisRepository":
        """A new, empty one."""
        make_directory(root)
        make_directory(root / "state", mode=0o711)
        monkeypatch.setenv(KEY_VARIABLE, TEST_KEY)
        return cls(root, repositories.make_repository(root))

    def document(self, **redis: Any) -> dict[str, Any]:
        """The settings, as YAML has them."""
        user = unprivileged_user()
        return {
            "state_directory": str(self.root / "state"),
            "repositories": [
                {"name": "first", "path": str(self.made.root), "keys": {"environment": KEY_VARIABLE}},
            ],
            "sources": [
                {"id": SOURCE, "kind": "redis", "redis": redis, "verify": {"run_as": user.name if user else ""}},
            ],
        }

    def settings(self, **redis: Any) -> Settings:
        """The settings; *redis*: ``RedisSettings`` of the source."""
        return parse(yaml.safe_dump(self.document(**redis)))

    def context(self, **values: Any) -> JobContext:
        """Notes what is logged."""
        return JobContext(**{"log": self.messages.append, "provenance": {"host": "test"}, **values})

    def put(self, files: Mapping[bytes, bytes], facts: Mapping[str, Any], kind: str = "redis full") -> Manifest:
        """Commit a snapshot of *files* with *facts*."""
        tree = MadeSource(files=files, mtime_ns=time.time_ns())
        run = repositories.begin(self.made, source=SOURCE)
        with closing(run):
            body, adopted = repositories.store_tree(self.made, run, tree)
            body = dataclasses.replace(body, facts=dict(facts))
            manifest = run.commit(
                kind=kind, position=int(facts.get("position", 0)), flagged=False,
                packs=[*run.packs.refs, *adopted], logs=[], body=body,
            )  # fmt: skip
            run.end([str(manifest.name)])
        return manifest

    def take(self, server: RedisServer, changed: Mapping[bytes, bytes | None] | None = None, **facts: Any) -> Manifest:
        """A snapshot of *server* as a backup makes it; *changed* files replace its own, ``None`` leaves one out."""
        files, found = snapshot_of(server)
        files |= {path: content for path, content in (changed or {}).items() if content is not None}
        for path in [path for path, content in (changed or {}).items() if content is None]:
            del files[path]
        shard = {**found["shards"][0], **facts.pop("shard", {})}
        return self.put(files, {**found, "shards": [shard], **facts})

    def restore(self, directory: Path, **values: Any) -> RedisRestoreReport:
        """The ``restore`` job."""
        redis = values.pop("redis", {})
        return restore_redis(self.settings(**redis), SOURCE, directory=directory, context=self.context(), **values)

    def verify(self, level: str = "L4", **values: Any) -> VerifyReport:
        """The ``verify`` job."""
        document = values.pop("document", None) or self.document(**values.pop("redis", {}))
        return verify(parse(yaml.safe_dump(document)), SOURCE, context=self.context(), level=level, **values)


def snapshot_of(server: RedisServer, prefix: str = "") -> tuple[dict[bytes, bytes], dict[str, Any]]:
    """Files and facts of a snapshot of a server that nobody writes to; saves it."""
    below = f"{prefix}/".encode() if prefix else b""
    with server.client() as client:
        keyspace: dict[str, Any] = client.info("keyspace")
        databases = {name.removeprefix("db"): found for name, found in keyspace.items()}
        sampled = sample.take(client, {int(n): found["keys"] for n, found in databases.items()}, 1000)
        configuration = {
            name.decode() if isinstance(name, bytes) else name: value.decode() if isinstance(value, bytes) else value
            for name, value in client.config_get("*").items()
        }
        client.save()
        info = client.info("server")
    rdb = (server.directory / configuration["dbfilename"]).read_bytes()
    now = datetime.now(UTC).isoformat()
    facts = {
        "engine": "redis",
        "version": info["redis_version"],
        "rdb_version": int(rdb[5:9]),
        "form": "rdb",
        "started_at": now,
        "stopped_at": now,
        "shards": [
            {
                "name": prefix,
                "databases": {n: {"keys": d["keys"], "expires": d["expires"]} for n, d in databases.items()},
                "databases_by": "info",
                "quiet": True,
                "settings": {name: configuration[name] for name in _SETTINGS},
            }
        ],
    }
    files = {
        below + b"dump.rdb": rdb,
        below + b"mingus-config/config.json": json.dumps(configuration, sort_keys=True).encode(),
        below + b"mingus-config/redis.conf": server.config_file.read_bytes(),
        below + b"mingus-config/users.acl": b"user default on nopass sanitize-payload ~* &* +@all\n",
        below + sample.SAMPLE_PATH: sampled.encode(),
    }
    return files, facts


def append_only_files(server: RedisServer, folder: str = "appendonlydir") -> dict[bytes, bytes]:
    """The append-only file of a server that nobody writes to, as files of a snapshot."""
    wait_until(lambda: server.info()["aof_rewrite_in_progress"] == 0, "no rewrite is going on")
    place = server.directory / folder
    return {f"{folder}/{path.name}".encode(): path.read_bytes() for path in sorted(place.iterdir())}


def flipped(raw: bytes, at: int) -> bytes:
    """*raw* with one bit changed."""
    return raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :]
