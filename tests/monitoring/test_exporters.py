"""The exporters of machine and servers, with the options and variables of compose, scraped by its Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scripts.dashboards.__main__ import TARGET
from tests.deployment.compose import environment, services
from tests.deployment.test_compose import DEBIAN, PORTS
from tests.support.directories import make_directory
from tests.support.monitoring import ROOT, program, running_program, running_prometheus
from tests.support.postgres import SUPERUSER, PgCluster
from tests.support.processes import free_port, wait_until
from tests.support.redis import RedisServer

# What each shows only when it reaches what it exports.
PROOFS = {
    "node-exporter": "node_memory_MemTotal_bytes > 0",
    "postgres-exporter": "pg_up == 1",
    "redis-exporter": "redis_up == 1",
}


@contextmanager
def exporter(service: str, directory: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """The exporter as compose starts it; its address here. :param variables: of .env."""
    address = f"127.0.0.1:{free_port()}"
    # Of containers: the machine's root, and the port.
    places = {"=/host": "=/", f"=:{PORTS[service]}": f"={address}"}
    options = [str(option) for option in services()[service]["command"]]
    for inside, here in places.items():
        options = [option.replace(inside, here) for option in options]
    command: list[str | Path] = [program(DEBIAN[service]), *options]
    if "with-secrets.sh" in str(services()[service].get("entrypoint")):
        command = [ROOT / "include" / "docker" / "with-secrets.sh", *command]
    env = environment(service, variables, {"/run/secrets": str(directory)})
    with running_program(command, directory / f"{service}.log", f"http://{address}/metrics", env):
        yield address


def test_the_exporters_of_machine_and_servers_are_scraped_and_reach_what_they_export(
    pg15: PgCluster, workspace: Path
) -> None:
    redis = RedisServer(workspace / "redis", {"requirepass": "pw-of-the-exporter-4714"})
    secrets = make_directory(workspace / "secrets")
    (secrets / "source_postgres_password").write_text(str(pg15.password))
    (secrets / "source_redis_password").write_text(str(redis.password))
    variables = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(pg15.port), "POSTGRES_USER": SUPERUSER}
    variables |= {"POSTGRES_DB": "postgres", "POSTGRES_SSLMODE": "disable"}
    variables |= {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis.port)}
    with ExitStack() as stack:
        stack.enter_context(redis.start())
        addresses = {
            f"{service}:{PORTS[service]}": stack.enter_context(exporter(service, secrets, variables))
            for service in PROOFS
        }
        prometheus = stack.enter_context(running_prometheus(workspace, addresses))
        wait_until(
            lambda: PROOFS.keys() <= {job for job, how in prometheus.targets().items() if how == "up"}, "scraped"
        )
        for service, query in PROOFS.items():
            wait_until(lambda query=query: prometheus.query(query), f"{service}: {query}", timeout_s=30)
        panels = {
            panel["title"]: target["expr"]
            for path in TARGET.glob("*.json")
            for panel in json.loads(path.read_text())["panels"]
            for target in panel.get("targets", [])
            if re.search(r"\bup\b", target["expr"])
        }
        assert panels.keys() == {"Scrapes", "Exporters down"}
        assert all(prometheus.query(query) for query in panels.values())
        assert PROOFS.keys() <= {found["metric"]["job"] for found in prometheus.query(f"{panels['Scrapes']} == 1")}
