"""Connections that cannot be made: the right error, where and as whom, and never the password."""

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from mingus_engine.errors import Cancelled, MingusError, SourceDenied, SourceUnreachable, SourceUnsupported
from mingus_engine.settings import PostgresConnection, Secret
from mingus_engine.sources.postgres.connection import (
    cancellable,
    connect_error,
    connect_replication,
    connect_sql,
    mapped,
    server_error,
)
from mingus_engine.sources.postgres.facts import check_version
from tests.mingus_engine.sources.postgres.collecting import connection
from tests.support.fixtures import MakeCluster
from tests.support.postgres import PgCluster
from tests.support.processes import free_port, wait_until

CONNECT: list[Callable[[PostgresConnection], Any]] = [connect_sql, connect_replication]
NAMES = ["sql", "replication"]
SECRET = "correct horse battery staple"


@pytest.fixture(params=CONNECT, ids=NAMES)
def connect(request: pytest.FixtureRequest) -> Callable[[PostgresConnection], Any]:
    chosen: Callable[[PostgresConnection], Any] = request.param
    return chosen


def everything_said(error: BaseException) -> str:
    parts = [str(error), repr(error)]
    if isinstance(error, MingusError):
        parts.append(error.hint)
    parts.extend(everything_said(link) for link in (error.__cause__, error.__context__) if link is not None)
    return "\n".join(parts)


def test_a_wrong_password_is_denied_and_not_shown(pg: PgCluster, connect: Callable[[PostgresConnection], Any]) -> None:
    with pytest.raises(SourceDenied) as caught:
        connect(connection(pg, password=SECRET, tcp=True))
    assert SECRET not in everything_said(caught.value)
    assert f"127.0.0.1:{pg.port}" in caught.value.message
    assert 'role "postgres"' in caught.value.message


def test_the_right_password_connects_by_scram(pg: PgCluster) -> None:
    session = connect_sql(connection(pg, tcp=True))
    assert session.execute("show search_path").fetchone() == ("pg_catalog",)
    assert session.execute("show statement_timeout").fetchone() == ("0",)
    session.close()


def test_no_server_is_unreachable(connect: Callable[[PostgresConnection], Any]) -> None:
    port = free_port()
    with pytest.raises(SourceUnreachable, match=rf"127\.0\.0\.1:{port}") as caught:
        connect(PostgresConnection(host="127.0.0.1", port=port, user="postgres"))
    assert caught.value.transient


@pytest.mark.parametrize("change", [{"dbname": "nowhere"}, {"user": "nobody_here"}])
def test_an_unknown_database_or_role_is_denied(pg15: PgCluster, change: dict[str, str]) -> None:
    with pytest.raises(SourceDenied, match="does not exist"):
        connect_sql(dataclasses.replace(connection(pg15), **change))  # type: ignore[arg-type]


def test_a_role_without_replication_is_denied(pg: PgCluster) -> None:
    with pg.temporary_database():
        pg.create_role("plain")
        try:
            with pytest.raises(SourceDenied, match=r"(?i)replication"):
                connect_replication(connection(pg, "plain", tcp=True))
        finally:
            pg.execute("drop role plain")


def test_a_server_without_tls_is_unsupported_when_tls_is_required(
    pg15: PgCluster, connect: Callable[[PostgresConnection], Any]
) -> None:
    with pytest.raises(SourceUnsupported, match="SSL") as caught:
        connect(dataclasses.replace(connection(pg15, tcp=True), sslmode="require"))
    assert "sslmode" in caught.value.hint


def test_too_many_connections_pass_by_themselves(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15, conf={"max_connections": "4", "superuser_reserved_connections": "0"})
    held = [cluster.connect() for _ in range(4)]
    with pytest.raises(SourceUnreachable):
        connect_sql(connection(cluster))
    for session in held:
        session.close()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("FATAL:  the database system is starting up", SourceUnreachable),
        ("FATAL:  the database system is shutting down", SourceUnreachable),
        ("FATAL:  sorry, too many clients already", SourceUnreachable),
        ("FATAL:  number of requested standby connections exceeds max_wal_senders (currently 1)", SourceUnreachable),
        ("connection timeout expired", SourceUnreachable),
        ('FATAL:  no pg_hba.conf entry for host "127.0.0.1"', SourceDenied),
        ("fe_sendauth: no password supplied", SourceDenied),
        ("SSL error: certificate verify failed", SourceUnsupported),
    ],
)
def test_libpq_texts_are_told_apart(message: str, expected: type[MingusError]) -> None:
    conn = PostgresConnection(host="db1", port=5432, user="bk")
    error = connect_error(conn, message)
    assert type(error) is expected
    assert error.message.startswith('PostgreSQL at db1:5432 as role "bk": ')
    assert "\n" not in error.message


def test_a_secret_in_a_message_is_replaced() -> None:
    conn = PostgresConnection(host="db1", port=5432, user="bk", password=Secret(SECRET))
    assert SECRET not in server_error(conn, None, f"it was {SECRET}", "trying").message
    assert SECRET not in connect_error(conn, f"it was {SECRET}", conn.password).message


def test_an_error_of_a_statement_names_what_was_done(pg15: PgCluster) -> None:
    conn = connection(pg15)
    with connect_sql(conn) as session:
        with pytest.raises(MingusError, match="dividing: division by zero"), mapped(conn, "dividing"):
            session.execute("select 1/0")
        session.execute("create role low")
        try:
            session.execute("set role low")
            with pytest.raises(SourceDenied, match="looking"), mapped(conn, "looking"):
                session.execute("select * from pg_authid")
        finally:
            session.execute("reset role")
            session.execute("drop role low")


def test_a_statement_ends_when_the_job_is_cancelled(pg15: PgCluster) -> None:
    cancel = threading.Event()
    began = time.monotonic()
    with connect_sql(connection(pg15)) as session:
        threading.Timer(0.2, cancel.set).start()
        with pytest.raises(Cancelled), cancellable(session, cancel):
            session.execute("select pg_sleep(60)")
        assert session.execute("select 1").fetchone() == (1,)
    assert time.monotonic() - began < 30


def test_a_version_that_was_not_tried_is_refused() -> None:
    class Info:
        server_version = 140012

    class Session:
        info = Info()

    conn = PostgresConnection(host="db1", port=5432)
    for number, shown in ((140012, "14.12"), (190000, "19.0"), (90624, "9.6")):
        Info.server_version = number
        with pytest.raises(SourceUnsupported, match=f"version {shown} is not one of 15 to 18"):
            check_version(Session(), conn)  # type: ignore[arg-type]


def test_the_server_sees_who_we_are(pg15: PgCluster) -> None:
    with connect_sql(connection(pg15)):
        wait_until(
            lambda: pg15.value("select count(*) from pg_stat_activity where application_name = 'mingus'") == 1,
            "our session shows",
        )
