"""What a source of kind ``files`` is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mingus_engine import bounds


@dataclass(frozen=True)
class FileRoot:
    """A directory (or a file) that is backed up with everything below it.

    :param path: absolute. :param label: what its paths begin with in snapshots; never change it; empty = the last part
        of *path*.
    """

    path: str
    label: str = ""

    @property
    def name(self) -> str:
        """The label, as it stands in snapshots."""
        return self.label or self.path.rstrip("/").rpartition("/")[2] or "root"


@dataclass(frozen=True)
class FileSetSettings:
    """What a source of kind ``files`` adds.

    :param set: what kind of files they are; it decides at which time of the night the DAGs back them up.
    :param include: where given, only files that match one of these patterns (as in ``.gitignore``, from each root).
    :param exclude: what matches is left out, directories with all that is below them.
    :param one_file_system: do not go into what is mounted below a root.
    :param links: ``keep`` symbolic links, or ``follow`` them and back up what they lead to.
    :param file_max_bytes: larger files are left out and counted; 0 = no limit.
    :param full_every_days: after so long an incremental stores everything again.
    :param reread_every_days: after so long an incremental reads also files that seem unchanged, to find content that
        changed although nothing else did (a disk that rots); 0 = never.
    :param may_be_empty: a set without any file is no alarm.
    :param shrink_alarm_share: alarm when there are fewer files, or fewer bytes, than this share of the last time's.
    :param unreadable_max_share: the backup fails when more of the files than this share cannot be read.
    :param burst_alarm_share: alarm when so large a share of the files was replaced by content that looks encrypted
        since the last time; 0 = never.
    :param dedup_index_max_bytes: of a temporary file that says where stored chunks lie; what does not fit into it is
        stored again.
    """

    set: Literal["documents", "configuration", "code"] = "documents"
    roots: tuple[FileRoot, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    one_file_system: bool = False
    links: Literal["keep", "follow"] = "keep"
    file_max_bytes: int = 0
    full_every_days: int = 90
    reread_every_days: int = 7
    may_be_empty: bool = False
    shrink_alarm_share: float = 0.5
    unreadable_max_share: float = 0.01
    burst_alarm_share: float = 0.2
    dedup_index_max_bytes: int = bounds.GIB
