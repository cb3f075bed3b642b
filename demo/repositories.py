"""The demo's settings file and its two repositories, made through the engine as an operator would make them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from demo.ledger import BACKUP_ROLE, DATABASE, Ledger
from demo.papers import SETS, Papers
from demo.places import REPOSITORY_ROOT, Places
from demo.sessions import Sessions

SOURCE, SESSIONS_SOURCE = "ledger", "sessions"
CONNECTION, SESSIONS_CONNECTION = "demo_ledger", "demo_sessions"
CHAIN = ("primary", "offsite")
# What the demo does not run is not expected either: an alarm about it would be a false one.
_NOT_RUN = (
    "backup_groups",
    "backup_postgres_incremental",
    "backup_postgres_wal",
    "backup_redis_aof",
    "backup_files_hourly",
)
_NIGHTLY_RPO_S = 26 * 3600
POOLS = {"back_up": ("mingus_backup", 1), "ship": ("mingus_ship", 2), "verify": ("mingus_verify", 1)}
_KEY = "BACKUP_ENCRYPTION_KEY"

_PREDICATES = {
    "debits equal credits in every currency": """
        SELECT bool_and(debits = credits) FROM (
            SELECT sum(amount) FILTER (WHERE side = 'D') AS debits, sum(amount) FILTER (WHERE side = 'C') AS credits
            FROM posting GROUP BY currency) AS sums""",
    "every posting has its entry and account": """
        SELECT NOT EXISTS (SELECT FROM posting AS p WHERE NOT EXISTS (SELECT FROM entry WHERE id = p.entry_id))
           AND NOT EXISTS (SELECT FROM posting AS p WHERE NOT EXISTS (SELECT FROM account WHERE id = p.account_id))""",
}
_MEASUREMENTS = {
    "postings": "SELECT count(*) FROM posting",
    "money moved": "SELECT sum(amount) FROM posting WHERE side = 'D'",
    "documents": "SELECT count(*) FROM document",
}


def write_settings(places: Places, ledger: Ledger, sessions: Sessions, papers: Papers) -> None:
    """Write ``mingus.yaml``, without any secret, and the password files it names."""
    password_file, sessions_password = places.root / "ledger-password", places.root / "sessions-password"
    _write_private(password_file, ledger.password + "\n")
    _write_private(sessions_password, sessions.password + "\n")
    verify = {
        "level": "L4",
        "scratch_directory": str(places.servers / "scratch"),
        **({"run_as": places.account.name} if places.account else {}),
    }
    document = {
        "state_directory": str(places.root / "state"),
        "repositories": [{"name": name, "path": str(places.root / "repositories" / name)} for name in CHAIN],
        "sources": [
            {
                "id": SOURCE,
                "kind": "postgres",
                "transport": "local",
                "airflow_connection": CONNECTION,
                "connection": {
                    "host": "127.0.0.1",
                    "port": ledger.port,
                    "user": BACKUP_ROLE,
                    "dbname": DATABASE,
                    "password_env": "",
                    "password_file": str(password_file),
                    "sslmode": "disable",
                },
                "repository": CHAIN[0],
                "ship_to": list(CHAIN[1:]),
                "predicates": [{"name": name, "sql": " ".join(sql.split())} for name, sql in _PREDICATES.items()],
                "measurements": [{"name": name, "sql": sql} for name, sql in _MEASUREMENTS.items()],
                "wal": {"scheduled": False},
                "verify": verify,
            },
            {
                "id": SESSIONS_SOURCE,
                "kind": "redis",
                "redis": {
                    "airflow_connection": SESSIONS_CONNECTION,
                    "connection": {
                        "host": "127.0.0.1",
                        "port": sessions.port,
                        "password_env": "",
                        "password_file": str(sessions_password),
                    },
                    "invariants": [{"name": "sessions are there", "pattern": "session:*", "least": 1000}],
                },
                "repository": CHAIN[0],
                "ship_to": list(CHAIN[1:]),
                "verify": verify,
            },
            *(
                {
                    "id": source,
                    "kind": "files",
                    "files": {"set": SETS[source], "roots": [{"path": str(root), "label": source}]},
                    "repository": CHAIN[0],
                    "ship_to": list(CHAIN[1:]),
                    "verify": verify,
                }
                for source, root in papers.roots.items()
            ),
        ],
        "schedules": dict.fromkeys(_NOT_RUN, "none"),
        "health": {"rpo_s": _NIGHTLY_RPO_S},
        "airflow": {
            **{job: {"pool": pool, "timeout_s": 1800} for job, (pool, _) in POOLS.items()},
            "retries": 1,
            "retry_delay_s": 5,
            "progress_interval_s": 1,
        },
    }
    (places.root / "repositories").mkdir(exist_ok=True)
    (places.servers / "scratch").mkdir(mode=0o755, exist_ok=True)
    places.settings.write_text(yaml.safe_dump(document, sort_keys=False, width=120), encoding="utf-8")


def environment(places: Places, key: str) -> dict[str, str]:
    """What the engine needs in the environment of whoever runs it."""
    return {"MINGUS_CONFIG": str(places.settings), _KEY: key}


def write_environment(places: Places, key: str) -> None:
    """A file to source before using ``./mingus`` by hand."""
    lines = [f"export {name}='{value}'" for name, value in environment(places, key).items()]
    lines.append(f"export PATH='{REPOSITORY_ROOT}':\"$PATH\"")
    _write_private(places.root / "env", "\n".join(lines) + "\n")


def initialise(places: Places, key: str) -> dict[str, str]:
    """Make the repositories; returns their escrow keys, which are noted on a sheet only their owner can read."""
    from mingus_engine import settings
    from mingus_engine.jobs.context import JobContext
    from mingus_engine.jobs.initialise import initialise as initialise_repository

    sheet: dict[str, str] = {}
    with _in_environment(environment(places, key)):
        loaded = settings.load(places.settings)
        for name in CHAIN:
            report = initialise_repository(loaded, name, context=JobContext(provenance={"program": "demo"}))
            sheet[name] = report.escrow_key
    _write_private(places.escrow_sheet, "".join(f"{name}: {escrow}\n" for name, escrow in sheet.items()))
    return sheet


def restore_sessions(places: Places, key: str, directory: Path) -> dict[str, Any]:
    """Restore the newest snapshot of the sessions from the last repository, as one would with Airflow down.

    :returns: the job's report.
    """
    from mingus_engine import settings
    from mingus_engine.jobs.context import JobContext
    from mingus_engine.jobs.redis.restore import restore_redis

    with _in_environment(environment(places, key)):
        loaded = settings.load(places.settings)
        context = JobContext(provenance={"program": "demo"})
        return restore_redis(
            loaded, SESSIONS_SOURCE, directory=directory, repository=CHAIN[-1], context=context
        ).as_dict()


def restore_papers(places: Places, key: str) -> dict[str, Any]:
    """Bring back what is lost of the documents, to where it was, from the last repository, and touch nothing else.

    :returns: the job's report.
    """
    from mingus_engine import settings
    from mingus_engine.jobs.context import JobContext
    from mingus_engine.jobs.files.restore import restore_files

    with _in_environment(environment(places, key)):
        return restore_files(
            settings.load(places.settings), "papers", original=True, conflict="skip", repository=CHAIN[-1],
            context=JobContext(provenance={"program": "demo"}),
        ).as_dict()  # fmt: skip


def new_key() -> str:
    """A random 32-byte key, as ``BACKUP_ENCRYPTION_KEY`` takes it."""
    return secrets.token_hex(32)


@contextmanager
def _in_environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for a while: the servers the demo starts later have no business with the key."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
