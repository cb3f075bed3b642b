"""The services of docker-compose.yaml as processes of this machine: their environments, their commands, their scripts.

What containers add (images, networks, confinement) is not tried here; everything they are told to run is: the entry
scripts, the initial step, Airflow's components with FAB and PostgreSQL, once by LocalExecutor and once by two Celery
workers, and a night's backup of both sources, shipped to the S3 server and proven from there.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from demo.api import AirflowApi
from tests.deployment.compose import ROOT, environment, interpolated, services
from tests.support import processes
from tests.support.directories import make_directory
from tests.support.pg_versions import PgVersion
from tests.support.postgres import SUPERUSER, PgCluster
from tests.support.processes import unprivileged_user, wait_until

pytestmark = [pytest.mark.airflow, pytest.mark.soak, pytest.mark.timeout(1500)]

COMPONENTS = ("airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
HEALTH = ("metadatabase", "scheduler", "dag_processor", "triggerer")


@dataclass
class Machine:
    """Where the services are on this machine."""

    home: Path
    variables: dict[str, str]
    elsewhere: dict[str, str]
    stack: ExitStack
    running: dict[str, Any] = field(default_factory=dict)

    def environment(self, service: str) -> dict[str, str]:
        """The service's own, and what its image would add."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHONPATH"))
        }
        return {
            **inherited,
            "AIRFLOW_HOME": str(self.home / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PYTHONPATH": str(ROOT / "plugins"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **environment(service, self.variables, self.elsewhere),
            "AIRFLOW__API__PORT": self.variables["API_PORT"],
            "AIRFLOW__API__WORKERS": "1",
        }

    def start(self, service: str, *command: str | Path, name: str = "", **more: str) -> None:
        """Start a service; its log is named after it."""
        log = self.stack.enter_context((self.home / f"{name or service}.log").open("ab"))
        env = {**self.environment(service), **more}
        # Not added to this process's environment: what the shell says of another Airflow must not reach this one.
        line = ["env", "-i", *(f"{key}={value}" for key, value in env.items()), *(str(part) for part in command)]
        process = processes.start(line, log=log, cwd=self.home, parent_death_signal="TERM")
        self.running[name or service] = process
        self.stack.callback(processes.stop, process, timeout_s=30)

    def component(self, service: str, *more: str, name: str = "") -> None:
        """Start a component of Airflow as the image's entry does."""
        wrap = ROOT / "include" / "docker" / "with-secrets.sh"
        self.start(service, wrap, "airflow", *(str(p) for p in services()[service]["command"]), *more, name=name)

    def run(self, service: str, *command: str | Path) -> str:
        """Run a command to its end as it would in the service's container; returns what it wrote."""
        env = self.environment(service)
        line = ["env", "-i", *(f"{key}={value}" for key, value in env.items()), *(str(part) for part in command)]
        return processes.run(line, cwd=self.home, timeout_s=300).stdout

    def healthy(self, component: str) -> bool:
        """What the service's health check says."""
        for name, process in self.running.items():
            assert process.poll() is None, f"{name}\n{(self.home / f'{name}.log').read_text()[-3000:]}"
        script = ROOT / "include" / "docker" / "healthy.sh"
        url = f"http://127.0.0.1:{self.variables['API_PORT']}"
        env = {"HEALTH_URL": url}
        return processes.run([script, component], env=env, check=False).returncode == 0


def _postgres(machine: Machine, version: PgVersion, name: str) -> PgCluster:
    cluster = PgCluster.create(version, machine.home / name, checksums=True)
    machine.stack.enter_context(cluster)
    return cluster.start()


@pytest.fixture
def machine(pg_versions: dict[int, PgVersion], workspace: Path) -> Iterator[Machine]:
    home = make_directory(workspace / "processes")
    with ExitStack() as stack:
        ports = {name: str(processes.free_port()) for name in ("api", "s3", "redis", "broker", "statsd")}
        found = Machine(home, {}, {}, stack)
        # Both of the version whose programs restore tests find on any machine of the tests.
        metadata, demo = (_postgres(found, pg_versions[15], name) for name in ("metadata", "demo"))
        processes.run([ROOT / "scripts" / "compose-init.sh", home])
        secrets = home / "secrets"
        for secret in ("metadata_url", "result_url", "broker_url"):
            path = secrets / f"{secret}.txt"
            text = path.read_text().replace("@metadata:5432", f"@127.0.0.1:{metadata.port}")
            path.unlink()
            path.write_text(text.replace("@broker:6379", f"@127.0.0.1:{ports['broker']}"))
        # As compose shows them: without the ending.
        for path in secrets.iterdir():
            path.rename(path.with_suffix(""))
        password = (secrets / "metadata_password").read_text()
        metadata.execute(f"create role airflow login password '{password}'", "create database airflow owner airflow")
        found.variables |= {
            "API_PORT": ports["api"],
            "POSTGRES_HOST": "127.0.0.1",
            "POSTGRES_PORT": str(demo.port),
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": ports["redis"],
            "BACKUP_S3_ENDPOINT": f"http://127.0.0.1:{ports['s3']}",
            "AIRFLOW_URL": f"http://localhost:{ports['api']}",
        }
        found.elsewhere |= {
            "/run/secrets": str(secrets),
            "/etc/mingus": str(home),
            "/opt/airflow": str(home / "airflow"),
            "airflow-apiserver:8080": f"127.0.0.1:{ports['api']}",
            "statsd-exporter": "127.0.0.1",
        }
        settings = (ROOT / "include" / "docker" / "mingus.yaml").read_text()
        settings = settings.replace("/run/secrets", str(secrets)).replace("/var/lib/mingus", str(home / "state"))
        (home / "mingus.yaml").write_text(settings)
        for path in ("airflow", "state", "state/repositories", "s3", "redis", "broker-data"):
            make_directory(home / path)

        scripts = ROOT / "include" / "docker"
        found.start("s3", scripts / "s3.sh", S3_ADDRESS=f"127.0.0.1:{ports['s3']}", S3_DIRECTORY=str(home / "s3"))
        for service, port, directory in (("demo-redis", "redis", "redis"), ("broker", "broker", "broker-data")):
            place = {"REDIS_DIRECTORY": str(home / directory), "REDIS_CONFIG": str(home / f"{service}.conf")}
            found.start(service, scripts / "redis.sh", REDIS_PORT=ports[port], **place)
        _fill(found, demo)
        yield found


def _fill(machine: Machine, demo: PgCluster) -> None:
    """What the entry of the image `postgres` does with the scripts of its folder, as the server's owner."""
    env = environment("demo-postgres", {**machine.variables, "MINGUS_DEMO_SIZE_MB": "5"}, machine.elsewhere)
    own = {
        "POSTGRES_USER": SUPERUSER,
        "PGDATA": str(demo.data_directory),
        "PGHOST": str(demo.socket_directory),
        "PGPORT": str(demo.port),
        "LEDGER_SQL": str(ROOT / "demo" / "ledger.sql"),
        "PSQL": shutil.which("psql") or "psql",
    }
    processes.run(["sh", ROOT / "include" / "docker" / "demo-postgres.sh"], env={**env, **own})
    user = unprivileged_user()
    if user is not None:
        os.chown(demo.data_directory / "pg_hba.conf", user.uid, user.gid)
    demo.reload()
    assert demo.value("select count(*) from posting", dbname="ledger") > 1000


@pytest.mark.parametrize("executor", ["LocalExecutor", "CeleryExecutor"])
def test_a_night_in_the_deployment_backs_up_ships_and_proves(machine: Machine, executor: str) -> None:
    machine.variables["AIRFLOW_EXECUTOR"] = executor
    init = ["sh", ROOT / "include" / "docker" / "init.sh"]
    assert "account admin (Admin)" in machine.run("airflow-init", *init)
    assert "initialise: done" in machine.run("airflow-init", *init)
    for repository in ("primary", "offsite"):
        wrap = ROOT / "include" / "docker" / "with-secrets.sh"
        line = [wrap, "python", "-m", "mingus_engine", "init", repository]
        assert "escrow" in machine.run("airflow-scheduler", *line)
    for service in COMPONENTS:
        machine.component(service)
    if executor == "CeleryExecutor":
        for number in ("1", "2"):
            more = ("--celery-hostname", f"w{number}@localhost", "--skip-serve-logs")
            machine.component("airflow-worker", *more, name=f"worker{number}")
    wait_until(lambda: all(machine.healthy(component) for component in HEALTH), "all are healthy", timeout_s=400)
    assert not machine.healthy("flux capacitor")

    url = interpolated("http://127.0.0.1:${API_PORT}", machine.variables)
    api = AirflowApi(url, "admin", (machine.home / "secrets" / "admin_password").read_text())
    runs = {}
    for dag in ("backup_postgres_full", "backup_redis_snapshot"):
        api.wait_for_dag(dag)
        runs[dag] = api.trigger(dag)
    for dag, run in runs.items():

        def ended(dag: str = dag, run: str = run) -> str | None:
            state = api.run_state(dag, run)
            return state if state in {"success", "failed"} else None

        assert wait_until(ended, f"the end of {dag}", timeout_s=600) == "success", api.tasks(dag, run)
        proof = api.report(dag, run, "source.verify", 0)
        assert (proof["repository"], proof["ok"]) == ("offsite", True)
    if executor == "CeleryExecutor":
        hosts = {task["hostname"] for dag, run in runs.items() for task in api.tasks(dag, run)}
        assert hosts, hosts
        logs = [(machine.home / f"worker{number}.log").read_text() for number in "12"]
        assert all("succeeded" in log for log in logs)
    for name in ("backup_encryption_key", "s3_secret_key", "admin_password", "metadata_password", "jwt_secret"):
        secret = (machine.home / "secrets" / name).read_text().strip()
        for log in machine.home.rglob("*.log"):
            with suppress(FileNotFoundError):
                assert secret not in log.read_text(errors="replace"), (name, log)
