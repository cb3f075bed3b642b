"""statsd_exporter and Prometheus beside the demo, where they are installed, with ``include/monitoring``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from demo import processes
from demo.places import REPOSITORY_ROOT, Places, free_ports

_FILES = REPOSITORY_ROOT / "include" / "monitoring"
# The others are not here: they would only be shown as down.
_JOBS = ("statsd-exporter", "prometheus")


class Monitoring:
    """The two programs, as far as they are installed; nothing else of the demo depends on them."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._exporter = _program("statsd_exporter")
        self._prometheus = _program("prometheus")
        self._running: list[subprocess.Popen[bytes]] = []
        self.statsd_port, self._web_port, self.port = free_ports(3)

    @property
    def environment(self) -> dict[str, str]:
        """What makes Airflow send; nothing, where nobody would listen."""
        if self._exporter is None:
            return {}
        return {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
            "AIRFLOW__METRICS__LEGACY_NAMES_ON": "False",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(self.statsd_port),
        }

    @property
    def listens(self) -> bool:
        """Whether anybody takes what Airflow sends."""
        return self._exporter is not None

    def start(self) -> None:
        """Start what is there; call it in the main thread (see ``demo.processes``)."""
        if self._exporter is None:
            return
        self._spawn(
            self._exporter,
            f"--statsd.mapping-config={_FILES / 'statsd-mapping.yml'}",
            f"--statsd.listen-udp=127.0.0.1:{self.statsd_port}",
            "--statsd.listen-tcp=",
            f"--web.listen-address=127.0.0.1:{self._web_port}",
        )
        if self._prometheus is None:
            return
        home = self._places.root / "prometheus"
        home.mkdir()
        shutil.copytree(_FILES / "rules", home / "rules", ignore=shutil.ignore_patterns("tests"))
        (home / "prometheus.yml").write_text(self._configuration(), encoding="utf-8")
        self._spawn(
            self._prometheus,
            f"--config.file={home / 'prometheus.yml'}",
            f"--storage.tsdb.path={home / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        )

    def stop(self) -> None:
        """End them; idempotent."""
        processes.stop(self._running, timeout_s=5)
        self._running.clear()

    def lines(self) -> list[str]:
        """Where they are, or what is missing, for the demo's last words."""
        if self._exporter is None:
            return ["metrics   statsd_exporter is not installed (scripts/setup.sh dev): the demo goes without"]
        found = [f"metrics   http://127.0.0.1:{self._web_port}/metrics"]
        if self._prometheus is None:
            return [*found, "          Prometheus is not installed (apt-get install prometheus)"]
        return [*found, f"alerts    http://127.0.0.1:{self.port}/alerts (Prometheus)"]

    def _configuration(self) -> str:
        document = yaml.safe_load((_FILES / "prometheus.yml").read_text(encoding="utf-8"))
        del document["alerting"]
        document["scrape_configs"] = [job for job in document["scrape_configs"] if job["job_name"] in _JOBS]
        text = yaml.safe_dump(document, sort_keys=False)
        return text.replace("statsd-exporter:9102", f"127.0.0.1:{self._web_port}").replace(
            "localhost:9090", f"127.0.0.1:{self.port}"
        )

    def _spawn(self, program: Path, *arguments: str) -> None:
        log = self._places.logs / f"{program.name}.log"
        self._running.append(processes.start([program, *arguments], mark=self._places.root, log=log))


def _program(name: str) -> Path | None:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    return Path(found) if found else None
