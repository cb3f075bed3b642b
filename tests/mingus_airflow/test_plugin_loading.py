"""What Airflow's plugin loader does with plugins/: it must see one file, and replace no module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mingus_airflow.support import ROOT, airflow_environment

pytestmark = pytest.mark.airflow

# In a process of its own: the loader runs once per process.
_PROGRAM = """
import json, sys
import airflow.settings
for name in sys.argv[1].split(","):  # stems of our files: what the loader might replace
    try:
        __import__(name)
    except ImportError:
        pass
before = dict(sys.modules)
from airflow import plugins_manager
plugins, errors = plugins_manager._get_plugins()
ours = sys.argv[2]
print("RESULT " + json.dumps({
    "plugins": [p.name for p in plugins if type(p).__module__.startswith("mingus")],
    "errors": errors,
    "replaced": [n for n, m in before.items() if sys.modules.get(n) is not m],
    "ours": sorted(n for n, m in sys.modules.items()
                   if str(getattr(m, "__file__", "") or "").startswith(ours) and n not in before),
}))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict:
    plugins = ROOT / "plugins"
    stems = {path.stem for path in plugins.rglob("*.py")} - {"__init__", "__main__", "mingus_plugin"}
    home = tmp_path_factory.mktemp("airflow-plugins")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, ",".join(sorted(stems)), str(plugins)],
        env={**environment, **airflow_environment(home), "PYTHONPATH": ""},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, result.stdout + result.stderr
    return json.loads(lines[0].removeprefix("RESULT "))


def test_only_our_plugin_is_loaded_and_without_error(loaded: dict) -> None:
    assert loaded["errors"] == {}
    assert loaded["plugins"] == ["mingus"]


def test_no_module_is_replaced(loaded: dict) -> None:
    assert loaded["replaced"] == []


def test_our_modules_are_known_by_their_full_names_only(loaded: dict) -> None:
    assert "mingus_plugin" in loaded["ours"]
    strays = [
        n for n in loaded["ours"] if not n.startswith(("mingus_airflow", "mingus_engine")) and n != "mingus_plugin"
    ]
    assert strays == []


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_without_the_ignore_file_modules_would_be_replaced(tmp_path: Path) -> None:
    """The danger is real: were this to pass some day without the file, the file could go."""
    from airflow._shared.module_loading import find_path_from_directory

    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "redis.py").write_text("")
    assert [Path(p).name for p in find_path_from_directory(str(tmp_path), ".airflowignore", "glob")] == ["redis.py"]
    seen = find_path_from_directory(str(ROOT / "plugins"), ".airflowignore", "glob")
    assert [Path(p).name for p in seen] == ["mingus_plugin.py"]
