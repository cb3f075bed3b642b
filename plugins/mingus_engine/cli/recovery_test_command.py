"""``recovery-test``: the weekly test of the recovery of every source, by hand."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Subparsers, add_repository, command
from mingus_engine.cli.console import Console
from mingus_engine.cli.session import Failed, Session
from mingus_engine.errors import SettingsError, VerificationFailed

if TYPE_CHECKING:
    from mingus_engine.jobs.recovery_test import RecoveryTestReport


def add(commands: Subparsers) -> None:
    """The parser."""
    parser = command(
        commands, "recovery-test", "restore every source to a random moment and check it", run,
        more="Each source on its own: restored from the repository of its chain whose turn it is this week, databases"
        " to a random second of the newest window, started and compared as by `verify` at L4. The proof is stored in"
        " that repository. Fails when one was not good, or took longer than health.rto_s; then it says what can still"
        " be recovered, and from where. The others are tested all the same.",
    )  # fmt: skip
    parser.add_argument("sources", metavar="SOURCE", nargs="*", help="only these; default: all of the settings")
    add_repository(parser, "from this one; default: the one whose turn it is, of those that hold a snapshot")


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    settings = session.settings
    chosen = [settings.stored_source(name).id for name in args.sources] or [source.id for source in settings.sources]
    if not chosen:
        raise SettingsError("the settings have no source")
    if args.repository:
        settings.repository(args.repository)
    failed: list[str] = []
    reports = []
    for source in dict.fromkeys(chosen):
        report = _tested(session, source, args.repository)
        reports.append(report.as_dict())
        if not report.ok:
            failed.append(source)
            session.console.warn(f"{source}: {report.error}")
    document = {"ok": not failed, "sources": reports}
    _show(session.console, reports)
    if failed:
        message = f"the recovery of {', '.join(failed)} failed its test ({len(failed)} of {len(reports)} sources)"
        raise Failed(VerificationFailed(message, hint="what can still be recovered is listed above"), document)
    session.console.document(document)
    return 0


def _tested(session: Session, source: str, repository: str | None) -> RecoveryTestReport:
    from mingus_engine.jobs.recovery_test import RecoveryTestFailed, recovery_test

    try:
        return session.run(
            lambda context: recovery_test(session.settings, source, repository=repository, context=context)
        )
    except RecoveryTestFailed as error:
        return error.report


def _show(console: Console, reports: list[dict[str, Any]]) -> None:
    from mingus_engine.jobs.recoverable import told

    headers = ("SOURCE", "RESULT", "REPOSITORY", "SNAPSHOT", "RECOVERED TO", "RTO", "RPO")
    console.lines(output.table(headers, [_row(report) for report in reports], right={5, 6}))
    for report in reports:
        for repository, why in report.get("unreachable", {}).items():
            console.warn(f"{report['source']}: repository {repository} was not read: {why}")
        if not report["ok"]:
            console.line()
            console.line(f"What can still be recovered of {report['source']}:")
            console.lines(f"  {output.safe(told(one))}" for one in report.get("still_recoverable") or ())


def _row(report: dict[str, Any]) -> tuple[str, ...]:
    took = [output.duration(report[key]) if report.get(key) is not None else "-" for key in ("rto_s", "rpo_s")]
    to = report.get("target") or ("its end" if report.get("snapshot") else "-")
    return (
        report["source"],
        "recovered" if report["ok"] else "FAILED",
        report.get("repository") or "-",
        report.get("snapshot") or "-",
        to,
        *took,
    )
