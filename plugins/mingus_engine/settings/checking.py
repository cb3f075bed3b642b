"""What the values of settings must be, beyond their types."""

from __future__ import annotations

import os
import re
from zoneinfo import ZoneInfo

from mingus_engine import bounds
from mingus_engine.errors import SettingsError
from mingus_engine.settings.health import LIMITS
from mingus_engine.settings.hooks import HookSettings
from mingus_engine.settings.model import SOURCE_ID, Settings, SourceSettings

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SLOT = re.compile(r"[a-z0-9_]{1,63}")


def check(settings: Settings, where: str) -> None:
    """:raises SettingsError: a value is out of range, or names nothing; *where* is what the settings are called."""
    try:
        ZoneInfo(settings.time_zone)
    except (KeyError, ValueError, OSError):
        raise SettingsError(f"{where}.time_zone: {settings.time_zone!r} is not a time zone") from None
    for kind, names in (
        ("repository", [r.name for r in settings.repositories]),
        ("source", [s.id for s in settings.sources]),
        ("destination", [*(d.name for d in settings.destinations), *(s.id for s in settings.sources)]),
        ("group", [g.name for g in settings.groups]),
    ):
        for name in names:
            if SOURCE_ID.fullmatch(name) is None:
                raise SettingsError(f"{where}: {kind} name {name!r} must be [a-z0-9][a-z0-9-]{{0,62}}")
            if names.count(name) > 1:
                raise SettingsError(f"{where}: two {kind} entries are named {name!r}")
    _check_places(settings, where)
    for source in settings.sources:
        for name in (source.repository, source.verify.repository, *source.ship_to):
            if name:
                settings.repository(name)
        if not settings.repositories:
            raise SettingsError(f"{where}: source {source.id!r} has no repository to go to")
        _check_numbers(source, where)
        _check_hooks(source.hooks, f"{where}: hooks of source {source.id!r}")
    _check_groups(settings, where)
    for key, (least, most) in LIMITS.items():
        if not least <= int(getattr(settings.health, key)) <= most:
            raise SettingsError(f"{where}.health.{key}: must be {least} to {most}, not {getattr(settings.health, key)}")


def _check_numbers(source: SourceSettings, where: str) -> None:
    limits = (
        ("workers", 1, 64), ("sql_connections", 1, 16), ("compression_level", 0, 19), ("full_every_days", 1, 366),
        ("rpo_s", 0, 366 * 86400),
    )  # fmt: skip
    for key, least, most in limits:
        if not least <= getattr(source, key) <= most:
            raise SettingsError(f"{where}: {key} of source {source.id!r} must be {least} to {most}")
    if _SLOT.fullmatch(source.wal_slot) is None:
        raise SettingsError(f"{where}: wal.slot of source {source.id!r} must be [a-z0-9_]{{1,63}}")
    if source.wal.slice_interval_s <= 0 or source.wal.idle_sample_s <= 0 or source.wal.busy_lag_max_bytes < 0:
        raise SettingsError(f"{where}: the intervals of wal of source {source.id!r} must be above 0")
    stream = source.redis.stream
    if stream.slice_interval_s <= 0 or stream.idle_sample_s <= 0 or stream.busy_lag_max_bytes < 0:
        raise SettingsError(f"{where}: the intervals of redis.stream of source {source.id!r} must be above 0")
    if not 0 <= source.redis.shrink_alarm_share <= 1:
        raise SettingsError(f"{where}: redis.shrink_alarm_share of source {source.id!r} must be 0 to 1")
    if not 0 < source.verify.sample_share <= 1 or source.verify.sample_max_bytes < 0:
        raise SettingsError(
            f"{where}: verify.sample_share of source {source.id!r} must be above 0 and at most 1, sample_max_bytes 0 or"
            " more"
        )
    if source.kind == "files":
        _check_file_set(source, where)


def _check_hooks(hooks: HookSettings, where: str) -> None:
    for key, programs in (("before", hooks.before), ("after", hooks.after)):
        for program in programs:
            if not program or not program[0].startswith("/"):
                raise SettingsError(
                    f"{where}: {key} must list programs by their absolute paths, each with its arguments",
                    hint='for example: before: [["/usr/bin/systemctl", "stop", "shop"]]',
                )
    if not 1 <= hooks.timeout_s <= 86_400:
        raise SettingsError(f"{where}: timeout_s must be 1 to 86400")
    for name in (*hooks.environment, *hooks.pass_environment):
        if _VARIABLE.fullmatch(str(name)) is None:
            raise SettingsError(f"{where}: {name!r} cannot be the name of a variable")
    for name, value in hooks.environment.items():
        if not isinstance(value, str):
            raise SettingsError(f"{where}: environment.{name} must be a text; put it in quotes")


def _check_groups(settings: Settings, where: str) -> None:
    for group in settings.groups:
        for member in group.members:
            settings.source(member)
        if len(set(group.members)) < 2 or len(set(group.members)) < len(group.members):
            raise SettingsError(f"{where}: group {group.name!r} needs at least two members, each once")
        _check_hooks(group.hooks, f"{where}: hooks of group {group.name!r}")


def _check_places(settings: Settings, where: str) -> None:
    places: dict[tuple[str, ...], str] = {}
    for repository in settings.repositories:
        if repository.store == "local":
            if not repository.path:
                raise SettingsError(f"{where}: repository {repository.name!r} needs a path")
            place: tuple[str, ...] = ("local", os.path.realpath(repository.path))
        else:
            if not repository.s3.bucket:
                raise SettingsError(f"{where}: repository {repository.name!r} needs s3.bucket or BACKUP_S3_BUCKET")
            if repository.s3.tls and repository.s3.endpoint.startswith("http://"):
                raise SettingsError(f"{where}: repository {repository.name!r} has an http:// endpoint but tls is on")
            place = ("s3", repository.s3.endpoint, repository.s3.bucket, repository.s3.prefix.strip("/"))
        if place in places:
            raise SettingsError(
                f"{where}: repositories {places[place]!r} and {repository.name!r} have the same place {place[-1]!r}"
            )
        places[place] = repository.name


def _check_file_set(source: SourceSettings, where: str) -> None:
    files, where = source.files, f"{where}: files of source {source.id!r}"
    if not files.roots:
        raise SettingsError(f"{where}: name at least one root")
    names = [root.name for root in files.roots]
    for root in files.roots:
        if not root.path.startswith("/"):
            raise SettingsError(f"{where}: root {root.path!r} is not an absolute path")
        if "/" in root.name or root.name in {".", "..", ".mingus-restore-incomplete"}:
            raise SettingsError(f"{where}: {root.name!r} cannot be the label of a root")
        if names.count(root.name) > 1:
            raise SettingsError(f"{where}: two roots are called {root.name!r}", hint="give one of them another `label`")
    for key, most in (("full_every_days", 366), ("reread_every_days", 366)):
        if not (0 if key.startswith("reread") else 1) <= getattr(files, key) <= most:
            raise SettingsError(f"{where}: {key} must be at most {most}")
    for key in ("shrink_alarm_share", "unreadable_max_share", "burst_alarm_share"):
        if not 0 <= getattr(files, key) <= 1:
            raise SettingsError(f"{where}: {key} must be 0 to 1")
    if files.file_max_bytes < 0 or files.dedup_index_max_bytes < bounds.MIB:
        raise SettingsError(f"{where}: file_max_bytes must be 0 or more, dedup_index_max_bytes at least {bounds.MIB}")
