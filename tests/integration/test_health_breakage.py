"""Health checks of Redis, file sets and S3, and of what is broken in other ways than being away."""

from __future__ import annotations

import dataclasses
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mingus_engine.errors import StoreDenied, StoreFull
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.health import certificates, findings
from mingus_engine.jobs.health.certificates import Endpoint
from mingus_engine.jobs.health.full import health
from mingus_engine.jobs.health.probe import HealthReport, probe
from mingus_engine.settings import Settings
from mingus_engine.sources.redis import aof_setting
from mingus_engine.store.faulty import Fault
from tests.support.file_sets import FileSet
from tests.support.fixtures import MakeRedis
from tests.support.installation import FIRST, SECOND, Installation
from tests.support.postgres import PgCluster
from tests.support.redis_installation import RedisInstallation, snapshot
from tests.support.s3 import S3Bucket

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def gauges(report: HealthReport, name: str, **labels: str) -> list[float]:
    return [g.value for g in report.gauges if g.name == name and labels.items() <= g.labels.items()]


def critical(report: HealthReport, repository: str) -> dict[str, str]:
    found = [f for f in report.findings if f.failed and f.severity == findings.CRITICAL and f.repository == repository]
    return {f.check: f.detail for f in found}


def within(settings: Settings, seconds: int) -> Settings:
    limits = dataclasses.replace(settings.health, repository_timeout_s=seconds)
    return dataclasses.replace(settings, health=limits)


def test_a_redis_is_measured_and_a_rewrite_that_was_left_off_is_told(workspace: Path, make_redis: MakeRedis) -> None:
    server = make_redis(appendonly="yes", auto_aof_rewrite_percentage=100)
    with server.client() as client:
        client.set("a", "1")
    with RedisInstallation.make(workspace / "i", server) as mingus:
        snapshot(mingus)
        report = probe(mingus.settings, context=JobContext())
        assert [g for g in report.gauges if not g.fits] == []
        assert gauges(report, "source_ok", kind="redis") == [1]
        assert gauges(report, "redis_aof_rewrite_left_disabled") == [0]
        assert 0 <= gauges(report, "recovery_point_age_seconds", repository=FIRST)[0] < 600
        assert gauges(report, "replication_lag_objects", repository=SECOND)[0] >= 1
        assert len(gauges(report, "backup_last_success_timestamp_seconds", operation="snapshot")) == 1
        with server.client() as client:
            client.config_set(aof_setting.NAME, 0)
        report = probe(mingus.settings, context=JobContext())
        assert gauges(report, "redis_aof_rewrite_left_disabled") == [1]
        (finding,) = [f for f in report.findings if f.check == "aof-rewrite"]
        assert f"CONFIG SET {aof_setting.NAME} 100" in finding.hint


def test_a_repository_on_s3_is_checked_and_a_full_a_read_only_and_a_slow_one_are_told_of(
    workspace: Path, pg16: PgCluster, moto_s3: S3Bucket
) -> None:
    with Installation.make(workspace / "i", pg16, repositories={"cloud": moto_s3}, wal={"scheduled": False}) as mingus:
        mingus.back_up()
        report = health(mingus.settings, context=JobContext())
        assert critical(report, "cloud") == {}
        assert gauges(report, "snapshots", repository="cloud") == [1]
        for error, said in ((StoreFull, "no space"), (StoreDenied, "read-only")):
            fault = Fault("put", "raise", times=None, error=lambda error=error, said=said: error(said))
            with mingus.faults(fault, repository="cloud"):
                report = health(mingus.settings, context=JobContext())
            assert critical(report, "cloud") == {"usable": said}
            assert not report.ok
        with mingus.faults(Fault("list", "delay", name="packs/*", times=None, delay_s=30), repository="cloud"):
            report = probe(within(mingus.settings, 2), context=JobContext())
        assert critical(report, "cloud") == {"copy": "no answer within 2 s"}
        assert gauges(report, "source_ok") == [1]


def test_a_file_set_is_measured_and_a_root_that_went_away_is_critical(workspace: Path) -> None:
    one = FileSet.make(workspace / "set")
    try:
        (one.tree / "a").write_text("a")
        one.back_up()
        report = probe(one.settings, context=JobContext())
        assert gauges(report, "source_ok", kind="files") == [1]
        assert gauges(report, "recovery_point_age_seconds")[0] < 600
        assert [g for g in report.gauges if not g.fits] == []
        one.tree.rename(one.tree.with_name("moved"))
        report = probe(one.settings, context=JobContext())
        assert gauges(report, "source_ok", kind="files") == [0]
        assert gauges(report, "snapshots") == [1]
    finally:
        one.close()


@contextmanager
def tls_server(directory: Path, expires: datetime, *, postgres: bool) -> Iterator[int]:
    """Shows a certificate that ends at *expires*, once; its port."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(expires - timedelta(days=90)).not_valid_after(expires)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    file = directory / "server.pem"
    kind = serialization.PrivateFormat.PKCS8
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)

    def serve() -> None:
        link, _ = server.accept()
        with link:
            if postgres:
                assert link.recv(8) == b"\0\0\0\x08\x04\xd2\x16\x2f"
                link.sendall(b"S")
            with context.wrap_socket(link, server_side=True) as inside:
                inside.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(30)


@pytest.mark.parametrize("postgres", [False, True])
@pytest.mark.parametrize(("days", "result"), [(-1, "CRITICAL"), (5, "WARN"), (60, "ok")])
def test_days_that_a_certificate_has_left_are_read_also_of_an_expired_one(
    workspace: Path, postgres: bool, days: int, result: str
) -> None:
    with tls_server(workspace, NOW + timedelta(days=days), postgres=postgres) as port:
        (finding,) = certificates.look(Endpoint("127.0.0.1", port, asks=postgres), 21, NOW, source="s")
    assert finding.result == result
