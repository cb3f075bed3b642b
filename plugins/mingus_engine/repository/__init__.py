"""Repositories: what is stored, under which name, who may put and remove it, and how it is read back.

*Run*: one writing (or reading) job. *Pack*: sealed blobs of one run. *Manifest*: one snapshot; writing it is the
commit. *Log container*: a stretch of WAL. *Record*: a signed note beside snapshots (proof, plan, fence, verdict,
done, …). *Epoch*: a key of this repository;
*slot*: one way to open it. *Placement*: the part of an object that belongs to this repository only.

Writing (``writer``): start → list plans → list manifests → choose parents → packs → manifest → read back → list
fences → end. A crash at any point leaves a repository in which every listed snapshot restores. Reading (``reader``):
manifest → shards → extents → blobs, each opened under a key of its own and checked before it is believed.

Nothing here deletes: only a cleaner may, by the protocol of DESIGN §4. Not promised: that two snapshots taken at one
time are in any order other than the one their heads tell; that a store which accepts bytes without keeping them is
noticed before it is read.
"""
