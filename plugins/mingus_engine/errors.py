"""The one error tree of the engine.

Every failure a person can meet is a class here. A message says, in lower case, what failed, which
object, and the numbers; advice goes into the hint only. ``transient`` tells a caller whether the same
call may succeed later without anybody doing anything (Airflow retries those). ``exit_code`` is the
process exit code of the command line; docs/OPERATIONS.md lists them for scripts.
"""

from __future__ import annotations


class MingusError(Exception):
    """Base of everything the engine raises on purpose.

    :param message: what failed, which object, the numbers. Never holds a secret.
    :param hint: what a person can do about it; replaces the class's own hint.
    """

    transient = False
    exit_code = 1
    hint = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class SettingsError(MingusError):
    """The settings file, the environment or an argument is wrong."""

    exit_code = 2
    hint = "run `mingus check` after correcting the settings"


class KeyUnavailable(MingusError):
    """No slot of the repository could be opened with the keys at hand."""

    exit_code = 3
    hint = "check BACKUP_ENCRYPTION_KEY, the passphrase, or use the escrow key"


class StoreError(MingusError):
    """A store (directory, S3 bucket) failed."""

    exit_code = 4


class StoreUnreachable(StoreError):
    """The store did not answer, or answered that it cannot now (500, 503, time-out)."""

    transient = True
    hint = "the same call may succeed later; check the network and the store's health"


class StoreDenied(StoreError):
    """The store refused the credentials or the operation (403, EACCES, read-only)."""

    hint = "check the credentials and rights of the repository's store"


class StoreFull(StoreError):
    """No space or quota left; nothing half-written counts as stored."""

    exit_code = 5
    hint = "free space or move the repository; the next run resumes from what was stored"


class ObjectMissing(StoreError):
    """An object that must be there is not there."""

    exit_code = 6
    hint = "run `mingus verify --level L1` against every repository; ship it again from one that has it"


class LogMissing(MingusError):
    """Write-ahead log that a restore needs is not stored: there is a gap, or it ends too early."""

    exit_code = 6
    hint = "`mingus windows` shows what can be restored; another repository may hold what is missing here"


class Damaged(MingusError):
    """Stored bytes are not what was written: truncated, flipped, swapped or forged."""

    exit_code = 6
    hint = "do not delete anything; restore from another repository and verify this one"


class ParentDamaged(MingusError):
    """The snapshot that an incremental backup builds on turned out not to be whole."""

    transient = True
    exit_code = 6
    hint = "the next try builds on another snapshot or stores everything again; verify this repository"

    def __init__(self, message: str, *, snapshot: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.snapshot = snapshot


class ObjectRemoved(MingusError):
    """The snapshot was removed (or is planned for removal) by a cleaner while it was read."""

    exit_code = 6
    hint = "choose another snapshot: `mingus list`"


class FormatTooNew(MingusError):
    """The repository was written by a newer version of this program."""

    exit_code = 10
    hint = "use a newer version of MINGUS, or the rescue script inside the repository"


class RepositoryExists(MingusError):
    """`init` found something where the repository should go."""

    exit_code = 2
    hint = "choose an empty place; an existing repository is never overwritten"


class NotARepository(MingusError):
    """There is no repository at the place of the settings."""

    exit_code = 2
    hint = "run `mingus init` for it, or correct the settings"


class ForeignRepository(MingusError):
    """The repository is signed by another installation than the pinned one."""

    exit_code = 3
    hint = "compare the fingerprint with the escrow sheet before trusting this repository"


class CommitRefused(MingusError):
    """The run was fenced by a cleaner, or what it adopted is being removed; nothing was promised."""

    transient = True
    exit_code = 11
    hint = "start the backup again; it stores what is missing under a new run"


class ClockSkew(MingusError):
    """The writer's clock and the store's differ by more than the bound."""

    exit_code = 11
    hint = "synchronise the clocks (NTP) of this machine and of the store"


class SourceError(MingusError):
    """What is to be backed up cannot be read."""

    exit_code = 7


class SourceUnreachable(SourceError):
    """The source refused the connection, went away or shut down."""

    transient = True
    hint = "is the server up? the next try resumes from what was stored"


class SourceDenied(SourceError):
    """A right is missing on the source (login, REPLICATION, file permissions)."""

    hint = "run `mingus check SOURCE`: it names every missing right"


class SourceUnsupported(SourceError):
    """The source's version or set-up is not supported."""

    hint = "supported: PostgreSQL 15 to 18, Redis 7 and later, Valkey"


class SourceEmpty(SourceError):
    """There is nothing in the source, which is no state that anybody wants to go back to."""

    hint = "is this the right server, has it lost its data? redis.may_be_empty: true, where empty is normal"


class BackupBroken(SourceError):
    """The source could not complete the backup (cancelled, WAL removed, server restarted)."""

    transient = True
    hint = "nothing was committed; start the backup again"


class HookFailed(SourceError):
    """A program that must run before a backup failed; nothing was read."""

    transient = True
    hint = "the programs after the backup have run; correct hooks.before of the source, or what it quiesces"


class TargetError(MingusError):
    """The place to restore to is not usable."""

    exit_code = 8


class TargetNotEmpty(TargetError):
    """A target directory holds something; nothing was written."""

    hint = "choose an empty directory"


class TargetUnreachable(TargetError):
    """The server to restore into refused the connection, went away, or cannot answer now."""

    transient = True
    hint = "is the server up? the next try may find it ready"


class TargetTooSmall(TargetError):
    """There is not enough free space at the target; nothing was written."""

    hint = "free space or choose another target"


class NoSuchSnapshot(MingusError):
    """No snapshot answers the request."""

    exit_code = 8
    hint = "`mingus list` shows what there is"


class NotRestorable(MingusError):
    """The recovery target lies outside what can be restored; nothing was written."""

    exit_code = 8
    hint = "`mingus windows` shows what each repository can restore; --timeline chooses another timeline"


class VerificationFailed(MingusError):
    """The restore test ran and found that the backup is not good."""

    exit_code = 9
    hint = "the report names the failed checks; the scratch directory was removed"


class ComponentMissing(MingusError):
    """A program needed for the job is not installed."""

    exit_code = 12
    hint = "install the package named in the message"


class SourceBusy(SourceError):
    """Another process holds what only one may have (the replication slot of an archiver)."""

    transient = True
    hint = "one archiver per source: is a streaming service running, here or on another machine?"


class LogDiverged(MingusError):
    """The server's write-ahead log is not the one that is stored for its timeline; nothing of it was stored."""

    exit_code = 6
    hint = (
        "two servers with one system identifier and timeline archive under this source id (a copy that was started, or"
        " a primary that went on after a failover): stop the wrong one, or give it a source id of its own"
    )


class AlertNotSent(MingusError):
    """A channel that people are told by did not take a message."""

    transient = True
    exit_code = 13
    hint = "`mingus alert test` tries every channel and says why one does not work; docs/ALERTS.md"


class Cancelled(MingusError):
    """The job was asked to stop; nothing was committed."""

    transient = True
    exit_code = 130
