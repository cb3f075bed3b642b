"""The report of a benchmark: a table with the targets, JSON with every run, a plot."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, Target, figures, of
from benchmarks.rounds import Sample
from benchmarks.suite import Suite

_EXPLANATION = """\
CPU seconds are of the program, all processes it started, and the server with its backends and other children
(see `benchmarks/measuring.py`). Memory is the sum of the program's processes at its peak, interpreter and libraries
included; *engine over its imports* subtracts a process that imports the same modules. What else differs between the
contenders, and in whose favour, is said in `benchmarks/contenders.py`."""
_VERBS = ("back up", "unchanged", "changed", "increment", "restore", "restore keys", "receive", "replay")
_BACKUPS = ("back up", "unchanged", "changed", "increment")
_COLOURS = {
    "cp": "#8d99ae",
    "pg_receivewal,": "#8d99ae",
    "mingus": "#1f6f8b",
    "pgbackrest": "#c8553d",
    "restic": "#8d99ae",
    "borg": "#b08968",
}


def facts(*, place: str, rounds: int, nice: int, cluster: str, size: int) -> dict[str, object]:
    """What a reader must know to judge the numbers."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}",
        "memory": f"{memory / (1 << 30):.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "place": place,
        "rounds": rounds,
        "nice": nice,
        "cluster": cluster,
        "cluster_bytes": size,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("zstandard", "blake3", "cryptography", "numpy", "psycopg")},
            "pgbackrest": _first_line("pgbackrest", "version"),
            "restic": _first_line("restic", "version"),
            "borg": _first_line("borg", "--version").removeprefix("borg "),
        },
    }


def markdown(suite: Suite, known: dict[str, object], samples: Sequence[Sample], seconds: float) -> str:
    """The report as text."""
    versions = known["versions"]
    size = float(str(known["cluster_bytes"])) / 1e9
    conditions = (
        f"{size:.2f} GB ({known['cluster']}) on {known['cpu']}, {known['memory']}, {known['system']};"
        f" cluster, repositories and restored files in {known['place']}. {known['rounds']} interleaved rounds in"
        f" {seconds / 60:.0f} minutes; medians, in brackets the extremes. Two workers each, zstd, AES-256."
        f" {suite.conditions}"
        + (f" Everything measured ran at nice {known['nice']}: the machine was not idle." if known["nice"] else "")
    )
    lines = [
        f"# {suite.title}, {known['date']}",
        "",
        conditions,
        "",
        ", ".join(f"{name} {number}" for name, number in versions.items()) if isinstance(versions, dict) else "",
        "",
        "## Targets",
        "",
        "| figure | target | measured | |",
        "|---|---|---|---|",
        *map(_figure_row, figures(suite.targets, samples)),
        "",
        "A ratio is that of the medians, the brackets are the extremes of the ratios within one round.",
        "",
    ]
    for verb in _VERBS:
        rows = [_contender_row(samples, name, verb) for name in _names(samples, verb)]
        if rows:
            lines += [
                f"## {verb.capitalize()}",
                "",
                "| | wall s | MB/s | CPU s | of it server | memory MiB | stored MB | CPU s of others meanwhile |",
                "|---|---|---|---|---|---|---|---|",
                *(row.replace("RATE", _rate(samples, row, verb, size)) for row in rows),
                "",
            ]
    return "\n".join([*lines, _EXPLANATION, ""])


def write(suite: Suite, folder: Path, known: dict[str, object], samples: Sequence[Sample], text: str) -> list[Path]:
    """Write table, JSON and plot; their paths."""
    folder.mkdir(exist_ok=True)
    stem = folder / f"{known['date']}-{suite.name}"
    document = {
        "facts": known,
        "figures": [
            {
                **figure.target.__dict__,
                "value": figure.value,
                "low": figure.low,
                "high": figure.high,
                "reached": figure.reached,
            }
            for figure in figures(suite.targets, samples)
        ],
        "samples": [sample.as_dict() for sample in samples],
    }
    paths = [stem.with_suffix(suffix) for suffix in (".md", ".json", ".svg")]
    _plot(suite, paths[2], known, samples)
    paths[0].write_text(f"{text}\n![wall and CPU seconds]({paths[2].name})\n", encoding="utf-8")
    paths[1].write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return paths


def _figure_row(figure: Figure) -> str:
    target = figure.target
    other = _other(target)
    limit = f"≤ {target.limit:.2f} × {other}" if other else f"≤ {target.limit:g}"
    value = f"{figure.value:.2f} ({figure.low:.2f}–{figure.high:.2f})" if other else f"{figure.value:.1f}"
    quantity = f" ({target.quantity})" if target.quantity in ("wall", "CPU") else ""
    return f"| {target.what}{quantity} | {limit} | {value} | {'reached' if figure.reached else '**missed**'} |"


def _other(target: Target) -> str:
    """What the limit is a multiple of."""
    if not target.other:
        return ""
    first = target.other.split()[0]
    name = first.rstrip(",") if first != target.ours.split()[0] else target.other
    return f"{name}, {target.other_verb}" if target.other_verb else name


def _contender_row(samples: Sequence[Sample], name: str, verb: str) -> str:
    found = of(samples, name, verb)
    cells = [
        name,
        _spread([s.cost.wall_s for s in found], 2),
        "RATE",
        _spread([s.cost.cpu_s for s in found], 2),
        f"{median(s.cost.server_s for s in found):.2f}",
        f"{max(s.cost.peak_mib for s in found):.0f}",
        f"{median(s.stored_bytes or 0 for s in found) / 1e6:.1f}" if verb in _BACKUPS else "",
        f"{median(s.cost.others_s for s in found):.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _rate(samples: Sequence[Sample], row: str, verb: str, size: float) -> str:
    found = of(samples, row.split(" | ", maxsplit=1)[0].removeprefix("| "), verb)
    wall = median(s.cost.wall_s for s in found)
    keys = found[0].keys
    return f"{keys / wall:,.0f} keys/s" if keys else f"{(found[0].size_bytes or size * 1e9) / 1e6 / wall:.0f}"


def _names(samples: Sequence[Sample], verb: str) -> list[str]:
    return sorted({s.contender for s in samples if s.verb == verb})


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def _plot(suite: Suite, path: Path, known: dict[str, object], samples: Sequence[Sample]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "mingus"  # the same numbers give the same file
    from matplotlib import pyplot as plt

    names = {verb: _names(samples, verb) for verb in _VERBS}
    shown = [verb for verb in _VERBS if names[verb]]
    heights = [max(2, len(names[verb])) for verb in shown]
    figure, axes = plt.subplots(
        len(shown),
        1,
        figsize=(9, 0.55 * sum(heights) + 1.6),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis, verb in zip(axes[:, 0], shown, strict=True):
        for at, name in enumerate(reversed(names[verb])):
            found = of(samples, name, verb)
            colour = _COLOURS.get(name.split(",")[0].split()[0], "#8d99ae")
            walls = sorted(s.cost.wall_s for s in found)
            middle = median(walls)
            axis.barh(at + 0.18, middle, 0.36, color=colour, xerr=[[middle - walls[0]], [walls[-1] - middle]])
            axis.barh(at - 0.18, median(s.cost.cpu_s for s in found), 0.36, color=colour, alpha=0.4)
        axis.set_yticks(range(len(names[verb])), list(reversed(names[verb])))
        axis.set_xlabel("seconds")
        axis.set_title(f"{verb}: wall (dark, with extremes) and CPU seconds with the server's (light)", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    size = float(str(known["cluster_bytes"])) / 1e9
    figure.suptitle(f"{suite.title}; {size:.1f} GB, medians of {known['rounds']} rounds, {known['date']}", fontsize=10)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _first_line(*command: str) -> str:
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return "not installed"
    return (output.splitlines() or [""])[0].removeprefix("pgBackRest ").removeprefix("restic ").split(" compiled")[0]
