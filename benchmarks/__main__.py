"""``python -m benchmarks``: see the package; ``--help`` lists the options."""

from __future__ import annotations

import argparse
import compileall
import contextlib
import fnmatch
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import places, report
from benchmarks.archive import ARCHIVE
from benchmarks.contenders import Bench
from benchmarks.depth import DEPTH
from benchmarks.files_suite import FILES
from benchmarks.full import FULL
from benchmarks.incremental import INCREMENTAL, NATIVE, SQL
from benchmarks.measuring import CommandFailed
from benchmarks.redis_suite import REDIS
from benchmarks.rounds import Sample
from benchmarks.suite import Suite
from tests.support import directories

ROOT = Path(__file__).resolve().parent.parent
_QUICK_GB = 0.5
SUITES = {suite.name: suite for suite in (FULL, INCREMENTAL, NATIVE, SQL, DEPTH, ARCHIVE, REDIS, FILES)}


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="MINGUS beside its peers.")
    number = parser.add_argument
    number("suite", nargs="?", default=FULL.name, choices=list(SUITES), help=f"what is measured ({FULL.name})")
    number(
        "--gb", type=float, default=float(os.environ.get("MINGUS_BENCH_GB", "0")), help="size of the data (5; Redis 2)"
    )
    number("--rounds", type=int, default=int(os.environ.get("MINGUS_BENCH_ROUNDS", "5")), help="rounds (5)")
    number("--quick", action="store_true", help=f"one round of {_QUICK_GB} GB: does everything run?")
    number(
        "--only", action="append", default=[], metavar="PATTERN", help="contenders, e.g. 'mingus local*'; repeatable"
    )
    number("--directory", type=Path, help="work here (default: a new directory in memory or in the temp directory)")
    number("--keep", action="store_true", help="leave the directory: the next run with --directory takes its cluster")
    number("--no-report", action="store_true", help="write no files, only the table")
    number(
        "--nice", type=int, default=int(os.environ.get("MINGUS_BENCH_NICE", "0")), metavar="N",
        help="priority of everything that is measured, e.g. -15 where others use the machine, too (needs root)",
    )  # fmt: skip
    number("--list", action="store_true", help="list the contenders")
    options = parser.parse_args(arguments)
    if options.quick:
        options.gb, options.rounds = _QUICK_GB, 1
    options.gb = options.gb or SUITES[options.suite].gb
    return options


def main(arguments: Sequence[str]) -> int:
    """Run it; 0, or 1 when a program failed or there is no room."""
    options = _options(arguments)
    # A terminated benchmark cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    started = time.monotonic()
    _prioritise(options.nice)
    try:
        suite = SUITES[options.suite]
        with places.place(options.gb, suite.space_per_gb, options.directory, keep=options.keep) as place:
            return _run(suite, options, place, started)
    except (CommandFailed, places.NoRoom, FileNotFoundError, AssertionError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        left = f"{options.directory} is left" if options.keep else "everything was removed"
        print(f"bench: interrupted; {left}", file=sys.stderr)
        return 130


def _run(suite: Suite, options: argparse.Namespace, place: places.Place, started: float) -> int:
    code = _copied(place.directory / "code")
    _say(f"bench: {suite.name}: making a server with {options.gb:g} GB in {place.kind}")
    served = suite.served(place.directory, options.gb)
    try:
        bench = Bench(served.server, place.directory, code)
        wanted = [
            c
            for c in suite.contenders(bench)
            if not options.only or any(fnmatch.fnmatchcase(c.name, pattern) for pattern in options.only)
        ]
        if options.list or not wanted:
            print("\n".join(c.name for c in suite.contenders(bench)))
            return 0
        facts = report.facts(
            place=place.kind,
            rounds=options.rounds,
            nice=options.nice,
            cluster=served.description,
            size=served.size_bytes,
        )
        samples: list[Sample] = []
        try:
            for sample in suite.play(bench, wanted, options.rounds, _say):
                samples.append(sample)  # noqa: PERF402 - what was measured before an interruption is kept
        finally:
            if samples:
                _publish(suite, options, facts, samples, time.monotonic() - started)
    finally:
        served.stop()
    return 0


def _copied(directory: Path) -> Path:
    """The code as it is now, compiled: who edits it meanwhile changes nothing, and nobody's first run compiles it."""
    directories.remove(directory)
    for name in ("plugins", "dags", "benchmarks"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    compileall.compile_dir(directory, quiet=1)
    return directory


def _prioritise(nice: int) -> None:
    """Programs and server inherit it; where Linux weighs sessions against each other, this session counts as well."""
    if nice:
        os.nice(nice)
        with contextlib.suppress(OSError):  # a kernel that does not
            Path("/proc/self/autogroup").write_text(str(nice))


def _publish(
    suite: Suite, options: argparse.Namespace, facts: dict[str, object], samples: list[Sample], seconds: float
) -> None:
    text = report.markdown(suite, facts, samples, seconds)
    print("\n" + text)
    if not options.no_report:
        for path in report.write(suite, ROOT / "benchmarks" / "results", facts, samples, text):
            print(f"bench: wrote {path.relative_to(ROOT)}")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
