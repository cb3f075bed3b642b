"""The probe tells stores that keep their word from stores that only accept."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mingus_engine import ulids
from mingus_engine.errors import StoreDenied, StoreUnreachable
from mingus_engine.settings import S3Settings
from mingus_engine.store import bodies
from mingus_engine.store.base import ObjectInfo
from mingus_engine.store.faulty import Fault, FaultyStore
from mingus_engine.store.local import LocalStore
from mingus_engine.store.probe import ProbeResult, probe
from mingus_engine.store.retrying import RetryingStore
from mingus_engine.store.s3 import S3Store
from mingus_engine.store.wrapping import StoreWrapper
from tests.support.s3 import S3Bucket


@pytest.fixture
def plain(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "r")


class Time:
    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def probed(store: Any) -> ProbeResult:
    clock = Time()
    return probe(store, sleep=clock.sleep, monotonic=clock.monotonic)


def test_a_good_store_has_no_problems_and_nothing_is_left(plain: LocalStore) -> None:
    plain.put("packs/a", b"x", size=1, sha256=hashlib.sha256(b"x").digest())
    result = probe(plain)
    assert result.problems == ()
    assert (result.checksums_enforced, result.listing_consistent, result.ranges_exact) == (True, True, True)
    assert (result.listing_delay_s, result.overwrite, result.conditional_put) == (0.0, "refused", None)
    assert abs(result.clock_skew_s) < 5
    assert [entry.name for entry in plain.list("")] == ["packs/a"]


def test_the_result_is_json(plain: LocalStore) -> None:
    result = probe(plain)
    shown = json.loads(json.dumps(result.as_dict()))
    assert shown.pop("problems") == []
    assert ProbeResult(**shown) == result


def test_only_names_of_probes_are_used(plain: LocalStore) -> None:
    store = FaultyStore(plain)
    probe(store)
    used = {call.name for call in store.calls if call.operation in {"put", "delete", "get", "get_range"}}
    assert used
    assert all(name.startswith("probe/") and ulids.is_ulid(name.removeprefix("probe/")) for name in used)


@pytest.mark.parametrize("kind", ["rclone-sha256", "rclone-md5", "rclone-none", "moto-sha256", "moto-md5", "moto-none"])
def test_real_servers_are_found_fit_and_told_apart(kind: str, request: pytest.FixtureRequest) -> None:
    server, _, checksum = kind.partition("-")
    bucket: S3Bucket = request.getfixturevalue(f"{server}_s3")
    settings = S3Settings(bucket=bucket.name, endpoint=bucket.server.endpoint, tls=False, checksum=checksum)  # type: ignore[arg-type]
    store = S3Store(settings, bucket.environment())
    result = probe(RetryingStore(store, attempts=2))
    assert result.problems == ()
    assert result.conditional_put == (server == "moto"), "asked through the wrapper"
    assert bucket.names() == []
    store.close()


class Liar(StoreWrapper):
    """Takes any bytes for the promised ones: from the first reading of a body (*late* = False) or a later one."""

    def __init__(self, inner: LocalStore, *, late: bool) -> None:
        super().__init__(inner)
        self._late = late

    def put(self, name: str, body: Any, *, size: int, sha256: bytes) -> None:
        data = b"".join(bodies.pieces(body, 0, size))
        if self._late:
            if hashlib.sha256(data).digest() != sha256:  # hashes honestly what it read first …
                self.inner.put(name, data, size=size, sha256=sha256)
            data = b"".join(bodies.pieces(body, 0, size))  # … and sends what it reads then
        self.inner.put(name, data, size=size, sha256=hashlib.sha256(data).digest())


@pytest.mark.parametrize("late", [False, True])
def test_a_store_that_takes_other_bytes_than_promised_is_found_out(late: bool, plain: LocalStore) -> None:
    result = probed(Liar(plain, late=late))
    assert not result.checksums_enforced
    assert any("checksum" in problem for problem in result.problems)


class RefusesButKeeps(StoreWrapper):
    """Answers that the bytes are wrong, and has stored them all the same."""

    def put(self, name: str, body: Any, *, size: int, sha256: bytes) -> None:
        data = b"".join(bodies.pieces(body, 0, size))
        try:
            self.inner.put(name, body, size=size, sha256=sha256)
        except Exception:
            self.inner.put(name, data, size=size, sha256=hashlib.sha256(data).digest())
            raise


def test_a_store_that_refuses_wrong_bytes_and_keeps_them_is_found_out(plain: LocalStore) -> None:
    assert not probed(RefusesButKeeps(plain)).checksums_enforced


class LateListing(StoreWrapper):
    """Shows in listings what was so *delay_s* ago."""

    def __init__(self, inner: LocalStore, clock: Time, delay_s: float) -> None:
        super().__init__(inner)
        self._clock = clock
        self._delay_s = delay_s
        self._past: list[tuple[float, list[ObjectInfo]]] = [(-1e9, [])]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._past.append((self._clock.now_s, list(self.inner.list(prefix))))
        limit = self._clock.now_s - self._delay_s
        return iter(next(entries for at, entries in reversed(self._past) if at <= limit))


def test_a_late_listing_is_measured(plain: LocalStore) -> None:
    clock = Time()
    result = probe(LateListing(plain, clock, 1.0), sleep=clock.sleep, monotonic=clock.monotonic)
    assert not result.listing_consistent
    assert result.listing_delay_s == pytest.approx(1.0, abs=0.25)
    assert any("listed" in problem for problem in result.problems)


def test_a_listing_that_never_shows_an_object_is_told_and_ends(plain: LocalStore) -> None:
    clock = Time()
    result = probe(LateListing(plain, clock, 1e6), sleep=clock.sleep, monotonic=clock.monotonic)
    assert (result.listing_consistent, result.listing_delay_s) == (False, None)
    assert clock.now_s < 120


@pytest.mark.parametrize("fault", [Fault("get_range", "flip"), Fault("get_range", "truncate", nth=2)])
def test_wrong_ranges_are_found_out(fault: Fault, plain: LocalStore) -> None:
    result = probed(FaultyStore(plain, [fault]))
    assert not result.ranges_exact
    assert any("ranges" in problem for problem in result.problems)


class CutsRanges(StoreWrapper):
    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self.inner.get(name)[offset : offset + length]


def test_a_range_past_the_end_that_is_no_error_is_found_out(plain: LocalStore) -> None:
    assert not probed(CutsRanges(plain)).ranges_exact


class Overwrites(StoreWrapper):
    def put(self, name: str, body: Any, *, size: int, sha256: bytes) -> None:
        self.inner.delete(name)
        self.inner.put(name, body, size=size, sha256=sha256)


class Ignores(StoreWrapper):
    def put(self, name: str, body: Any, *, size: int, sha256: bytes) -> None:
        if name not in {entry.name for entry in self.inner.list(name)}:
            self.inner.put(name, body, size=size, sha256=sha256)


@pytest.mark.parametrize(("wrapper", "expected"), [(Overwrites, "replaced"), (Ignores, "ignored")])
def test_what_an_overwrite_does_is_told(wrapper: type[StoreWrapper], expected: str, plain: LocalStore) -> None:
    assert probed(wrapper(plain)).overwrite == expected


class OtherClock(StoreWrapper):
    ahead = timedelta()

    def now(self) -> Any:
        return self.inner.now() + self.ahead


@pytest.mark.parametrize(("seconds", "fit"), [(290, True), (-290, True), (320, False), (-320, False)])
def test_a_clock_that_is_off_is_told_with_its_sign(seconds: int, fit: bool, plain: LocalStore) -> None:
    store = OtherClock(plain)
    store.ahead = timedelta(seconds=seconds)
    result = probed(store)
    assert result.clock_skew_s == pytest.approx(seconds, abs=2)
    assert (result.problems == ()) == fit


@pytest.mark.parametrize("error", [StoreUnreachable, StoreDenied])
@pytest.mark.parametrize("nth", [1, 2, 4])
def test_a_store_that_fails_proves_nothing(error: type[Exception], nth: int, plain: LocalStore) -> None:
    store = FaultyStore(plain, [Fault("put", "raise", nth=nth, error=lambda: error("gone"))])  # type: ignore[arg-type,return-value]
    with pytest.raises(error, match="gone"):
        probed(store)
    assert list(plain.list("")) == []


def test_a_clean_up_that_fails_does_not_hide_the_result(plain: LocalStore) -> None:
    good = probed(FaultyStore(plain))
    # The first five deletes belong to the listing rounds; the clean-up comes after.
    result = probed(FaultyStore(plain, [Fault("delete", "raise", nth=6, times=None)]))
    same = {"clock_skew_s": 0.0, "clock_uncertainty_s": 0.0}
    assert dataclasses.replace(result, **same) == dataclasses.replace(good, **same)
