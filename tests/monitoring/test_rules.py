"""Recording and alert rules: promtool's unit tests, and that what they name exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mingus_engine.jobs.health.gauges import METRICS
from tests.support.monitoring import FILES, MAPPING, ROOT, program
from tests.support.processes import run

RULES = sorted((FILES / "rules").glob("*.yml"))
TESTS = sorted((FILES / "rules" / "tests").glob("*.yml"))
SEVERITIES = {"critical", "warning", "info", "none"}
# Not ours: Prometheus', Alertmanager's, the exporter's and Airflow's (test_mapping.py has those).
FOREIGN = re.compile(r"^(up|airflow_\w+|alertmanager_\w+|prometheus_\w+|statsd_exporter_\w+)$")
NAMES = re.compile(r"(?<![\w:\"$.])([a-z][a-z_:0-9]*[a-z0-9])(?=[\[{ )]|$)")
WORDS = re.compile(
    r"^(sum|min|max|avg|by|on|or|and|unless|ignoring|group_left|offset|bool|count|vector|time|abs|scalar|\d+[smhd])$"
)


def rules(kind: str) -> list[dict[str, Any]]:
    """All rules of a kind (``alert`` or ``record``)."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def metrics_of(expression: str) -> set[str]:
    """Names of metrics in an expression."""
    text = re.sub(r"\{[^}]*\}", " ", expression)
    text = re.sub(r"\b(by|on|ignoring|group_left) \([^)]*\)", " ", text)
    return {name for name in NAMES.findall(text) if not WORDS.match(name)}


def test_promtool_accepts_configuration_and_rules() -> None:
    run([program("promtool"), "check", "config", FILES / "prometheus.yml"])
    run([program("promtool"), "check", "rules", *RULES])


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_unit_tests_of_rules_pass(path: Path) -> None:
    run([program("promtool"), "test", "rules", path])


def test_each_alert_is_tested_to_fire_and_not_to_fire() -> None:
    fires, silent = set(), set()
    for path in TESTS:
        for case in yaml.safe_load(path.read_text())["tests"]:
            for expected in case["promql_expr_test"]:
                name = re.search(r'alertname="(\w+)"', expected["expr"])
                assert name is not None, expected
                (fires if expected["exp_samples"] else silent).add(name[1])
    alerts = {rule["alert"] for rule in rules("alert")}
    assert fires == alerts
    assert silent == alerts - {"Watchdog"}


def test_each_alert_says_what_it_means_what_to_do_and_where_it_is_explained() -> None:
    text = (ROOT / "docs" / "MONITORING.md").read_text()
    anchors = {heading.strip().lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    for rule in rules("alert"):
        said = rule["annotations"]
        assert rule["labels"]["severity"] in SEVERITIES
        assert {"summary", "description", "next_step", "runbook"} == said.keys(), rule["alert"]
        assert all(said.values()), rule["alert"]
        document, _, anchor = said["runbook"].partition("#")
        assert (document, anchor) == ("docs/MONITORING.md", rule["alert"].lower())
        assert anchor in anchors


def test_rules_name_only_metrics_that_are_sent_or_recorded() -> None:
    recorded = {rule["record"] for rule in rules("record")}
    histograms = {name for name, metric in METRICS.items() if metric.type == "histogram"}
    known = METRICS.keys() | recorded | {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}
    for rule in [*rules("alert"), *rules("record")]:
        names = metrics_of(rule["expr"])
        unknown = {name for name in names if name not in known and not FOREIGN.match(name)}
        unknown -= {name for name in names if name.endswith("_over_time") or name in {"increase", "delta", "absent"}}
        assert not unknown, rule


def test_targets_are_bounds_of_the_histograms() -> None:
    mapping = yaml.safe_load(MAPPING.read_text())
    ours = next(m for m in mapping["mappings"] if "mingus" in m["match"] and m["match_metric_type"] == "observer")
    targets = {rule["record"]: float(rule["expr"][7:-1]) for rule in rules("record") if "_target_s" in rule["record"]}
    counted = " ".join(rule["expr"] for rule in rules("record"))
    for name in ("mingus:backup_target_seconds", "mingus:rto_target_seconds"):
        assert targets[name] in ours["histogram_options"]["buckets"]
        assert f'le=~"{targets[name]:.0f}(' in counted
