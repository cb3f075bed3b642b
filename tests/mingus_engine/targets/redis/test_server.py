"""The throw-away Redis: private, mute, gone in every outcome; and what it says of data that it cannot load."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import redis

from mingus_engine.errors import TargetError, VerificationFailed
from mingus_engine.programs import accounts
from mingus_engine.programs.accounts import Account
from mingus_engine.redis.programs import Programs, installed
from mingus_engine.targets.redis import layout
from mingus_engine.targets.redis.layout import Names
from mingus_engine.targets.redis.server import ThrowAwayRedis
from tests.support.directories import give_tree, make_directory
from tests.support.fixtures import MakeRedis
from tests.support.processes import is_running, unprivileged_user, wait_until

PLUGINS = Path(__file__).resolve().parents[4] / "plugins"
RDB = layout.of_rdb(b"", b"", Names(), layout.RDB)


def account() -> Account | None:
    user = unprivileged_user()
    return accounts.account(user.name) if user else None


@pytest.fixture
def programs() -> Programs:
    return installed()[0]


@pytest.fixture
def data(make_redis: MakeRedis, workspace: Path) -> Path:
    """A data directory with an RDB of 100 keys, the server's own."""
    server = make_redis(dbfilename="other.rdb")
    server.fill(100)
    server.execute("SAVE")
    directory = make_directory(workspace / "data")
    (directory / "dump.rdb").write_bytes((server.directory / "other.rdb").read_bytes())
    give_tree(directory, unprivileged_user())
    return directory


def server_on(
    data: Path, workspace: Path, programs: Programs, checkpoint: Callable[[], None] = lambda: None
) -> ThrowAwayRedis:
    return ThrowAwayRedis(data, RDB, programs, account=account(), work_dir=workspace, checkpoint=checkpoint)


def left_in(workspace: Path) -> list[str]:
    return [path.name for path in workspace.iterdir() if path.name.startswith("redis-")]


def digest_of(data: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in data.iterdir()}


def test_it_loads_everything_and_changes_nothing(data: Path, workspace: Path, programs: Programs) -> None:
    before = digest_of(data)
    with server_on(data, workspace, programs) as server, closing(server.client()) as client:
        assert client.dbsize() == 100
    assert digest_of(data) == before
    assert left_in(workspace) == []


def test_it_is_private_and_mute(data: Path, workspace: Path, programs: Programs) -> None:
    with server_on(data, workspace, programs) as server, closing(server.client()) as client:
        pid = client.info("server")["process_id"]
        inodes = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
        assert any(inode.startswith("socket:") for inode in inodes), "its own socket is seen"
        listening = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        assert not [line for line in listening if line[3] == "0A" and f"socket:[{line[9]}]" in inodes]
        place = Path(server.connection.socket)
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        told = client.config_get("*")
        assert {name: told[name] for name in ("save", "appendonly", "maxmemory", "replicaof", "loglevel")} == {
            "save": "", "appendonly": "no", "maxmemory": "0", "replicaof": "", "loglevel": "notice",
        }  # fmt: skip
        assert told["enable-debug-command"] == "no"
        if os.geteuid() == 0:
            assert Path(f"/proc/{pid}").stat().st_uid != 0


def test_it_is_gone_with_the_engine(data: Path, workspace: Path, programs: Programs) -> None:
    user = unprivileged_user()
    script = f"""
import sys
sys.path[:0] = [{str(PLUGINS)!r}]
from pathlib import Path
from mingus_engine.programs import accounts
from mingus_engine.redis.programs import installed
from mingus_engine.targets.redis import layout
from mingus_engine.targets.redis.server import ThrowAwayRedis
server = ThrowAwayRedis(
    Path({str(data)!r}), layout.of_rdb(b"", b"", layout.Names(), "rdb"), installed()[0],
    account={f"accounts.account({user.name!r})" if user else None}, work_dir=Path({str(workspace)!r}),
)
server.start()
print(server.client().info("server")["process_id"], flush=True)
sys.stdin.read()
"""
    engine = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with engine:
        assert engine.stdout is not None
        pid = int(engine.stdout.readline())
        assert is_running(pid)
        engine.send_signal(signal.SIGKILL)
        wait_until(lambda: not is_running(pid), "the server is gone", timeout_s=15)


def test_who_cancels_leaves_nothing(data: Path, workspace: Path, programs: Programs) -> None:
    seen: list[int] = []

    def cancel() -> None:
        seen.append(1)
        raise KeyboardInterrupt

    (data / "dump.rdb").unlink()
    os.mkfifo(data / "dump.rdb", 0o644)  # it waits for its data for ever
    with pytest.raises(KeyboardInterrupt):
        server_on(data, workspace, programs, cancel).start()
    assert seen
    assert left_in(workspace) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda raw: b"REDIS0099" + raw[9:], "Can't handle RDB format version 99"),
        (lambda raw: raw[:-50], "Unexpected EOF|Short read|Internal error in RDB"),
        (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "Wrong RDB checksum|RDB CRC error"),
    ],
)
def test_what_it_cannot_load_is_said_in_its_own_words(
    data: Path, workspace: Path, programs: Programs, change: Callable[[bytes], bytes], says: str
) -> None:
    path = data / "dump.rdb"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(VerificationFailed, match=f"did not start.*({says})"):
        server_on(data, workspace, programs).start()
    assert left_in(workspace) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
def test_a_directory_that_its_user_cannot_reach_is_named(data: Path, workspace: Path, programs: Programs) -> None:
    hidden = make_directory(workspace / "hidden", mode=0o700)
    data.rename(hidden / "data")
    with pytest.raises(TargetError, match=r"cannot pass directory .*hidden \(mode 0700\)"):
        server_on(hidden / "data", workspace, programs).start()


def test_a_long_path_gets_its_socket_elsewhere(data: Path, workspace: Path, programs: Programs) -> None:
    deep = make_directory(make_directory(workspace / ("x" * 60)) / ("y" * 60))
    give_tree(deep, unprivileged_user())
    with server_on(data, deep, programs) as server:
        place = Path(server.connection.socket).parent
        with closing(server.client()) as client:
            assert client.ping()
    assert not place.exists()
    with pytest.raises(redis.ConnectionError):
        redis.Redis(unix_socket_path=str(place / "redis.sock")).ping()
