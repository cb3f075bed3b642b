"""Targets: where a restore goes. A target takes entries and bytes; it knows no repository, key or pack.

``directory`` restores any tree; ``postgres`` builds a data directory on top of it, starts a throw-away server on the
result and checks it. Everything that comes from a manifest (paths, link targets, offsets, sizes) is hostile here: a
path never leads out of the target, whatever lies in it. Nothing is promised about a target before ``finish`` returned,
except that a data directory without it does not start.
"""
