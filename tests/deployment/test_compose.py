"""What docker-compose.yaml, the Dockerfile and the scripts name is there, and used. No container is started."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployment.compose import FILE, ROOT, VARIABLE, model, services
from tests.support import processes

EXAMPLE = ROOT / ".env.example"
SETTINGS = ROOT / "include" / "docker" / "mingus.yaml"
COMPOSE_GO = "github.com/compose-spec/compose-go/v2/cmd@v2.9.0"
SERVICES = sorted(services())
ONE_SHOT = {"airflow-init"}
# The port that each service is asked at by Prometheus, and by the others.
PORTS = {
    "statsd-exporter": "9102",
    "alertmanager": "9093",
    "grafana": "3000",
    "node-exporter": "9100",
    "postgres-exporter": "9187",
    "redis-exporter": "9121",
}
# Programs of Debian that are those of the images, where they are installed.
DEBIAN = {
    "prometheus": "prometheus",
    "alertmanager": "prometheus-alertmanager",
    "node-exporter": "prometheus-node-exporter",
    "postgres-exporter": "prometheus-postgres-exporter",
    "redis-exporter": "prometheus-redis-exporter",
    "statsd-exporter": "statsd_exporter",
}


def example() -> dict[str, str]:
    """The variables of .env.example, also those that only show a default."""
    return dict(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def bind_mounts(service: str) -> dict[str, str]:
    """Files and folders of the tree that a service mounts → where."""
    found = {}
    for mount in services()[service].get("volumes", ()):
        text = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", mount)
        source, _, rest = text.partition(":")
        if source.startswith("."):
            found[source] = rest.partition(":")[0]
    return found


@pytest.fixture(scope="session")
def validator() -> list[str]:
    """A command that reads compose files as ``docker compose`` does: it, or the library that it is made of."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose", "--profile", "*", "--file", str(FILE), "config", "--quiet"]
    program = ROOT / "build" / "compose-go" / "cmd"
    if not program.exists():
        go = shutil.which("go")
        if go is None:
            pytest.skip("neither `docker compose` nor Go, to build the library that it is made of")
        environment = {**os.environ, "GOBIN": str(program.parent), "GOFLAGS": "-modcacherw"}
        install = [go, "install", COMPOSE_GO]
        built = subprocess.run(install, env=environment, check=False, timeout=240, capture_output=True)
        if built.returncode != 0:  # Debian's Go is too old for it
            pytest.skip(f"this Go cannot build it: {built.stderr[-300:]!r}")
    return [str(program), str(FILE)]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What ``scripts/compose-init.sh`` makes in a clean clone."""
    processes.run([ROOT / "scripts" / "compose-init.sh", tmp_path])
    return tmp_path


def test_compose_reads_the_file_and_finds_nothing_wrong(validator: list[str]) -> None:
    result = subprocess.run(validator, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_the_same_file_with_a_mistake_is_refused(validator: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yaml"
    broken.write_text(FILE.read_text().replace("    mem_limit: 1g\n", "    memory_limit: 1g\n"))
    command = [part.replace(str(FILE), str(broken)) for part in validator]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False).returncode != 0


def test_every_variable_is_explained_in_the_example_with_its_default_and_none_is_explained_in_vain() -> None:
    used: dict[str, set[str]] = {}
    for file in (FILE, SETTINGS):
        text = re.sub(r"#.*", "", file.read_text())
        for match in VARIABLE.finditer(text):
            used.setdefault(match["name"], set()).add(match["word"] or "")
    explained = example()
    # Read by compose itself.
    assert explained.pop("COMPOSE_PROFILES") == "demo"
    assert explained.keys() == used.keys()
    assert {name: {default} for name, default in explained.items()} == used


def test_the_example_holds_no_secret_and_compose_no_secret_but_by_file() -> None:
    for name, value in example().items():
        assert not re.search("PASSWORD|SECRET|KEY|TOKEN|WEBHOOK", name), name
        assert not value.startswith("http") or "@" not in value
    for service, description in services().items():
        for name, value in description.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|_KEY|TOKEN|WEBHOOK|_CONN(_|$)|BROKER_URL|RESULT_BACKEND", name.upper()):
                by_file = name == "SECRETS_FROM_FILES" or name.endswith(("_FILE", "_CMD"))
                assert by_file, f"{service}: {name}={value}"


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_mounts_is_in_the_tree_and_each_secret_that_it_names_is_given_to_it(service: str) -> None:
    description = services()[service]
    for source in bind_mounts(service):
        assert (ROOT / source).exists(), source
    given = set(description.get("secrets", ()))
    named = set(re.findall(r"/run/secrets/(\w+)", yaml.safe_dump(description.get("environment", {}))))
    settings = set(re.findall(r"/run/secrets/(\w+)", SETTINGS.read_text()))
    runs_tasks = service in {"airflow-scheduler", "airflow-worker"}
    assert named <= given, service
    assert given - named <= (settings if runs_tasks else set())
    assert not runs_tasks or settings <= given


def test_what_runs_no_task_has_no_key_of_a_backup() -> None:
    key = "backup_encryption_key"
    assert {name for name, one in services().items() if key in one.get("secrets", ())} == {
        "airflow-scheduler",
        "airflow-worker",
    }


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_confined_bounded_pinned_and_watched(service: str) -> None:
    description = services()[service]
    assert description["cap_drop"] == ["ALL"]
    assert description["security_opt"] == ["no-new-privileges:true"]
    assert description["read_only"] is True
    assert description["mem_limit"]
    assert description["restart"] == ("no" if service in ONE_SHOT else "unless-stopped")
    image = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", description["image"])
    assert re.search(r":(v?\d+\.\d+[^:]*|local)$", image), image
    # Images of one program, without a shell to ask with, are watched by Prometheus (rule ExporterDown).
    watched = {"statsd-exporter", "node-exporter", "postgres-exporter", "redis-exporter"}
    assert "healthcheck" in description or service in ONE_SHOT | watched
    for port in description.get("ports", ()):
        assert port.startswith("${BIND_ADDRESS:-127.0.0.1}:")
    for name, condition in (description.get("depends_on") or {}).items():
        assert condition["condition"] in {"service_healthy", "service_completed_successfully"}
        assert name in SERVICES
        assert condition["condition"] == "service_completed_successfully" or "healthcheck" in services()[name]


def test_volumes_networks_and_secrets_are_declared_used_and_made(clone: Path) -> None:
    described = model()
    volumes, networks, secrets = set(), set(), set()
    for description in services().values():
        volumes |= {m.partition(":")[0] for m in description.get("volumes", ()) if re.match(r"[a-z]", m)}
        networks |= set(description.get("networks", ()))
        secrets |= set(description.get("secrets", ()))
    assert volumes == set(described["volumes"])
    assert networks == set(described["networks"])
    # The metadata database's and the broker's passwords reach Airflow inside of addresses.
    assert secrets == set(described["secrets"])
    made = {path.name for path in (clone / "secrets").iterdir()}
    assert made == {Path(secret["file"]).name for secret in described["secrets"].values()}


def test_the_secrets_are_random_kept_and_nobody_elses(clone: Path) -> None:
    from cryptography.fernet import Fernet

    secrets = clone / "secrets"
    first = {path.name: path.read_text() for path in secrets.iterdir()}
    empty = {name for name, text in first.items() if not text}
    assert empty == {"email_password.txt", "slack_webhook_url.txt"}
    assert len({text for text in first.values() if text}) == len(first) - len(empty)
    assert all(len(text) >= 20 for text in first.values() if text)
    assert not any("\n" in text.strip() for text in first.values())
    Fernet(first["fernet_key.txt"].strip())
    assert first["metadata_password.txt"] in first["metadata_url.txt"]
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert stat.S_IMODE((clone / ".env").stat().st_mode) == 0o600
    (secrets / "jwt_secret.txt").unlink()
    (clone / ".env").write_text("COMPOSE_PROFILES=celery\n")
    processes.run([ROOT / "scripts" / "compose-init.sh", clone])
    again = {path.name: path.read_text() for path in secrets.iterdir()}
    assert {name for name in first if first[name] != again[name]} == {"jwt_secret.txt"}
    assert (clone / ".env").read_text() == "COMPOSE_PROFILES=celery\n"
    ignored = processes.run(["git", "check-ignore", "--no-index", ".env", "secrets/jwt_secret.txt"], cwd=ROOT)
    assert ignored.stdout.split() == [".env", "secrets/jwt_secret.txt"]


def test_prometheus_asks_the_services_at_their_ports() -> None:
    configuration = yaml.safe_load((ROOT / "include" / "monitoring" / "prometheus.yml").read_text())
    targets = {
        target
        for job in configuration["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    }
    assert targets - {"localhost:9090"} == {f"{service}:{port}" for service, port in PORTS.items()}
    for service, port in PORTS.items():
        described = yaml.safe_dump(services()[service])
        assert f":{port}" in described or service == "grafana", service
    (manager,) = configuration["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert manager == "alertmanager:9093"
    environment = services()["airflow-scheduler"]["environment"]
    assert environment["AIRFLOW__METRICS__STATSD_HOST"] in services()
    assert f":{environment['AIRFLOW__METRICS__STATSD_PORT']}" in str(services()["statsd-exporter"]["command"])


@pytest.mark.parametrize("service", sorted(DEBIAN))
def test_the_programs_know_the_options_that_they_are_given(service: str) -> None:
    program = shutil.which(DEBIAN[service]) or shutil.which(str(ROOT / ".venv" / "bin" / DEBIAN[service]))
    assert program is not None, f"{DEBIAN[service]} is not installed (scripts/setup.sh dev)"
    result = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=30, check=False)
    told = result.stdout + result.stderr
    for option in services()[service]["command"]:
        name = option.partition("=")[0]
        assert re.search(rf"^\s*--?{re.escape(name.lstrip('-'))}\b", told, re.MULTILINE), option


def test_the_statsd_exporter_of_the_deployment_is_the_one_that_the_tests_build() -> None:
    version = services()["statsd-exporter"]["image"].rpartition(":")[2]
    assert f"version={version}" in (ROOT / "scripts" / "setup.sh").read_text()


@pytest.mark.airflow
def test_airflow_knows_its_commands_and_options() -> None:
    from airflow.cli.cli_parser import get_parser
    from airflow.configuration import conf

    parser = get_parser()
    for service, description in services().items():
        command = [str(part) for part in description.get("command", ())]
        if service.startswith("airflow-") and service not in ONE_SHOT:
            parser.parse_args(command)
    script = (ROOT / "include" / "docker" / "init.sh").read_text()
    for line in re.findall(r"^airflow (.*)$", script, re.MULTILINE):
        parser.parse_args(line.split())
    known = {
        (section.lower(), option.lower())
        for section in conf.configuration_description
        for option in conf.configuration_description[section]["options"]
    }
    free = {"celery_broker_transport_options"}
    for name in services()["airflow-worker"]["environment"]:
        if name.startswith("AIRFLOW__"):
            section, option = name.removeprefix("AIRFLOW__").lower().split("__")
            assert section in free or (section, option.removesuffix("_cmd")) in known, name
            if name.endswith("_CMD"):
                assert (section, option.removesuffix("_cmd")) in conf.sensitive_config_values, name


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions: name, and the rest, lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text())
    text = re.sub(r"\\\n", " ", text)
    found, lines = [], iter(text.splitlines())
    for line in lines:
        name, _, rest = line.partition(" ")
        if not name:
            continue
        if here := re.search(r"<<'(\w+)'", rest):
            body = []
            for inner in lines:
                if inner == here[1]:
                    break
                body.append(inner)
            rest = "\n".join(body)
        found.append((name, rest.strip()))
    return found


def test_the_image_is_made_of_what_is_in_the_tree_pinned_and_not_run_by_root() -> None:
    instructions = dockerfile()
    ignored = (ROOT / ".dockerignore").read_text()
    assert ignored.splitlines()[1] == "*"
    for name, rest in instructions:
        if name == "COPY" and "--from" not in rest:
            source = rest.split()[-2]
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
        if name == "ARG":
            assert re.search(r"=[\w./-]+:\d+\.\d+\.\d+", rest), rest
    assert [rest for name, rest in instructions if name == "USER"][-1] == "airflow"
    assert {name for name, _ in instructions} <= {
        *("ARG", "FROM", "SHELL", "USER", "RUN", "COPY", "ENV", "WORKDIR", "ENTRYPOINT"),
    }
    script = "\n".join(rest for name, rest in instructions if name == "RUN")
    assert "--require-hashes" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    locked = re.search(r"^apache-airflow==(\S+) ", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert locked
    assert ("ARG", f"AIRFLOW_IMAGE=apache/airflow:{locked[1]}-python3.11") in instructions
    entry = instructions[-1][1]
    inside = re.findall(r"/opt/mingus/([\w./-]+)", entry + script)
    assert inside
    assert all((ROOT / path).exists() for path in inside), inside


@pytest.mark.parametrize("path", sorted((ROOT / "include" / "docker").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_of_containers_are_programs_without_mistakes_and_used(path: Path) -> None:
    assert path.read_text().startswith("#!/bin/sh\n")
    assert os.access(path, os.X_OK)
    processes.run(["sh", "-n", path])
    users = FILE.read_text() + (ROOT / "Dockerfile").read_text() + (path.parent / "entry.sh").read_text()
    assert f"/{path.name}" in users


def test_a_secret_that_is_missing_ends_a_container_at_its_start_and_an_empty_one_sets_nothing(tmp_path: Path) -> None:
    script = ROOT / "include" / "docker" / "with-secrets.sh"
    (tmp_path / "one").write_text('it\'s $HOME `x` "y"\n')
    (tmp_path / "none").write_text("")

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        line = [script, "sh", "-c", 'printf "%s|%s" "$A" "${B-unset}"']
        base = {"PATH": os.environ["PATH"], "SECRETS_FROM_FILES": "A B", **environment}
        return subprocess.run(line, env=base, capture_output=True, text=True, timeout=20, check=False)

    good = run(A_FILE=str(tmp_path / "one"), B_FILE=str(tmp_path / "none"))
    assert good.stdout == 'it\'s $HOME `x` "y"|unset'
    missing = run(A_FILE=str(tmp_path / "one"), B_FILE=str(tmp_path / "other"))
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "B_FILE" in missing.stderr
    assert run(A_FILE=str(tmp_path / "one")).returncode == 2


def test_the_settings_of_the_deployment_are_good_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from mingus_airflow.wiring import wiring
    from mingus_engine.settings import load

    for match in VARIABLE.finditer(SETTINGS.read_text()):
        monkeypatch.delenv(match["name"], raising=False)
    settings = load(SETTINGS)
    assert {source.id for source in settings.sources} == {"ledger", "sessions"}
    pools: Any = wiring(settings)
    assert pools.back_up.pool == "mingus_backup"
