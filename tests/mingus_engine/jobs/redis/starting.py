"""Starting a server on what was restored, by the command line that the restore says or another one; killing jobs."""

from __future__ import annotations

import os
import pwd
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support import processes
from tests.support.processes import User, unprivileged_user, wait_until

_QUIET = ("--port", "0", "--save", "", "--enable-debug-command", "yes")


@contextmanager
def started(command: str, workspace: Path, *more: str) -> Iterator[redis.Redis]:
    """A server by *command*, the last words of which count; raises AssertionError when it does not come up."""
    socket = workspace / "started.sock"
    process = _start(command, workspace, socket, *more)
    client = redis.Redis(unix_socket_path=str(socket), protocol=2, retry=Retry(NoBackoff(), 0))
    try:
        wait_until(lambda: process.poll() is not None or _answers(client), "the server has loaded its data")
        assert process.poll() is None, (workspace / "started.log").read_text()
        yield client
    finally:
        client.close()
        processes.stop(process)


def refusal(command: str, workspace: Path, *more: str) -> str:
    """The log of a server that must not start; raises AssertionError when it does."""
    socket = workspace / "refused.sock"
    (workspace / "started.log").unlink(missing_ok=True)
    process = _start(command, workspace, socket, *more)
    client = redis.Redis(unix_socket_path=str(socket), protocol=2, retry=Retry(NoBackoff(), 0))
    try:
        wait_until(lambda: process.poll() is not None or _answers(client), "the server has decided")
        assert process.poll() not in {None, 0}, "the server has started"
        return (workspace / "started.log").read_text()
    finally:
        client.close()
        processes.stop(process)


def digest(client: redis.Redis) -> str:
    """``DEBUG DIGEST`` of all databases."""
    return str(client.execute_command("DEBUG", "DIGEST"))


def killed(owner: type, name: str, job: Callable[[], object]) -> None:
    """Run *job* in a process that is killed in front of a method."""
    pid = os.fork()
    if pid == 0:
        try:
            setattr(owner, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
            job()
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def _start(command: str, workspace: Path, socket: Path, *more: str) -> subprocess.Popen[bytes]:
    workspace.chmod(0o777)  # the socket is made by the server's account
    words, user = shlex.split(command), unprivileged_user()
    if words[0] == "runuser":
        entry = pwd.getpwnam(words[2])
        words, user = words[4:], User(entry.pw_name, entry.pw_uid, entry.pw_gid)
    line = [*words, "--unixsocket", str(socket), *_QUIET, *more]
    with (workspace / "started.log").open("wb") as log:
        return processes.start(line, log=log, user=user, cwd=workspace)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
