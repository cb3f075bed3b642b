"""Invariants: when values compare exactly, when by tolerance, and what a source itself says about them."""

import dataclasses
import threading
from typing import Any

import pytest

from mingus_engine import lsn as lsns
from mingus_engine.errors import SourceDenied
from mingus_engine.settings import Measurement, Predicate
from mingus_engine.sources.postgres import invariants
from mingus_engine.sources.postgres.invariants import Measured, Moment
from tests.mingus_engine.sources.postgres.collecting import (
    TRANSPORTS,
    collect,
    connection,
    source,
    started,
)
from tests.support.fixtures import MakeCluster
from tests.support.postgres import PgCluster

NEVER = threading.Event()
COUNT = Measurement("count", "select count(*) from t")


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def evaluate(cluster: PgCluster, *items: Predicate | Measurement) -> list[Measured]:
    return invariants.evaluate(
        connection(cluster),
        [i for i in items if isinstance(i, Predicate)],
        [i for i in items if isinstance(i, Measurement)],
        NEVER,
    )


def test_an_idle_source_compares_exactly_after_a_restore(make_cluster: MakeCluster, transport: str) -> None:
    cluster = make_cluster(15, conf={"autovacuum": "off"})
    cluster.execute("create table t as select g, g / 3.0 as x from generate_series(1, 1000) g")
    items = (
        COUNT,
        Measurement("sum", "select sum(x) from t"),
        Measurement("text", "select md5(string_agg(g::text, ',' order by g)) from t"),
    )
    got = collect(source(cluster, transport, measurements=items))
    recorded = got.finished.facts["invariants"]
    assert [r["quiet"] for r in recorded] == [True, True, True]
    assert recorded[0]["value"] == "1000"
    if transport == "local":
        assert all(got.start_lsn <= lsns.parse(r["lsn_after"]) <= got.stop_lsn for r in recorded)
    with started(got, cluster, cluster.data_directory.parent / "restored") as restored:
        checks = list(invariants.compare(recorded, evaluate(restored, *items), items))
        assert [(c.ok, c.data["rule"]) for c in checks] == [(True, "exact")] * 3
        # Something was written on the restored server: exact no longer applies.
        restored.execute("insert into t values (0, 0)")
        checks = list(invariants.compare(recorded, evaluate(restored, *items), items))
        assert [(c.ok, c.data["rule"]) for c in checks] == [
            (False, "tolerance"),
            (True, "tolerance"),
            (True, "tolerance"),
        ]


def test_a_transaction_that_was_under_way_makes_no_difference_exact(make_cluster: MakeCluster, transport: str) -> None:
    cluster = make_cluster(15, conf={"autovacuum": "off"})
    cluster.execute("create table t as select 1 as g")
    with cluster.connect() as older, cluster.connect() as newer:
        older.execute("begin")
        older.execute("insert into t values (2)")
        newer.execute("begin")
        newer.execute("insert into t values (3)")
        newer.execute("commit")
        got = collect(source(cluster, transport, measurements=(COUNT,)), before_finish=lambda: older.execute("commit"))
    (record,) = got.finished.facts["invariants"]
    assert record["value"] == "3"
    # Except by BASE_BACKUP the value is taken before the stop, so the backup contains the commit; otherwise it may not.
    assert record["quiet"] is (transport != "replication")
    with started(got, cluster, cluster.data_directory.parent / "restored") as restored:
        (check,) = invariants.compare([record], evaluate(restored, COUNT), [COUNT])
        assert check.data["rule"] == ("tolerance" if transport == "replication" else "exact")
        assert check.ok is (restored.value(COUNT.sql) == 3)


def test_a_transaction_that_never_ended_is_no_reason_to_call_the_restore_exact(
    make_cluster: MakeCluster, transport: str
) -> None:
    cluster = make_cluster(15, conf={"autovacuum": "off"})
    cluster.execute("create table t as select 1 as g")
    with cluster.connect() as session:
        session.execute("begin")
        session.execute("insert into t values (2)")
        got = collect(source(cluster, transport, measurements=(COUNT,)))
        session.execute("rollback")
    record = got.finished.facts["invariants"]
    with started(got, cluster, cluster.data_directory.parent / "restored") as restored:
        (check,) = invariants.compare(record, evaluate(restored, COUNT), [COUNT])
    assert (check.ok, check.data["rule"]) == (True, "tolerance")


def test_a_commit_after_the_measurement_is_seen_by_the_restored_server(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15, conf={"autovacuum": "off"})
    cluster.execute("create table t as select 1 as g")
    record = [m.as_facts(m.after) for m in evaluate(cluster, COUNT)]
    got = collect(source(cluster, "local"), before_finish=lambda: cluster.execute("insert into t values (2)"))
    with started(got, cluster, cluster.data_directory.parent / "restored") as restored:
        (check,) = invariants.compare(record, evaluate(restored, COUNT), [COUNT])
    assert (check.ok, check.data["rule"]) == (False, "tolerance")


def test_predicates_that_are_false_or_fail_flag_the_snapshot(pg: PgCluster, transport: str) -> None:
    predicates = (
        Predicate("true", "select 1 = 1"),
        Predicate("false", "select 1 = 2"),
        Predicate("null", "select null::bool"),
        Predicate("broken", "select no_such_column"),
        Predicate("rows", "select true union all select true"),
        Predicate("columns", "select true, true"),
        Predicate("nothing", "select true where false"),
        Predicate("two", "select true; drop table if exists t"),
        Predicate("writes", "create table w (a int)"),
        Predicate("percent", "select '100%' like '%'"),
    )
    got = collect(source(pg, transport, predicates=predicates, measurements=(Measurement("bad", "select 1/0"),)))
    checks = {c.name.removeprefix("invariant "): c for c in got.finished.checks if c.name.startswith("invariant ")}
    assert {name for name, c in checks.items() if c.ok} == {"true", "percent"}
    assert checks["false"].data["rule"] == "predicate"
    assert "division by zero" in checks["bad"].detail
    assert "read-only" in checks["writes"].detail
    assert "one row" in checks["rows"].detail
    assert pg.value("select to_regclass('w')") is None


def test_each_database_is_asked_once_in_one_snapshot(pg15: PgCluster) -> None:
    with pg15.temporary_database() as other:
        pg15.execute("create table o as select 1 as a", dbname=other)
        found = evaluate(
            pg15,
            Predicate("here", "select current_database() = 'postgres'"),
            Measurement("there", "select count(*) from o", database=other),
            Measurement("there too", "select pg_current_snapshot()::text", database=other),
            Measurement("once more", "select pg_current_snapshot()::text", database=other),
        )
    assert [f.value for f in found][:2] == ["t", "1"]
    assert found[2].value == found[3].value
    assert {f.database for f in found} == {"postgres", other}


def test_a_database_that_is_not_there_is_an_error(pg15: PgCluster) -> None:
    with pytest.raises(SourceDenied, match="nowhere"):
        evaluate(pg15, Measurement("x", "select 1", database="nowhere"))


def test_output_does_not_depend_on_the_roles_settings(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    item = Measurement(
        "x", "select '2024-02-03 04:05:06+00'::timestamptz || ' ' || 0.1::float8 || ' ' || '1 day'::interval"
    )
    (before,) = evaluate(cluster, item)
    cluster.execute(
        "alter role postgres set datestyle = 'German'",
        "alter role postgres set timezone = 'Asia/Tokyo'",
        "alter role postgres set extra_float_digits = -10",
        "alter role postgres set intervalstyle = 'iso_8601'",
        "alter role postgres set statement_timeout = 1",
    )
    (after,) = evaluate(cluster, item)
    assert before.value == after.value
    assert before.error == after.error == ""


def value(text: str | None, *, snapshot: str = "9:9:", name: str = "m", error: str = "") -> Measured:
    return Measured(name, "measurement", "d", text, error, 1, Moment(snapshot, 2))


@pytest.mark.parametrize(
    ("was", "now", "options", "ok"),
    [
        ("100", "100", {}, True),
        ("100", "101", {}, False),
        ("100", "101", {"tolerance": 1}, True),
        ("100", "101.5", {"tolerance": 1}, False),
        ("100", "109", {"tolerance": 0.1, "tolerance_relative": True}, True),
        ("-100", "-111", {"tolerance": 0.1, "tolerance_relative": True}, False),
        ("12345678901234567890.10", "12345678901234567890.20", {"tolerance": 0.1}, True),
        ("12345678901234567890.10", "12345678901234567890.21", {"tolerance": 0.1}, False),
        ("abc", "xyz", {}, True),
        ("abc", None, {}, False),
        (None, None, {}, True),
        (None, "1", {}, False),
        ("1", "abc", {"tolerance": 5}, False),
        ("NaN", "NaN", {}, True),
    ],
)
def test_when_something_was_written_the_tolerance_decides(
    was: str | None, now: str | None, options: dict[str, Any], ok: bool
) -> None:
    recorded = [value(was).as_facts(None)]
    (check,) = invariants.compare(recorded, [value(now)], [Measurement("m", "", **options)])
    assert check.data["rule"] == "tolerance"
    assert check.ok is ok


@pytest.mark.parametrize(
    ("was", "now", "ok"), [("1", "1", True), ("1", "2", False), ("1", "1.0", False), (None, None, True)]
)
def test_when_nothing_was_written_the_text_must_be_equal(was: str | None, now: str | None, ok: bool) -> None:
    recorded = [value(was).as_facts(Moment("9:9:", 1))]
    tolerant = Measurement("m", "", tolerance=100)
    (check,) = invariants.compare(recorded, [value(now)], [tolerant])
    assert check.data["rule"] == "exact"
    assert check.ok is ok


@pytest.mark.parametrize(
    ("recorded", "since", "restored"),
    [
        ("9:9:", "8:8:", "9:9:"),  # something was written while the backup ran
        ("9:9:", None, "9:9:"),
        ("9:9:", "9:9:", "10:10:"),  # the restored server is further
        ("7:9:7", "7:9:7", "7:9:7"),  # a transaction was under way
        ("9:10:9", "9:10:9", "9:10:9"),
        ("", "", ""),  # a standby
    ],
)
def test_exactness_is_refused_when_in_doubt(recorded: str, since: str | None, restored: str) -> None:
    facts = [value("1", snapshot=recorded).as_facts(Moment(since, 1) if since is not None else None)]
    (check,) = invariants.compare(facts, [value("1", snapshot=restored)], [])
    assert check.data["rule"] == "tolerance"


def test_what_was_not_recorded_or_fails_now_is_said() -> None:
    (new,) = invariants.compare([], [value("1")], [])
    assert (new.ok, new.data["rule"]) == (True, "none")
    (failed,) = invariants.compare([value("1").as_facts(None)], [value(None, error="gone")], [])
    assert (failed.ok, failed.data["rule"]) == (False, "failed")


def test_a_restored_predicate_must_hold() -> None:
    false = dataclasses.replace(value("f"), kind="predicate")
    (check,) = invariants.compare([false.as_facts(None)], [false], [])
    assert not check.ok
