"""What the exporter makes of MINGUS' and Airflow's metrics."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from mingus_engine.jobs.health.gauges import METRICS, Metric
from tests.support.monitoring import MAPPING, Exporter, running_exporter

TYPES = {"counter": "c", "gauge": "g", "histogram": "ms", "timer": "ms"}


def line_of(metric: Metric, values: dict[str, str] | None = None, value: float = 1500) -> str:
    """The StatsD line of a metric, as Airflow writes it."""
    tags = "".join(f",{label}={(values or {}).get(label, 'some')}" for label in metric.labels)
    return f"airflow.mingus.{metric.name}{tags}:{value}|{TYPES[metric.type]}"


def without_last_rule(directory: Path) -> Path:
    """The mapping without its last rule: what only that one would drop becomes an unmapped series."""
    mapping = yaml.safe_load(MAPPING.read_text())
    assert mapping["mappings"].pop()["match"] == "."
    (directory / "mapping.yml").write_text(yaml.safe_dump(mapping, sort_keys=False))
    return directory / "mapping.yml"


def sent(exporter: Exporter, lines: list[str]) -> dict[str, float]:
    """Send lines and return all series when the exporter has handled them."""
    exporter.send([*lines, "airflow.mingus.end_of_test:1|c"])
    exporter.wait_for("end_of_test")
    return exporter.series()


def own(series: dict[str, float]) -> set[str]:
    """Names of series that are not the exporter's own."""
    return {name for name in series if not name.startswith(("statsd_", "go_", "process_", "promhttp_", "end_of_test"))}


def clean(series: dict[str, float]) -> None:
    """Nothing unmapped, in conflict or refused."""
    assert series["statsd_exporter_events_unmapped_total"] == 0
    for name, value in series.items():
        if name.startswith(("statsd_exporter_events_conflict_total", "statsd_exporter_events_error_total")):
            assert value == 0, name
        if name.startswith(("statsd_exporter_sample_errors_total", "statsd_exporter_tag_errors_total")):
            assert value == 0, name


def test_each_metric_of_the_product_has_its_name_and_labels_after_the_exporter(workspace: Path) -> None:
    with running_exporter(workspace) as exporter:
        series = sent(exporter, [line_of(metric) for metric in METRICS.values()])
    clean(series)
    for metric in METRICS.values():
        labels = ",".join(f'{label}="some"' for label in sorted(metric.labels))
        suffix, value = ("_sum", 1.5) if metric.type == "histogram" else ("", 1500)
        assert series[f"{metric.name}{suffix}" + (f"{{{labels}}}" if labels else "")] == value


def test_durations_fall_into_buckets_from_a_second_to_a_day(workspace: Path) -> None:
    metric = METRICS["backup_duration_seconds"]
    with running_exporter(workspace) as exporter:
        series = sent(exporter, [line_of(metric, value=3_000_000)])  # 50 min
    buckets = {
        name.split('le="')[1].split('"')[0]: value for name, value in series.items() if f"{metric.name}_bucket" in name
    }
    assert {"1", "3600", "7200", "14400", "86400", "+Inf"} <= buckets.keys()
    assert (buckets["1800"], buckets["3600"]) == (0, 1)


@pytest.mark.parametrize("source", ["0", "a-b-c", "x" * 63, "null", "le", "mingus"])
def test_odd_ids_of_sources_arrive_unchanged(source: str, workspace: Path) -> None:
    metric = METRICS["recovery_point_age_seconds"]
    with running_exporter(workspace) as exporter:
        series = sent(exporter, [line_of(metric, {"source": source, "repository": "s3.eu_1"})])
    clean(series)
    assert own(series) == {f'{metric.name}{{kind="some",repository="s3.eu_1",source="{source}"}}'}


def test_garbage_is_counted_and_changes_nothing_else(workspace: Path) -> None:
    garbage = ["", "nonsense", "airflow.mingus.x:y|c", "airflow.mingus.snapshots:1|z", "a" * 3000, "\x00\xff:1|g"]
    with running_exporter(workspace) as exporter:
        series = sent(exporter, [*garbage, "airflow.unheard.of.with.run.id.4711:1|c"])
    assert own(series) == set()


def registry() -> list[dict[str, Any]]:
    """Airflow's own list of its metrics."""
    place = resources.files("airflow._shared.observability.metrics") / "metrics_template.yaml"
    found: list[dict[str, Any]] = yaml.safe_load(place.read_text())["metrics"]
    return found


def test_everything_in_airflows_registry_is_mapped_with_labels_and_its_second_form_is_dropped(workspace: Path) -> None:
    lines, expected = [], 0
    for metric in registry():
        values = dict.fromkeys(metric["name_variables"], "some_thing.x-1")
        in_name = {name: "SchedulerJob" if name == "job_name" else value for name, value in values.items()}
        tags = "".join(f",{name}={value}" for name, value in values.items() if f"{{{name}}}" not in metric["name"])
        kind = TYPES[metric["type"]]
        lines.append(f"airflow.{metric['name'].format(**in_name)}{tags}:7|{kind}")
        if metric["legacy_name"] != "-" and metric["legacy_name"] != metric["name"]:
            second = metric["legacy_name"].format(**{k: v.replace(".", "__") for k, v in values.items()})
            lines.append(f"airflow.{second}:7|{kind}")
        expected += metric["name"] not in {
            "dag_processing.processes",
            "dag_processing.last_num_of_db_queries.{dag_file}",
        }
    with running_exporter(workspace, without_last_rule(workspace)) as exporter:
        series = sent(exporter, lines)
    clean(series)
    mine = {name for name in own(series) if "_bucket{" not in name and not name.split("{")[0].endswith("_sum")}
    assert len(mine) == expected
    assert all(name.startswith("airflow_") for name in mine)
    # The values of labels are in labels only.
    assert not [name for name in mine if "some_thing" in name.split("{")[0]]
