"""S3 servers on loopback: ``rclone serve s3`` (a real one over a directory), ``moto_server`` (versions, Object Lock).

rclone ignores ``If-None-Match``, keeps no versions and has no Object Lock; moto has all three but checks no
signature. Both speak plain HTTP with path-style addresses.
"""

import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from tests.support import processes
from tests.support.processes import Argument, wait_until

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class S3Server:
    """A running server and the keys it accepts; ``directory`` holds the buckets as folders (rclone only)."""

    name: str
    endpoint: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"
    directory: Path | None = None

    def client(self) -> "S3Client":
        """A boto3 client of this server; the caller closes it."""
        client: S3Client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 2}),
        )
        return client

    def new_bucket(self, *, object_lock: bool = False) -> "S3Bucket":
        """Make an empty bucket with a new name; ``object_lock`` (moto) also turns versioning on."""
        name = f"mingus-{secrets.token_hex(6)}"
        client = self.client()
        try:
            if object_lock:
                client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
            else:
                client.create_bucket(Bucket=name)
        finally:
            client.close()
        return S3Bucket(self, name)


@dataclass(frozen=True)
class S3Bucket:
    """A bucket of a running server."""

    server: S3Server
    name: str

    def names(self) -> list[str]:
        """The keys of all objects, sorted."""
        client = self.server.client()
        try:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
            return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))
        finally:
            client.close()

    def environment(self) -> dict[str, str]:
        """The variables by which MINGUS and the AWS tools take this bucket's keys."""
        return {
            "AWS_ACCESS_KEY_ID": self.server.access_key,
            "AWS_SECRET_ACCESS_KEY": self.server.secret_key,
            "AWS_DEFAULT_REGION": self.server.region,
            "BACKUP_S3_BUCKET": self.name,
        }


@contextmanager
def rclone_server(directory: Path, *arguments: str) -> Iterator[S3Server]:
    """``rclone serve s3`` over a new folder of ``directory``; ``arguments`` are added to its command line."""
    root = Path(tempfile.mkdtemp(prefix="rclone-", dir=directory))
    buckets = root / "buckets"
    buckets.mkdir()
    port = processes.free_port()
    server = S3Server(
        "rclone", f"http://127.0.0.1:{port}", secrets.token_hex(10), secrets.token_hex(20), directory=buckets
    )
    command: list[Argument] = [_program("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", *arguments, buckets]
    # By environment, not by argument: the same rule as for the product. The quotes are CSV's: the option is a list.
    env = {"RCLONE_AUTH_KEY": f'"{server.access_key},{server.secret_key}"', "RCLONE_CONFIG": str(root / "rclone.conf")}
    with _running(command, port, root / "server.log", env):
        yield server


@contextmanager
def moto_server(directory: Path) -> Iterator[S3Server]:
    """``moto_server``, with everything in its memory; its log goes below ``directory``."""
    root = Path(tempfile.mkdtemp(prefix="moto-", dir=directory))
    port = processes.free_port()
    server = S3Server("moto", f"http://127.0.0.1:{port}", secrets.token_hex(10), secrets.token_hex(20))
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port, root / "server.log", {}):
        yield server


def _program(name: str) -> Path:
    """A program installed into the virtual environment, which need not be activated."""
    return Path(sys.executable).with_name(name)


@contextmanager
def _running(command: Sequence[Argument], port: int, log: Path, env: Mapping[str, str]) -> Iterator[None]:
    with log.open("wb") as out:
        process = processes.start(command, log=out, env=env)
    try:
        wait_until(
            lambda: process.poll() is not None or processes.accepts_connections(port),
            f"{command[0]} listens",
            timeout_s=START_TIMEOUT_S,
        )
        if process.poll() is not None:
            raise AssertionError(f"{command[0]} ended with {process.returncode}\n{log.read_text(errors='replace')}")
        yield
    finally:
        processes.stop(process)
