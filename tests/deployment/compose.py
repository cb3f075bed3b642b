"""docker-compose.yaml as data: its services, and what their environments become without containers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yaml"
VARIABLE = re.compile(r"\$\{(?P<name>[A-Z0-9_]+)(?::(?P<how>[-?])(?P<word>[^}]*))?\}")


def model() -> dict[str, Any]:
    """The file, its anchors merged, its variables as they are written."""
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def services() -> dict[str, dict[str, Any]]:
    """The services by name."""
    return dict(model()["services"])


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """*text* as compose reads it: ``${NAME:-default}`` and ``$$``."""

    def value(match: re.Match[str]) -> str:
        return variables.get(match["name"]) or (match["word"] or "" if match["how"] == "-" else "")

    return VARIABLE.sub(value, text).replace("$$", "$")


def environment(service: str, variables: Mapping[str, str], elsewhere: Mapping[str, str]) -> dict[str, str]:
    """The environment of a service, with the places and hosts of containers replaced by those of *elsewhere*."""
    found = {}
    for name, value in services()[service].get("environment", {}).items():
        text = interpolated(str(value), variables)
        for place, replacement in elsewhere.items():
            text = text.replace(place, replacement)
        found[name] = text
    return found
