"""Where the roots of a snapshot were, for a restore to the original places."""

from __future__ import annotations

import os

from mingus_engine.errors import SettingsError
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.settings import Settings
from mingus_engine.sources.files.findings import shown
from mingus_engine.targets.paths import split


def originals_of(settings: Settings, source: str, reader: SnapshotReader) -> dict[bytes, bytes]:
    """Label → path. What a snapshot says is believed only where the settings, if they know the source, say the same:
    a manifest must not choose what is overwritten.

    :raises SettingsError: a root is somewhere else now, or it is no absolute path. :raises Damaged: it is malformed.
    """
    found = {os.fsencode(str(r["label"])): os.fsencode(str(r["path"])) for r in reader.body.facts.get("roots", ())}
    if not found:
        raise SettingsError(f"snapshot {reader.manifest.ulid} does not say where its roots were")
    roots = settings.stored_source(source, "files").files.roots
    known = {os.fsencode(root.name): os.fsencode(root.path) for root in roots}
    for label, path in found.items():
        if not path.startswith(b"/") or len(split(label)) != 1:
            raise SettingsError(f"root {shown(label)} was at {shown(path)}, which is not an absolute path")
        if path.strip(b"/"):
            split(path.strip(b"/"))
        if known and known.get(label) != path:
            now = f"it is {shown(known[label])}" if label in known else "there is no such root"
            raise SettingsError(
                f"root {shown(label)} was {shown(path)}; in the settings {now}",
                hint="restore into a directory and move what is needed, or correct the settings",
            )
    return {label: path.rstrip(b"/") or b"/" for label, path in found.items()}
