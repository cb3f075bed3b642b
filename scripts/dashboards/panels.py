"""Panels, rows and dashboards as Grafana's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# grafana/provisioning/datasources/prometheus.yml has the same.
DATASOURCE = {"type": "prometheus", "uid": "mingus-prometheus"}
WIDTH = 24
GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True)
class Panel:
    """One panel.

    :param queries: expression → legend. :param unit: Grafana's name of the unit. :param width: of 24.
    :param kind: ``stat``, ``timeseries`` or ``table``. :param steps: (from value, colour), the first without a value.
    :param mapping: value → text, for states. :param link: path below Airflow's address; ``${__field.labels.x}`` is a
        label.
    """

    title: str
    queries: Mapping[str, str]
    description: str
    unit: str = "short"
    kind: str = "timeseries"
    steps: Sequence[tuple[float | None, str]] = ((None, GREEN),)
    mapping: Mapping[str, str] = field(default_factory=dict)
    width: int = 12
    height: int = 8
    link: str = "/dags"

    def as_json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """The panel at a place of the grid."""
        lines = self.kind == "timeseries" and len(self.steps) > 1
        defaults: dict[str, Any] = {
            "unit": self.unit,
            "color": {"mode": "palette-classic" if self.kind == "timeseries" else "thresholds"},
            "thresholds": {"mode": "absolute", "steps": [{"value": v, "color": c} for v, c in self.steps]},
            "links": [{"title": "Airflow", "url": "${airflow}" + self.link, "targetBlank": True}],
            "custom": {"thresholdsStyle": {"mode": "line"}} if lines else {},
        }
        if self.mapping:
            options = {
                value: {"text": text, "index": index} for index, (value, text) in enumerate(self.mapping.items())
            }
            defaults["mappings"] = [{"type": "value", "options": options}]
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": _options(self.kind),
            "targets": [
                {
                    "refId": chr(ord("A") + index),
                    "datasource": DATASOURCE,
                    "expr": expression,
                    "legendFormat": legend,
                    "instant": self.kind != "timeseries",
                    "range": self.kind == "timeseries",
                    "format": "table" if self.kind == "table" else "time_series",
                }
                for index, (expression, legend) in enumerate(self.queries.items())
            ],
            "transformations": _TABLE if self.kind == "table" else [],
        }


# A table shows the labels and the value; scrape labels say nothing to its reader.
_TABLE = [
    {
        "id": "organize",
        "options": {"excludeByName": dict.fromkeys(("Time", "__name__", "instance", "job"), True)},
    }
]


def _options(kind: str) -> dict[str, Any]:
    if kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "background"}
    if kind == "timeseries":
        legend = {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"], "showLegend": True}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    return {"showHeader": True}


@dataclass(frozen=True)
class Board:
    """A dashboard: rows of panels under headings.

    :param links: title → path below Airflow's address.
    """

    uid: str
    title: str
    description: str
    rows: Mapping[str, Sequence[Panel]]
    links: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """What Grafana's provisioning reads."""
        panels: list[dict[str, Any]] = []
        y = 0
        for heading, members in self.rows.items():
            place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
            row = {"id": len(panels) + 1, "type": "row", "title": heading, "collapsed": False, "panels": []}
            panels.append({**row, "gridPos": place})
            x, y, lowest = 0, y + 1, 0
            for panel in members:
                if x + panel.width > WIDTH:
                    x, y, lowest = 0, y + lowest, 0
                panels.append(panel.as_json(len(panels) + 1, x, y))
                x, lowest = x + panel.width, max(lowest, panel.height)
            y += lowest
        others = {"title": "MINGUS", "type": "dashboards", "tags": ["mingus"], "asDropdown": True}
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["mingus"],
            "schemaVersion": 39,
            "version": 1,
            "editable": False,
            "timezone": "browser",
            "refresh": "1m",
            "time": {"from": "now-7d", "to": "now"},
            "templating": {"list": [_variable("source"), _variable("repository"), _AIRFLOW]},
            "annotations": {"list": []},
            "links": [
                {**others, "targetBlank": False},
                *(
                    {"title": title, "type": "link", "url": "${airflow}" + path, "targetBlank": True}
                    for title, path in self.links.items()
                ),
            ],
            "panels": panels,
        }


_AIRFLOW = {
    "name": "airflow",
    "label": "Airflow",
    "type": "textbox",
    "query": "http://localhost:8080",
    "current": {"text": "http://localhost:8080", "value": "http://localhost:8080"},
}


def _variable(label: str) -> dict[str, Any]:
    query = f"label_values(recovery_point_age_seconds, {label})"
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
