"""``health``: is everything that backups and recoveries need in order?"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Subparsers, command
from mingus_engine.cli.session import Failed, Session
from mingus_engine.errors import MingusError

if TYPE_CHECKING:
    from mingus_engine.jobs.health.findings import Finding


class Unhealthy(MingusError):
    """A check failed that must not."""

    exit_code = 14
    hint = "each failed check has a hint"


def add(commands: Subparsers) -> None:
    """The parser."""
    parser = command(
        commands, "health", "check the health of sources, repositories and this machine", run,
        more="Everything that `check` does of each, and recovery windows, proofs, replication between repositories,"
        " certificates, clocks, keys. Writes and deletes probe objects and archives write-ahead log up to now;"
        " --light only looks. Ends with code 14 when a critical check failed.",
    )  # fmt: skip
    parser.add_argument("sources", metavar="SOURCE", nargs="*", help="only these and their repositories; default: all")
    parser.add_argument(
        "--light", action="store_true", help="look only, in seconds: what the probe does every 5 minutes"
    )


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    from mingus_engine.jobs.health.full import health
    from mingus_engine.jobs.health.probe import probe

    job = probe if args.light else health
    report = session.run(lambda context: job(session.settings, args.sources, context=context))
    console = session.console
    document = {**report.as_dict(), "findings": [finding.as_dict() for finding in report.findings]}
    shown = [f for f in report.findings if not f.ok or console.verbose]
    console.lines(finding_lines(shown))
    passed = sum(f.ok for f in report.findings)
    console.line(
        f"{passed} of {len(report.findings)} checks passed" + ("" if console.verbose else "; --verbose shows all")
    )
    if report.ok:
        console.document(document)
        return 0
    bad = [f for f in report.findings if f.result == "CRITICAL"]
    where = " in ".join(filter(None, (bad[0].source, bad[0].repository))) or "this machine"
    error = Unhealthy(f"{len(bad)} critical; the first: {bad[0].check} of {where}: {bad[0].detail}", hint=bad[0].hint)
    raise Failed(error, document)


def finding_lines(found: Iterable[Finding]) -> list[str]:
    """A table of findings; below each failed one its hint."""
    rows = [(f.result, f.source or "-", f.repository or "-", f.check, _told(f)) for f in found]
    return output.table(("RESULT", "SOURCE", "REPOSITORY", "CHECK", "DETAIL"), rows) if rows else []


def _told(finding: Finding) -> str:
    hint = f" → {finding.hint}" if finding.hint and finding.failed else ""
    return finding.detail + hint
