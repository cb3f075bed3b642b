"""From settings to a store with its wrappers."""

import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mingus_engine.errors import Cancelled, SettingsError, StoreError
from mingus_engine.settings import RepositorySettings, S3Settings
from mingus_engine.store.faulty import Fault, FaultyStore
from mingus_engine.store.local import LocalStore
from mingus_engine.store.opening import open_store
from mingus_engine.store.retrying import RetryingStore
from mingus_engine.store.s3 import S3Store
from mingus_engine.store.throttled import ThrottledStore
from tests.support.s3 import S3Bucket


def layers(store: object) -> list[type]:
    found = [type(store)]
    while isinstance(store, RetryingStore | ThrottledStore):
        store = store.inner
        found.append(type(store))
    return found


def test_the_settings_decide_what_is_around_the_store(tmp_path: Path) -> None:
    def opened(**values: int) -> list[type]:
        return layers(open_store(RepositorySettings(name="r", path=str(tmp_path), **values), {}))

    assert opened() == [RetryingStore, LocalStore]
    assert opened(attempts=1) == [LocalStore]
    assert opened(bandwidth_bytes_per_s=1000) == [RetryingStore, ThrottledStore, LocalStore]


def test_only_init_makes_the_directory(tmp_path: Path) -> None:
    settings = RepositorySettings(name="r", path=str(tmp_path / "r"))
    with pytest.raises(StoreError, match="does not exist"):
        open_store(settings, {}).put("x", b"x", size=1, sha256=hashlib.sha256(b"x").digest())
    open_store(settings, {}, create=True).put("x", b"x", size=1, sha256=hashlib.sha256(b"x").digest())
    assert open_store(settings, {}).get("x") == b"x"


def test_an_s3_store_takes_its_keys_from_the_given_environment(
    rclone_s3: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "wrong")
    s3 = S3Settings(bucket=rclone_s3.name, endpoint=rclone_s3.server.endpoint, tls=False)
    store = open_store(RepositorySettings(name="r", store="s3", s3=s3), rclone_s3.environment())
    assert layers(store) == [RetryingStore, S3Store]
    store.put("x", b"x", size=1, sha256=hashlib.sha256(b"x").digest())
    assert rclone_s3.names() == ["x"]
    store.close()


def test_a_missing_key_is_said_before_anything_is_done() -> None:
    with pytest.raises(SettingsError, match="AWS_ACCESS_KEY_ID"):
        open_store(RepositorySettings(name="r", store="s3", s3=S3Settings(bucket="b")), {})


@pytest.mark.timeout(20)
def test_a_cancelled_job_waits_for_nothing(tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    settings = RepositorySettings(name="r", path=str(tmp_path), bandwidth_bytes_per_s=1)
    store = open_store(settings, {}, cancel=cancel)
    with pytest.raises(Cancelled, match="bandwidth"):
        store.put("x", bytes(1000), size=1000, sha256=hashlib.sha256(bytes(1000)).digest())
    failing = open_store(RepositorySettings(name="r", path=str(tmp_path)), {}, cancel=cancel)
    assert isinstance(failing, RetryingStore)
    failing.inner = FaultyStore(failing.inner, [Fault("now", "raise")])
    with pytest.raises(Cancelled, match="try again"):
        failing.now()


def test_a_local_repository_does_not_pay_for_boto3(tmp_path: Path) -> None:
    script = """
import sys
from mingus_engine.settings import RepositorySettings
from mingus_engine.store.opening import open_store
list(open_store(RepositorySettings(name="r", path=sys.argv[1])).list(""))
assert not {"boto3", "botocore"} & set(sys.modules)
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, env=environment)
