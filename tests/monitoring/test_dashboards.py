"""The dashboards' JSON: one source of truth, and everything that it names exists."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest
import yaml

from mingus_engine.jobs.health.gauges import METRICS
from scripts.dashboards.__main__ import TARGET, written
from tests.monitoring.test_rules import FOREIGN, metrics_of, rules
from tests.support.monitoring import FILES, ROOT

BOARDS = [json.loads(path.read_text()) for path in sorted(TARGET.glob("*.json"))]
by_title = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board["uid"])


def drawn(board: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels that show something."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def test_the_files_are_what_their_source_writes() -> None:
    assert {path.name: path.read_text() for path in TARGET.glob("*.json")} == written()
    assert {board["title"].removeprefix("MINGUS ") for board in BOARDS} == {
        *("Backup Overview", "Recovery", "System Health", "Compliance Status")
    }


@by_title
def test_panels_have_numbers_of_their_own_and_do_not_overlap(board: dict[str, Any]) -> None:
    places = [panel["gridPos"] for panel in board["panels"]]
    assert len({panel["id"] for panel in board["panels"]}) == len(places)
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for a, b in combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


@by_title
def test_data_source_and_variables_exist(board: dict[str, Any]) -> None:
    provisioned = yaml.safe_load((FILES / "grafana/provisioning/datasources/prometheus.yml").read_text())
    uids = {source["uid"] for source in provisioned["datasources"]}
    assert {found["datasource"]["uid"] for panel in drawn(board) for found in (panel, *panel["targets"])} == uids
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)\}?", json.dumps(board)))
    assert used == variables == {"source", "repository", "airflow"}


@by_title
def test_queries_name_metrics_and_labels_that_are_sent(board: dict[str, Any]) -> None:
    recorded = {rule["record"] for rule in rules("record")}
    histograms = {f"{n}_{part}" for n, m in METRICS.items() if m.type == "histogram" for part in ("sum", "count")}
    for panel in drawn(board):
        for target in panel["targets"]:
            found = metrics_of(target["expr"]) - {"increase", "rate", "ALERTS"}
            assert {n for n in found if not FOREIGN.match(n)} <= METRICS.keys() | recorded | histograms, target["expr"]
            for name, selector in re.findall(r"([a-z_]+)\{([^}]*)\}", target["expr"]):
                if name in METRICS:
                    labels = set(re.findall(r"(\w+)=", selector))
                    assert labels <= {*METRICS[name].labels, *METRICS[name].optional}, target["expr"]


@by_title
def test_each_panel_explains_itself_and_links_to_a_dag_that_exists(board: dict[str, Any]) -> None:
    dags = {path.stem for path in (ROOT / "dags").glob("*.py")}
    links = [link["url"] for link in board["links"] if link["type"] == "link"]
    for panel in drawn(board):
        assert panel["description"]
        links += [link["url"] for link in panel["fieldConfig"]["defaults"]["links"]]
    for url in links:
        linked = re.fullmatch(r"\$\{airflow\}/dags(?:/([\w$.{}]+)/runs)?", url)
        assert linked is not None, url
        assert linked[1] in {None, "${__field.labels.dag_id}", *dags}
