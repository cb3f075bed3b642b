"""How long the dashboards' queries take over months of many sources: ``python -m benchmarks.dashboards``.

Synthetic series of every metric the panels use, one value every five minutes (what the probe sends; Prometheus scrapes
the same value 20 times between two of them, which this leaves out), become blocks of a real Prometheus by ``promtool``.
Then each query of each panel is asked as Grafana does: the whole time, 1,000 points, all sources, all repositories.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mingus_engine.jobs.health.gauges import METRICS
from scripts.dashboards.boards import BOARDS
from tests.support.monitoring import Prometheus, program, running_prometheus
from tests.support.processes import run

STEP_S = 300
POINTS = 1000
# A multiple of Prometheus' own block ranges (2 h, 6 h, 18 h, 54 h): promtool reads a slice once.
SLICE_S = 54 * 3600
ROUNDS = 3
LIMIT_S = 1.0
_KINDS = ("postgres", "redis", "files")
_CHECKS = ("rights", "wal archive", "persistence", "escrow")
_RECORDED = {
    "mingus:recovery_point_age_seconds": "gauge",
    "mingus:rpo_ok": "one",
    "mingus:backup_last_success_timestamp_seconds": "time",
    "mingus:backup_behind_seconds": "gauge",
    "mingus:backup_duration_seconds:mean": "gauge",
    "mingus:recovery_duration_seconds:mean": "gauge",
    "mingus:recovery_window_start_seconds": "time",
    "mingus:rpo_missed:ratio_30d": "zero",
    "mingus:rpo_budget_left": "one",
    "mingus:backups_over_target_total": "zero",
    "mingus:recoveries_over_target_total": "zero",
}
_RECORDED_BY_OPERATION = {
    "mingus:backup_last_success_timestamp_seconds",
    "mingus:backup_behind_seconds",
    "mingus:backup_duration_seconds:mean",
    "mingus:recovery_duration_seconds:mean",
}


def series(sources: int) -> Iterator[tuple[str, str]]:
    """Each series with the shape of its values: ``gauge``, ``counter``, ``one``, ``zero`` or ``time``."""
    ids = [(f"source-{number:03}", _KINDS[number % 3]) for number in range(sources)]
    for metric in METRICS.values():
        # Of a histogram, the panels use sum and count.
        parts = ("_sum", "_count") if metric.type == "histogram" else ("",)
        shape = "gauge" if metric.type == "gauge" else "counter"
        shape = {"_ok": "one", "nds": "time" if "timestamp" in metric.name else shape}.get(metric.name[-3:], shape)
        for source, kind in ids if "source" in metric.labels else [("", "")]:
            fixed = {"source": source, "kind": kind} if source else {}
            for labels in _combinations(metric.labels, metric.name):
                for part in parts:
                    yield _named(metric.name + part, {**fixed, **labels}), shape
    for name, shape in _RECORDED.items():
        operations = _combinations(("operation",) if name in _RECORDED_BY_OPERATION else (), name.split(":")[1])
        for source, kind in ids:
            for labels in operations:
                yield _named(name, {"source": source, "kind": kind, **labels}), shape
    for repository in ("primary", "offsite"):
        yield _named("mingus:storage_free_ratio", {"repository": repository}), "one"
    for dag in ("backup_postgres_full", "backup_redis_snapshot", "probe"):
        yield _named("airflow_ti_finish_total", {"dag_id": dag, "state": "success"}), "counter"
        for part in ("sum", "count"):
            yield _named(f"airflow_dagrun_duration_success_seconds_{part}", {"dag_id": dag}), "counter"
    for beat in ("scheduler", "dag_processor"):
        yield f"airflow_{beat}_heartbeat_total", "counter"


def _combinations(labels: tuple[str, ...], name: str) -> list[dict[str, str]]:
    values = {
        "repository": ("primary", "offsite"),
        "operation": ("drill",) if name.startswith("recovery") else ("full", "incremental"),
        "check": _CHECKS,
    }
    found: list[dict[str, str]] = [{}]
    for label in labels:
        if label not in {"source", "kind"}:
            found = [{**known, label: value} for known in found for value in values.get(label, ("some",))]
    return found


def _named(name: str, labels: dict[str, str]) -> str:
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in labels.items()) + "}"


def fill(directory: Path, data: Path, days: int, all_series: list[tuple[str, str]]) -> tuple[int, float]:
    """Make the blocks of *days* until now; how many samples, and the newest one's time."""
    random.seed(1)
    end = time.time() // STEP_S * STEP_S
    begin = (end - days * 86400) // SLICE_S * SLICE_S
    text = directory / "slice.om"
    samples = 0
    while begin < end:
        moments = [int(begin + step) for step in range(0, SLICE_S, STEP_S) if begin + step <= end]
        shapes = {
            "one": [["1"] * len(moments)],
            "zero": [["0"] * len(moments)],
            "time": [[str(moment - moment % 3600) for moment in moments]],
            "counter": [[str((moment // every) % 10**6) for moment in moments] for every in (3600, 86400)],
            "gauge": [[str(random.randrange(10**9)) for _ in moments] for _ in range(32)],
        }
        with text.open("w") as out:
            for name, shape in all_series:
                values = random.choice(shapes[shape])
                out.write("".join(f"{name} {value} {at}\n" for value, at in zip(values, moments, strict=True)))
                samples += len(moments)
            out.write("# EOF\n")
        limit = f"--max-block-duration={SLICE_S // 3600}h"
        run(
            [program("promtool"), "tsdb", "create-blocks-from", limit, "--quiet", "openmetrics", text, data],
            timeout_s=600,
        )
        begin += SLICE_S
    text.unlink()
    return samples, end


def measure(prometheus: Prometheus, days: int, end: float) -> list[dict[str, Any]]:
    """The median time of each query, slowest first; how many series it answers."""
    measured = []
    for board in BOARDS:
        for panel in (panel for row in board.rows.values() for panel in row):
            for query in panel.queries:
                expression = query.replace("$source", ".*").replace("$repository", ".*")
                taken, found = [], []
                for _ in range(ROUNDS):
                    start = time.perf_counter()
                    if panel.kind == "timeseries":
                        found = prometheus.range(expression, end - days * 86400, end, days * 86400 / POINTS)
                    else:
                        found = prometheus.query(expression, at=end)
                    taken.append(time.perf_counter() - start)
                where = {"dashboard": board.title, "panel": panel.title, "series": len(found)}
                measured.append({**where, "seconds": round(statistics.median(taken), 3)})
    return sorted(measured, key=lambda one: -one["seconds"])


def main() -> int:
    """Fill, ask, report; 1 when the slowest query is over the limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboards", description=__doc__.split("\n")[0])
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--sources", type=int, default=100)
    parser.add_argument("--output", type=Path, help="write the figures here as JSON, too")
    options = parser.parse_args()
    all_series = list(series(options.sources))
    with tempfile.TemporaryDirectory(prefix="mingus-bench-") as name:
        directory = Path(name)
        begin = time.monotonic()
        data = directory / "tsdb"
        samples, end = fill(directory, data, options.days, all_series)
        size = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
        filled_s = time.monotonic() - begin
        with running_prometheus(directory, {}, "--storage.tsdb.retention.time=10y", own_pace=True) as prometheus:
            measured = measure(prometheus, options.days, end)
    report = {
        "days": options.days,
        "sources": options.sources,
        "series": len(all_series),
        "samples": samples,
        "bytes": size,
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "filled_s": round(filled_s, 1),
        "slowest_s": measured[0]["seconds"],
        "empty": [f"{one['dashboard']}: {one['panel']}" for one in measured if not one["series"]],
        "queries": measured,
    }
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({**report, "queries": measured[:10]}, indent=1))
    return 0 if measured[0]["seconds"] <= LIMIT_S else 1


if __name__ == "__main__":
    raise SystemExit(main())
