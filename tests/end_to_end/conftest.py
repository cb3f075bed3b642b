"""One real Airflow, one real cluster and three repositories for all end-to-end tests of a process."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from demo.supervisor import Airflow
from tests.support.alerting import MailServer, SlackServer, mail_server, slack_server
from tests.support.directories import make_directory
from tests.support.monitoring import Recorder
from tests.support.pg_versions import PgVersion
from tests.support.postgres import SUPERUSER, PgCluster
from tests.support.processes import free_port, wait_until
from tests.support.redis import RedisServer

ROOT = Path(__file__).resolve().parents[2]
DAG = "backup_postgres_full"
RECOVERY = "recover_postgres"
REDIS_DAG, REDIS_RECOVERY = "backup_redis_snapshot", "recover_redis"
FILES_DAG, FILES_RECOVERY = "backup_documents", "recover_files"
RECOVERY_TEST = "recovery_test"
RUN_TIMEOUT_S = 240.0
SESSIONS = 2000
_METADATA = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
# Two operators who may do all that an operator may, and the account that asks who approved what.
SERVICE = "mingus"
USERS = {"alice": "op", "bob": "op", SERVICE: "viewer"}


@dataclass
class Installation:
    """Airflow and what it backs up."""

    airflow: Airflow
    cluster: PgCluster
    database: str
    redis: RedisServer
    home: Path
    secrets: dict[str, str]
    mail: MailServer
    slack: SlackServer
    # What it sends to StatsD.
    statsd: Recorder
    environment: dict[str, str]

    def mingus(self, *arguments: str) -> Any:
        """What the command line says, as JSON: a witness that shares no code with the DAG."""
        result = subprocess.run(
            [sys.executable, "-m", "mingus_engine", *arguments, "--json"],
            env={**os.environ, **self.environment, "PYTHONPATH": str(ROOT / "plugins")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def metadata(self) -> psycopg.Connection[Any]:
        """Airflow's own database."""
        return psycopg.connect(self.airflow.environment[_METADATA].replace("+psycopg2", ""))

    def trigger(self, *, dag: str = DAG, **conf: Any) -> str:
        """Start a run as an operator at a terminal would; returns its id."""
        run_id = f"e2e-{secrets.token_hex(4)}"
        self.airflow.command("dags", "trigger", dag, "--run-id", run_id, "--conf", json.dumps(conf))
        return run_id

    def wait(self, run_id: str, *, dag: str = DAG) -> str:
        """The final state of a run."""

        def ended() -> str | None:
            self.airflow.check()
            state = self.airflow.api.run_state(dag, run_id)
            return state if state in ("success", "failed") else None

        return str(wait_until(ended, f"the end of run {run_id}", timeout_s=RUN_TIMEOUT_S))

    def task(self, run_id: str, task_id: str, *, dag: str = DAG) -> dict[str, Any]:
        """A task instance of the run's only source."""
        (found,) = (task for task in self.airflow.api.tasks(dag, run_id) if task["task_id"] == task_id)
        return found

    def task_log(self, run_id: str, task_id: str, attempt: int = 1, *, dag: str = DAG) -> str:
        """The text of a task's log of one try; of a mapped task, of its first instance."""
        log = self.airflow.logs / "tasks" / f"dag_id={dag}" / f"run_id={run_id}" / f"task_id={task_id}"
        path = (log / "map_index=0" if (log / "map_index=0").exists() else log) / f"attempt={attempt}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def execute(self, *statements: str) -> None:
        """Run statements in the ledger."""
        self.cluster.execute(*statements, dbname=self.database)


def _settings(home: Path, cluster: PgCluster, database: str) -> dict[str, Any]:
    source = {
        "transport": "local",
        "airflow_connection": "e2e_ledger",
        "connection": {"dbname": database, "password_env": "", "sslmode": "disable"},
        "repository": "primary",
        "ship_to": ["offsite"],
        "predicates": [
            {
                "name": "debits equal credits",
                "sql": "SELECT sum(CASE side WHEN 'D' THEN amount ELSE -amount END) = 0 FROM posting",
            }
        ],
        "measurements": [{"name": "postings", "sql": "SELECT count(*) FROM posting"}],
        "verify": {"scratch_directory": str(home / "scratch")},
        "bin_directory": str(cluster.version.tool("postgres").parent),
    }
    # Far from now: what runs is what the tests ask for, at any time of the day.
    daily = f"0 {(datetime.now(UTC).hour + 12) % 24} * * *"
    return {
        "state_directory": str(home / "state"),
        "schedules": dict.fromkeys((DAG, REDIS_DAG, FILES_DAG, RECOVERY_TEST), daily),
        "repositories": [{"name": name, "path": str(home / name)} for name in ("primary", "offsite")],
        "sources": [
            {"id": "ledger", **source},
            # A backup that takes half a minute, to be killed in the middle.
            {"id": "slow", **source, "max_rate_bytes_per_s": 1 << 20},
            # Nobody listens there: its backups fail.
            {"id": "gone", **source, "airflow_connection": "e2e_gone"},
            {
                "id": "sessions",
                "kind": "redis",
                "redis": {"airflow_connection": "e2e_sessions"},
                "repository": "primary",
                "ship_to": ["offsite"],
                "verify": {"scratch_directory": str(home / "scratch")},
            },
            {
                "id": "letters",
                "kind": "files",
                "files": {"roots": [{"path": str(home / "letters")}]},
                "repository": "primary",
                "ship_to": ["offsite"],
                "verify": {"scratch_directory": str(home / "scratch")},
            },
        ],
        "destinations": [
            {"name": "standby-site", "airflow_connection": "e2e_ledger", "connection": {"sslmode": "disable"}},
        ],
        # No run ends so quickly: the first one of the session is late.
        "alerts": {"group_wait_s": 1, "mail": {"security": "none"}, "deadlines": {DAG: 2}},
        "airflow": {"retries": 1, "retry_delay_s": 1, "progress_interval_s": 1},
    }


def write_letters(directory: Path) -> None:
    """What people wrote: some thirty files, one by two names, one with an attribute."""
    make_directory(directory)
    for year in ("2025", "2026"):
        make_directory(directory / year)
        for number in range(15):
            (directory / year / f"letter-{number:02}.txt").write_text(f"Dear {number},\n" * 40)
    os.link(directory / "2026" / "letter-00.txt", directory / "newest.txt")
    os.setxattr(directory / "newest.txt", "user.author", b"alice")


@pytest.fixture(scope="session")
def metadata(pg_versions: dict[int, PgVersion], session_directory: Path) -> Iterator[str]:
    """SQLAlchemy's address of an empty PostgreSQL database, as in a deployment.

    SQLite answers "database is locked" when many runs are asked for at once.
    """
    with PgCluster.create(pg_versions[15], session_directory / "metadata", conf={"max_connections": "200"}) as cluster:
        cluster.start().execute("CREATE DATABASE airflow")
        yield f"postgresql+psycopg2://{SUPERUSER}:{cluster.password}@127.0.0.1:{cluster.port}/airflow"


@pytest.fixture(scope="session")
def installation(pg15: PgCluster, metadata: str, session_directory: Path) -> Iterator[Installation]:
    home = make_directory(session_directory / "end-to-end")
    make_directory(home / "scratch")
    write_letters(home / "letters")
    key, webhook = secrets.token_hex(32), secrets.token_hex(12)
    connection = {"conn_type": "postgres", "host": "127.0.0.1", "port": pg15.port, "login": SUPERUSER}
    connection |= {"password": pg15.password, "extra": json.dumps({"sslmode": "disable"})}
    environment = {"MINGUS_CONFIG": str(home / "mingus.yaml"), "BACKUP_ENCRYPTION_KEY": key}
    # Its configuration file holds its password: not below what is searched for secrets.
    redis = RedisServer(session_directory / "e2e-redis", {"requirepass": secrets.token_hex(12)})
    sessions = {"conn_type": "redis", "host": "127.0.0.1", "password": redis.password}
    with (
        pg15.temporary_database() as database,
        redis.start(),
        closing(Recorder()) as statsd,
        mail_server() as mail,
        slack_server() as slack,
    ):
        redis.fill(SESSIONS, ttl_s=86400)
        redis.fill(10, prefix="setting:")
        pg15.execute(
            'CREATE TABLE posting (id bigint PRIMARY KEY, side "char" NOT NULL, amount numeric(18,2) NOT NULL)',
            "INSERT INTO posting SELECT 2 * i + s, CASE s WHEN 0 THEN 'D' ELSE 'C' END::\"char\", 1 + i % 900"
            " FROM generate_series(1, 20000) AS i, generate_series(0, 1) AS s",
            dbname=database,
        )
        Path(environment["MINGUS_CONFIG"]).write_text(yaml.safe_dump(_settings(home, pg15, database)))
        airflow = Airflow(
            home / "airflow",
            mark=home,
            environment={
                **environment,
                _METADATA: metadata,
                "AIRFLOW_CONN_E2E_LEDGER": json.dumps(connection),
                "AIRFLOW_CONN_E2E_GONE": json.dumps({**connection, "port": free_port()}),
                "EMAIL_ALERTS_ENABLED": "true",
                "EMAIL_SMTP_SERVER": f"127.0.0.1:{mail.port}",
                "EMAIL_FROM": "mingus@e.example",
                "EMAIL_TO": "night@e.example",
                "SLACK_WEBHOOK_URL": f"{slack.url}/services/{webhook}",
                "AIRFLOW__METRICS__STATSD_ON": "True",
                "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
                "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
                "AIRFLOW__METRICS__STATSD_PORT": str(statsd.port),
                "AIRFLOW_CONN_E2E_SESSIONS": json.dumps({**sessions, "port": redis.port}),
            },
            users=USERS,
        )
        service = {"conn_type": "http", "host": "127.0.0.1", "port": airflow.port, "schema": "http", "login": SERVICE}
        service["password"] = airflow.passwords[SERVICE]
        airflow.environment["AIRFLOW_CONN_MINGUS_API"] = json.dumps(service)
        secret_texts = {"password": str(pg15.password), "key": key, "password of Redis": str(redis.password)}
        secret_texts["address of Slack"] = webhook
        found = Installation(airflow, pg15, database, redis, home, secret_texts, mail, slack, statsd, environment)
        try:
            airflow.migrate()
            for name in ("primary", "offsite"):
                escrow = found.mingus("init", name)
                found.secrets[f"escrow key of {name}"] = next(v for k, v in escrow.items() if k == "escrow_key")
            airflow.start()
            airflow.wait_healthy()
            for dag in (DAG, RECOVERY, REDIS_DAG, REDIS_RECOVERY, FILES_DAG, FILES_RECOVERY, RECOVERY_TEST):
                airflow.api.wait_for_dag(dag)
                airflow.api.unpause(dag)
            yield found
        finally:
            airflow.stop()


@pytest.fixture(scope="session")
def proven_sessions(installation: Installation) -> str:
    """The id of a nightly run of Redis that went well: both repositories have its snapshot."""
    run_id = installation.trigger(dag=REDIS_DAG)
    state = installation.wait(run_id, dag=REDIS_DAG)
    assert state == "success", installation.task_log(run_id, "source.back_up", dag=REDIS_DAG)
    return run_id


@pytest.fixture(scope="session")
def proven_letters(installation: Installation) -> str:
    """The id of a nightly run of a file set that went well: both repositories have its snapshot."""
    run_id = installation.trigger(dag=FILES_DAG)
    state = installation.wait(run_id, dag=FILES_DAG)
    assert state == "success", installation.task_log(run_id, "source.back_up", dag=FILES_DAG)
    return run_id


@pytest.fixture(scope="session")
def proven(installation: Installation) -> str:
    """The id of a nightly run that went well: both repositories have its snapshot."""
    run_id = installation.trigger(sources=["ledger"])
    assert installation.wait(run_id) == "success", installation.task_log(run_id, "source.back_up")
    return run_id
