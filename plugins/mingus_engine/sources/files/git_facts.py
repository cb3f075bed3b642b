"""Of which commit the code in a set is, and whether somebody changed it since.

What is backed up may be hostile: a configuration in a repository names programs that git runs (file monitors, filters,
hooks, helpers). So git never sees it: it is given a directory of our own as ``GIT_DIR``, with the objects and the index
of the repository and a few values that can only be yes or no. It runs as the repository's owner, for a bounded time.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mingus_engine.errors import ComponentMissing
from mingus_engine.masking import mask
from mingus_engine.programs import single
from mingus_engine.programs.accounts import Account
from mingus_engine.settings import FileRoot
from mingus_engine.sources.files.findings import shown

_TIMEOUT_S = 60
# Of one set; a folder of more clones than this is no code set.
_REPOSITORIES_MAX = 200
_SMALL_FILE_BYTES = 64 * 1024
_PACKED_REFS_BYTES = 16 * 1024 * 1024
# Of the list of changes: some 10,000 of them. Of more, that many are counted.
_STATUS_BYTES = 1024 * 1024
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REF = re.compile(r"refs/(?!.*\.\.)[^\x00-\x20\x7f~^:?*\[\\]{1,250}")
_FLAGS = {
    "core.filemode": "true|false", "core.ignorecase": "true|false", "core.symlinks": "true|false",
    "core.autocrlf": "true|false|input", "extensions.objectformat": "sha1|sha256",
}  # fmt: skip
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1", "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none", "GIT_PAGER": "cat",
}  # fmt: skip


@dataclass(frozen=True)
class Clone:
    """A working tree. ``path``: in snapshots; ``private``: its own git directory, ``common``: the shared one."""

    path: str
    tree: Path
    private: Path
    common: Path


def clones(roots: Sequence[FileRoot]) -> list[Clone]:
    """The working trees at the roots and one level below them."""
    return list(islice((clone for root in roots for clone in _below(root)), _REPOSITORIES_MAX))


def facts_of(clone: Clone, checkpoint: Callable[[], None]) -> dict[str, Any]:
    """``path``, ``commit``, ``branch``, ``remote`` (without credentials), ``dirty`` and ``untracked`` (counts).

    What is not known is ``None``: no commit yet, no branch, git is not installed or did not end.
    """
    commit, branch = head_of(clone)
    found: dict[str, Any] = {
        "path": clone.path, "commit": commit, "branch": branch, "dirty": None, "untracked": None, "remote": None,
    }  # fmt: skip
    git = shutil.which("git", path="/usr/local/bin:/usr/bin:/bin")
    if git is not None:
        with suppress(OSError, ComponentMissing, single.TimedOut):
            found |= _asked(git, clone, commit, checkpoint)
    return found


def head_of(clone: Clone) -> tuple[str | None, str | None]:
    """Commit and branch, read by hand."""
    text = _read(clone.private / "HEAD", _SMALL_FILE_BYTES).strip()
    if _COMMIT.fullmatch(text):
        return text, None
    ref = text.removeprefix("ref:").strip()
    if not text.startswith("ref:") or _REF.fullmatch(ref) is None:
        return None, None
    branch = ref.removeprefix("refs/heads/")
    for directory in (clone.private, clone.common):
        commit = _read(directory / ref, _SMALL_FILE_BYTES).strip()
        if _COMMIT.fullmatch(commit):
            return commit, branch
    for line in _read(clone.common / "packed-refs", _PACKED_REFS_BYTES).splitlines():
        commit, _, name = line.partition(" ")
        if name == ref and _COMMIT.fullmatch(commit):
            return commit, branch
    return None, branch


def without_credentials(url: str) -> str:
    """The address of a remote, without user and password; ``git@host`` is no secret."""
    url = re.sub(r"^(\w[\w+.-]*://)[^/]*@", lambda m: m[1] + ("git@" if m[0].endswith("//git@") else ""), url)
    return mask(url.partition("?")[0])[:500]


def _below(root: FileRoot) -> Iterator[Clone]:
    top = Path(root.path)
    yield from _clone(root.name, top)
    try:
        with os.scandir(top) as entries:
            folders = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    for name in folders:
        if name != ".git":
            yield from _clone(f"{root.name}/{name}", top / name)


def _clone(path: str, tree: Path) -> Iterator[Clone]:
    private = tree / ".git"
    try:
        mode = private.lstat().st_mode
    except OSError:
        return
    if stat.S_ISREG(mode):  # a further working tree, or a submodule
        said = _read(private, _SMALL_FILE_BYTES).strip()
        if not said.startswith("gitdir:"):
            return
        private = tree / said.removeprefix("gitdir:").strip()
    elif not stat.S_ISDIR(mode):
        return
    shared = _read(private / "commondir", _SMALL_FILE_BYTES).strip()
    if _read(private / "HEAD", _SMALL_FILE_BYTES):
        yield Clone(shown(os.fsencode(path)), tree, private, private / shared if shared else private)


def _asked(git: str, clone: Clone, commit: str | None, checkpoint: Callable[[], None]) -> dict[str, Any]:
    """What git says."""
    status = clone.private.stat()
    account = None
    if os.geteuid() == 0 and status.st_uid:
        account = Account(str(status.st_uid), status.st_uid, status.st_gid)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="mingus-git-") as made:
        directory = Path(made)
        _furnish(directory, clone, commit)

        def run(*arguments: str) -> single.Done | None:
            environment: Mapping[str, str] = {
                **_ENVIRONMENT,
                "GIT_DIR": made,
                "GIT_WORK_TREE": str(clone.tree),
                "GIT_INDEX_FILE": str(clone.private / "index"),
                "GIT_OBJECT_DIRECTORY": str(clone.common / "objects"),
            }
            done = single.run(
                (git, "--no-pager", *arguments), account=account, timeout_s=_TIMEOUT_S, environment=environment,
                checkpoint=checkpoint, kept_bytes=_STATUS_BYTES,
            )  # fmt: skip
            return None if done.code else done

        theirs = ("config", "--file", str(clone.common / "config"), "--no-includes", "--get")
        if url := run(*theirs, "remote.origin.url"):
            found["remote"] = without_credentials(url.output.strip())
        config = ["[core]\n\trepositoryformatversion = 1\n\tbare = false\n"]
        for name, values in _FLAGS.items():
            value = run(*theirs, name)
            if value and re.fullmatch(values, value.output.strip()):
                section, _, key = name.partition(".")
                config.append(f"[{section}]\n\t{key} = {value.output.strip()}\n")
        (directory / "config").write_text("".join(config))
        changes = run("status", "--porcelain", "-z", "--no-renames", "--ignore-submodules=all")
        if commit and changes:
            listed = [line for line in changes.output.split("\0") if line]
            found["untracked"] = sum(line.startswith("??") for line in listed)
            found["dirty"] = len(listed) - found["untracked"]
    return found


def _furnish(directory: Path, clone: Clone, commit: str | None) -> None:
    """Make *directory* a git directory that has nothing of the repository's that git could act upon."""
    directory.chmod(0o755)
    for name in ("refs", "objects", "info"):
        (directory / name).mkdir()
    (directory / "HEAD").write_text(f"{commit or 'ref: refs/heads/none'}\n")
    # Patterns of what nobody wants to see: they name no program.
    (directory / "info" / "exclude").write_text(_read(clone.common / "info" / "exclude", _SMALL_FILE_BYTES))
    (directory / "config").write_text("")


def _read(path: Path, most: int) -> str:
    """The beginning of a plain file; empty where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)
