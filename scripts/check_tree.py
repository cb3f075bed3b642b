"""Checks on the tracked files that no linter makes: nothing of this machine, no registry, no secret, locks with hashes.

Prints one line per finding, ``path:line: what``, and ends with 1 if there is any. A line that only looks like a
secret (a test vector of an RFC, say) carries the words ``not a secret`` in a comment.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent

# Written in two halves, so that this file passes its own check. Clones build behind mirrors: a host written down here
# would be the wrong one there, and hashes, not hosts, are what the locks trust.
REGISTRY_HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "registry." + "npmjs.org",
    "proxy." + "golang.org",
    "crates" + ".io",
    "repo.maven." + "apache.org",
    "deb." + "debian.org",
    "security." + "debian.org",
]
# The absolute paths of build machines; `$dir/work/x` and `tests/work/x` are something else.
MACHINE_PATH = re.compile(r"(?<![\w.$})\]*-])/(?:work/|root/|opt/wheel" + r"s)")
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\bxox[abprs]-[0-9A-Za-z-]{10,}"
    r"|\bgh[pousr]_[0-9A-Za-z]{30,}"
    r"|(?i:passw(?:or)?d|passphrase|secret|token|api_?key)\w*[\"']?\s*[:=]\s*[\"'](?=[^\"']*[0-9])(?=[^\"']*[A-Za-z])[A-Za-z0-9+/_=-]{20,}[\"']"
)
LOCKS = ["requirements.txt", "requirements-dev.txt", "requirements-engine.txt", "scripts/uv.txt"]
LOCKED = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(\[[a-z0-9,_-]+\])?==\S+( ;[^\\]+)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def tracked_files() -> list[Path]:
    """The files git knows, that exist in the working tree."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    paths = [ROOT / os.fsdecode(name) for name in listing.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


def local_index_hosts() -> list[str]:
    """Hosts of the package indexes this machine is set to use: they must not have leaked into the tree either."""
    urls = [
        os.environ.get(name, "")
        for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")
    ]
    hosts = [urlsplit(url).hostname or "" for line in urls for url in line.split()]
    return [host for host in hosts if "." in host]


def text_findings(path: Path, hosts: list[str]) -> Iterator[str]:
    """What one file should not contain; binary files are skipped."""
    data = path.read_bytes()
    if b"\0" in data[:8192]:
        return
    name = path.relative_to(ROOT)
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        for host in hosts:
            if host in line:
                yield f"{name}:{number}: names the package registry {host}"
        if MACHINE_PATH.search(line):
            yield f"{name}:{number}: contains a path of one machine: {line.strip()[:80]}"
        if SECRET.search(line) and "not a secret" not in line:
            yield f"{name}:{number}: looks like a secret (if it is none, say `not a secret` in a comment)"


def lock_findings(name: str) -> Iterator[str]:
    """A lock holds exact versions, each followed by one hash at least, and nothing else."""
    path = ROOT / name
    if not path.is_file():
        yield f"{name}: lock file is missing (make lock)"
        return
    requirement, hashes, count = "", 0, 0
    for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), ""], 1):
        if HASH.match(line):
            hashes += 1
            continue
        if requirement and not hashes:
            yield f"{name}: {requirement} has no hash"
        requirement, hashes = "", 0
        if LOCKED.match(line):
            requirement, count = line.split(" ", 1)[0], count + 1
        elif line and not line.startswith("#"):
            yield f"{name}:{number}: not a pinned requirement: {line}"
    if not count:
        yield f"{name}: locks nothing"


def main() -> int:
    """Run every check; 0 if nothing was found, else 1."""
    hosts = [*REGISTRY_HOSTS, *local_index_hosts()]
    files = tracked_files()
    findings = [finding for path in files for finding in text_findings(path, hosts)]
    findings += [finding for name in LOCKS for finding in lock_findings(name)]
    for finding in findings:
        print(finding)
    print(f"check_tree: {len(findings)} findings in {len(files)} files")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
