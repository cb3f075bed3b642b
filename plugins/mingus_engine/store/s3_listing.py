"""A complete listing of an S3 bucket, or an error: an answer that cannot be shown to be whole is refused.

A short listing is how backups are lost (a cleaner would take what it does not see for garbage, a writer would find no
parent), so every page must say whether it is the last, must hold as many keys as it counts, and must go on after the
one before: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from typing import TYPE_CHECKING, Any

from mingus_engine.errors import StoreError, StoreUnreachable
from mingus_engine.store.base import ObjectInfo

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_PAGE_KEYS = 1000  # the most that S3 gives


def objects(client: S3Client, bucket: str, prefix: str, location: str) -> Iterator[ObjectInfo]:
    """Every object whose key starts with *prefix*, in key order; ``name`` is the whole key.

    :raises StoreUnreachable: an answer is incomplete.
    :raises StoreError: the server does not list in order, or lists what was not asked for.
    """
    last = ""
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": _PAGE_KEYS}
    while True:
        page: dict[str, Any] = dict(client.list_objects_v2(**asked))
        more = _checked(page, location, asked.get("ContinuationToken"))
        for entry in page.get("Contents", ()):
            key = entry["Key"]
            if not key.startswith(prefix):
                raise StoreError(f"{location} listed {key[:120]!r}, asked for was {prefix!r}")
            if key <= last:
                raise StoreError(
                    f"{location} listed {key[:120]!r} after {last[:120]!r}: not in order",
                    hint="this server cannot be used as a repository",
                )
            last = key
            yield ObjectInfo(key, entry["Size"], entry["LastModified"].astimezone(UTC))
        if not more:
            return
        asked["ContinuationToken"] = more


def _checked(page: dict[str, Any], location: str, before: str | None) -> str:
    """The token of the next page, ``""`` after the last.

    :raises StoreUnreachable: the page is not whole.
    """
    contents = page.get("Contents", ())
    if not isinstance(page.get("IsTruncated"), bool):
        raise StoreUnreachable(f"a page of the listing of {location} does not say whether it is the last")
    if page.get("KeyCount", len(contents)) != len(contents):
        raise StoreUnreachable(
            f"a page of the listing of {location} has {len(contents)} keys, it says {page['KeyCount']}"
        )
    if any("Key" not in entry or "Size" not in entry or "LastModified" not in entry for entry in contents):
        raise StoreUnreachable(f"a page of the listing of {location} has an entry without name, size or time")
    if not page["IsTruncated"]:
        return ""
    token = page.get("NextContinuationToken")
    # An empty page is allowed (some servers filter after paging); the same place again would never end.
    if not token or token == before:
        raise StoreUnreachable(f"a page of the listing of {location} says there are more, but not how to go on")
    return str(token)
