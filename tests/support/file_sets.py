"""File sets for tests: an installation with one source of files, and trees that are described exactly."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import yaml

from mingus_engine.jobs import places
from mingus_engine.jobs.back_up import back_up
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.files.back_up import FilesBackUpReport
from mingus_engine.jobs.files.restore import FilesRestoreReport, restore_files
from mingus_engine.jobs.initialise import initialise
from mingus_engine.jobs.verify import VerifyReport, verify
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import FileSetSettings, Settings, load
from tests.support.s3 import S3Bucket

SOURCE = "documents"


@dataclass
class FileSet:
    """Repositories (``first`` alone unless named), a source ``documents`` whose root is ``tree``. ``close`` at the end.

    :ivar messages: what the jobs logged. :ivar environment: the variables that hold its secrets, for subprocesses.
    """

    root: Path
    settings: Settings
    variable: str
    messages: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        root: Path,
        *,
        repositories: Sequence[str] = ("first",),
        bucket: S3Bucket | None = None,
        **files: Any,
    ) -> FileSet:
        """Below *root*, made here. :param repositories: the set goes to the first, which ships to the others.

        :param bucket: for the first repository; default: a directory, as the others. :param files: settings of the set;
            default root: ``tree`` below *root*.
        """
        root.mkdir(parents=True)
        (root / "tree").mkdir()
        (root / "tmp").mkdir()
        variable = f"MINGUS_TEST_{secrets.token_hex(6).upper()}"
        os.environ[variable] = secrets.token_hex(32)
        files = {"roots": [{"path": str(root / "tree")}], **files}
        place: dict[str, Any] = {"path": repositories[0]}
        environment = {variable: os.environ[variable]}
        if bucket is not None:
            environment |= {f"{variable}_ID": bucket.server.access_key, f"{variable}_KEY": bucket.server.secret_key}
            os.environ.update(environment)
            keys = {"access_key_id_env": f"{variable}_ID", "secret_access_key_env": f"{variable}_KEY"}
            place = {
                "store": "s3",
                "s3": {"bucket": bucket.name, "endpoint": bucket.server.endpoint, "tls": False, **keys},
            }
        document = {
            "state_directory": "state",
            "repositories": [
                {
                    "name": name,
                    **(place if name == repositories[0] else {"path": name}),
                    "keys": {"environment": variable},
                }
                for name in repositories
            ],
            "sources": [
                {
                    "id": SOURCE,
                    "kind": "files",
                    "repository": repositories[0],
                    "ship_to": list(repositories[1:]),
                    "files": files,
                }
            ],
        }
        (root / "mingus.yaml").write_text(yaml.safe_dump(document))
        made = cls(root, load(root / "mingus.yaml"), variable, environment=environment)
        for name in repositories:
            initialise(made.settings, name, context=made.context)
        return made

    @property
    def tree(self) -> Path:
        """The root of the set."""
        return self.root / "tree"

    @property
    def context(self) -> JobContext:
        """For one job."""
        return JobContext(log=self.messages.append)

    def close(self) -> None:
        """Forget the keys."""
        for name in (self.variable, *self.environment):
            os.environ.pop(name, None)

    def set(self, **files: Any) -> None:
        """Change settings of the set."""
        source = self.settings.source(SOURCE)
        self.settings = self.settings.with_source(replace(source, files=replace(source.files, **files)))

    @property
    def files(self) -> FileSetSettings:
        """The settings of the set."""
        return self.settings.source(SOURCE).files

    def back_up(self, *, incremental: bool = True, context: JobContext | None = None) -> FilesBackUpReport:
        """A backup."""
        report = back_up(self.settings, SOURCE, context=context or self.context, incremental=incremental)
        return cast(FilesBackUpReport, report)

    def restore(self, name: str, snapshot: str | None = None, **options: Any) -> tuple[Path, FilesRestoreReport]:
        """A restore into the new directory *name*; where it is."""
        directory = self.root / name
        report = restore_files(
            self.settings, SOURCE, directory=directory, context=self.context, snapshot=snapshot, **options
        )
        return directory, report

    def verify(self, level: str = "L4", snapshot: str | None = None) -> VerifyReport:
        """Of the newest snapshot, or of *snapshot*."""
        return verify(self.settings, SOURCE, context=self.context, level=level, snapshot=snapshot)

    def snapshots(self) -> list[str]:
        """ULIDs of those that are stored, ascending."""
        with self.repository() as repository:
            return sorted(name.ulid for name in repository.list_snapshots(SOURCE))

    @contextmanager
    def repository(self) -> Iterator[Repository]:
        """The repository, opened."""
        with places.opened(self.settings, "first", self.context) as repository:
            yield repository

    @contextmanager
    def reader(self) -> Iterator[SnapshotReader]:
        """A reader of the newest snapshot."""
        with self.repository() as repository:
            newest = max(repository.list_snapshots(SOURCE), key=lambda name: name.ulid)
            yield SnapshotReader(repository, repository.get_manifest(newest))


def described(top: Path) -> Mapping[str, tuple[object, ...]]:
    """Everything below *top* with all that a restore must bring back, by path."""
    found: dict[str, tuple[object, ...]] = {}
    names: dict[tuple[int, int], list[str]] = {}
    for where in [top, *_below(top)]:
        path = str(where.relative_to(top))
        status = where.lstat()
        if stat.S_ISSOCK(status.st_mode):
            continue
        if not stat.S_ISDIR(status.st_mode):
            names.setdefault((status.st_dev, status.st_ino), []).append(path)
        found[path] = _of(where, status)
    groups = {path: sorted(group) for group in names.values() for path in group}
    return {path: (*values, groups.get(path)) for path, values in found.items()}


def _below(top: Path) -> Iterator[Path]:
    for path in top.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)


def _of(where: Path, status: os.stat_result) -> tuple[object, ...]:
    mode, target, content = status.st_mode, "", ""
    if stat.S_ISLNK(mode):
        target = str(where.readlink())
    elif stat.S_ISREG(mode):
        with where.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    xattrs = tuple(
        (name, os.getxattr(where, name, follow_symlinks=False))
        for name in sorted(os.listxattr(where, follow_symlinks=False))
    )
    size = status.st_size if stat.S_ISREG(mode) else 0
    owner = (status.st_uid, status.st_gid) if os.geteuid() == 0 else ()
    return mode, owner, status.st_mtime_ns, size, content, target, xattrs, status.st_rdev


def tick(folder: Path) -> None:
    """Return when the file system's clock goes on: what changes from now on has other times than what was."""
    probe = folder / f".tick-{secrets.token_hex(4)}"
    probe.touch()
    first = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == first:
        probe.chmod(0o600)
    probe.unlink()
