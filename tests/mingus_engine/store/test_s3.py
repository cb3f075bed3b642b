"""What an S3 store does with the answers of servers: proofs, errors, listings, parts."""

import base64
import hashlib
import io
import os
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mingus_engine import bounds
from mingus_engine.errors import (
    Damaged,
    MingusError,
    ObjectMissing,
    SettingsError,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnreachable,
)
from mingus_engine.settings import S3Settings
from mingus_engine.store import s3_upload
from mingus_engine.store.s3 import S3Store
from tests.mingus_engine.store.answering import (
    ENVIRONMENT,
    SECRET,
    Answer,
    Request,
    answering,
    error,
    self_signed,
    serving,
    store_of,
)
from tests.support.processes import free_port
from tests.support.s3 import S3Bucket

DATA = b"the bytes of an object"
SHA256 = hashlib.sha256(DATA).digest()
MD5 = hashlib.md5(DATA, usedforsecurity=False)


def put(store: S3Store, name: str, data: bytes) -> None:
    store.put(name, data, size=len(data), sha256=hashlib.sha256(data).digest())


def missing_then(answer: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    """A server on which nothing is there yet."""
    return lambda request: Answer(404) if request.method == "HEAD" else answer(request)


@pytest.mark.parametrize(
    ("answer", "expected", "transient"),
    [
        (error(500, "InternalError"), StoreUnreachable, True),
        (error(503, "SlowDown"), StoreUnreachable, True),
        (error(503, "ServiceUnavailable"), StoreUnreachable, True),
        (error(429, "TooManyRequests"), StoreUnreachable, True),
        (error(400, "RequestTimeout"), StoreUnreachable, True),
        (Answer(502, b"<html>bad gateway</html>"), StoreUnreachable, True),
        (Answer(504), StoreUnreachable, True),
        (error(403, "AccessDenied"), StoreDenied, False),
        (error(403, "SignatureDoesNotMatch"), StoreDenied, False),
        (error(403, "InvalidAccessKeyId"), StoreDenied, False),
        (error(400, "ExpiredToken"), StoreDenied, False),
        (error(401, "Unauthorized"), StoreDenied, False),
        (error(404, "NoSuchKey"), ObjectMissing, False),
        (error(404, "NoSuchBucket"), StoreError, False),
        (error(507, "InsufficientStorage"), StoreFull, False),
        (error(403, "QuotaExceeded"), StoreFull, False),
        (error(400, "InvalidRequest"), StoreError, False),
        (error(501, "NotImplemented"), StoreError, False),
    ],
)
def test_an_answer_is_the_error_that_says_what_to_do(
    answer: Answer, expected: type[MingusError], transient: bool
) -> None:
    with serving(lambda request: answer) as (server, store):
        with pytest.raises(expected) as caught:
            store.get("packs/a")
        assert type(caught.value) is expected
        assert caught.value.transient == transient
        assert "packs/a" in str(caught.value)
        assert "s3://bucket at 127.0.0.1" in str(caught.value)
        assert len(server.requests) == 1, "trying again is the wrapper's"


def test_a_missing_bucket_is_never_a_missing_object() -> None:
    def reply(request: Request) -> Answer:
        return Answer(404) if request.method == "HEAD" else error(404, "NoSuchBucket")

    with serving(reply) as (_server, store):
        for call in (lambda: store.stat("x"), lambda: store.get("x"), lambda: put(store, "x", DATA)):
            with pytest.raises(StoreError, match="NoSuchBucket") as caught:
                call()
            assert type(caught.value) is StoreError
            assert "create the bucket" in caught.value.hint
        with pytest.raises(StoreError, match="NoSuchBucket"):
            list(store.list(""))


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with store_of(f"http://127.0.0.1:{free_port()}") as store:
        for call in (lambda: store.get("x"), lambda: put(store, "x", DATA), lambda: list(store.list("")), store.now):
            with pytest.raises(StoreUnreachable):
                call()


def test_a_server_that_does_not_answer_is_unreachable_after_the_timeout() -> None:
    done = threading.Event()
    with serving(lambda request: Answer(wait_for=done), read_timeout_s=0.2) as (_server, store):
        with pytest.raises(StoreUnreachable, match="packs/a"):
            store.get("packs/a")
        done.set()


@pytest.mark.parametrize("cut", [0, 1, 500])
def test_a_connection_cut_short_is_unreachable_never_a_short_object(cut: int) -> None:
    with (
        serving(lambda request: Answer(body=bytes(1000), cut=cut)) as (_server, store),
        pytest.raises(StoreUnreachable),
    ):
        store.get("x")


def test_a_range_that_is_not_honoured_is_refused() -> None:
    for answer in (
        Answer(200, bytes(1000)),
        Answer(206, bytes(10), {"Content-Range": "bytes 1-10/1000"}),
        Answer(206, bytes(9), {"Content-Range": "bytes 0-8/1000"}),
    ):
        with (
            serving(lambda request, a=answer: a) as (_server, store),
            pytest.raises(StoreError, match="asked for were 0 to 10"),
        ):
            store.get_range("x", 0, 10)


def test_by_default_a_certificate_of_its_own_is_refused(tmp_path: Path) -> None:
    context, public = self_signed(tmp_path)
    with answering(lambda request: Answer(body=DATA), context) as server:
        with store_of(server.url) as store:
            with pytest.raises(StoreError, match="certificate") as caught:
                store.get("x")
            assert not caught.value.transient
            assert "s3.ca_file" in caught.value.hint
        assert server.requests == []
        with store_of(server.url, ca_file=str(public)) as store:
            assert store.get("x") == DATA


def test_an_endpoint_without_tls_needs_the_settings_to_say_so() -> None:
    with pytest.raises(SettingsError, match="without TLS"):
        S3Store(S3Settings(bucket="b", endpoint="http://127.0.0.1:1"), ENVIRONMENT)
    assert S3Store(S3Settings(bucket="b", endpoint="127.0.0.1:1"), ENVIRONMENT)._client.meta.endpoint_url == (
        "https://127.0.0.1:1"
    )


def test_an_endpoint_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(SettingsError) as caught:
        S3Store(S3Settings(bucket="b", endpoint="https://user:hunter2@example.invalid"), ENVIRONMENT)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("missing", sorted(ENVIRONMENT))
def test_a_credential_that_is_not_set_is_named(missing: str) -> None:
    environment = {key: value for key, value in ENVIRONMENT.items() if key != missing}
    with pytest.raises(SettingsError, match=missing) as caught:
        S3Store(S3Settings(bucket="b"), environment)
    assert SECRET not in str(caught.value)


def test_a_server_that_repeats_the_keys_does_not_bring_them_into_an_error() -> None:
    answer = error(403, "SignatureDoesNotMatch", f"{ENVIRONMENT['AWS_ACCESS_KEY_ID']} and {SECRET}")
    with (
        serving(lambda request: answer) as (_server, store),
        pytest.raises(StoreDenied, match="SignatureDoesNotMatch") as caught,
    ):
        store.get("x")
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in shown
    assert ENVIRONMENT["AWS_ACCESS_KEY_ID"] not in shown
    assert "***" in shown


def test_the_keys_are_not_sent_in_addresses_and_a_session_token_goes_along() -> None:
    with answering(lambda request: Answer(body=DATA)) as server:
        settings = S3Settings(bucket="bucket", endpoint=server.url, tls=False)
        store = S3Store(settings, {**ENVIRONMENT, "AWS_SESSION_TOKEN": "the-token"})
        store.get("x")
        store.close()
    (request,) = server.requests
    assert request.headers["X-Amz-Security-Token"] == "the-token"
    assert request.path == "/bucket/x"
    assert SECRET not in str(request)


def test_the_settings_say_which_checksum_is_sent() -> None:
    expected = {
        "sha256": {"x-amz-checksum-sha256": base64.b64encode(SHA256).decode()},
        "md5": {"Content-MD5": base64.b64encode(MD5.digest()).decode()},
        "none": {},
    }

    def reply(request: Request) -> Answer:
        return Answer(body=DATA) if request.method == "GET" else Answer()

    for checksum, headers in expected.items():
        with serving(missing_then(reply), checksum=checksum) as (server, store):
            put(store, "x", DATA)
        (sent,) = [request for request in server.requests if request.method == "PUT"]
        found = {k: v for k, v in sent.headers.items() if "checksum" in k.lower() or k == "Content-MD5"}
        assert found == headers
        assert sent.body == DATA


@pytest.mark.parametrize(
    ("checksum", "proof"),
    [
        ("sha256", {"x-amz-checksum-sha256": base64.b64encode(SHA256).decode()}),
        ("md5", {"ETag": f'"{MD5.hexdigest()}"'}),
    ],
)
def test_what_the_answer_proves_is_not_read_back(checksum: str, proof: dict[str, str]) -> None:
    with serving(missing_then(lambda request: Answer(headers=proof)), checksum=checksum) as (server, store):
        put(store, "x", DATA)
    assert [request.method for request in server.requests] == ["HEAD", "PUT"]


@pytest.mark.parametrize("checksum", ["sha256", "md5", "none"])
@pytest.mark.parametrize(
    "proof", [{}, {"ETag": '"0123456789abcdef0123456789abcdef"'}, {"x-amz-checksum-sha256": "AAAA"}]
)
def test_what_the_answer_does_not_prove_is_read_back(checksum: str, proof: dict[str, str]) -> None:
    def reply(request: Request) -> Answer:
        return Answer(headers=proof) if request.method == "PUT" else Answer(body=DATA)

    with serving(missing_then(reply), checksum=checksum) as (server, store):
        put(store, "x", DATA)
        assert [request.method for request in server.requests] == ["HEAD", "PUT", "GET"]


def test_what_comes_back_changed_is_deleted_and_worth_another_try() -> None:
    def reply(request: Request) -> Answer:
        return Answer(body=b"other bytes") if request.method == "GET" else Answer(204)

    with serving(missing_then(reply)) as (server, store):
        with pytest.raises(StoreUnreachable, match="arrived changed"):
            put(store, "x", DATA)
        # Read twice: a download that was changed on its way must not delete a good object.
        assert [request.method for request in server.requests] == ["HEAD", "PUT", "GET", "GET", "DELETE"]


def test_a_read_back_that_was_changed_on_its_way_deletes_nothing() -> None:
    contents = iter([b"other bytes", DATA])

    def reply(request: Request) -> Answer:
        return Answer(body=next(contents)) if request.method == "GET" else Answer()

    with serving(missing_then(reply)) as (server, store):
        put(store, "x", DATA)
        assert [request.method for request in server.requests] == ["HEAD", "PUT", "GET", "GET"]


def test_a_refused_checksum_is_damage_when_the_file_is_wrong_and_worth_another_try_when_not() -> None:
    with serving(missing_then(lambda request: error(400, "BadDigest")), checksum="sha256") as (_server, store):
        with pytest.raises(StoreUnreachable, match="arrived changed"):
            store.put("x", io.BytesIO(DATA), size=len(DATA), sha256=SHA256)
        with pytest.raises(Damaged, match="promised"):
            store.put("x", io.BytesIO(DATA), size=len(DATA), sha256=hashlib.sha256(b"").digest())


@pytest.mark.parametrize("kind", ["rclone", "moto"])
def test_with_md5_a_real_server_is_believed_without_reading_back(kind: str, request: pytest.FixtureRequest) -> None:
    bucket: S3Bucket = request.getfixturevalue(f"{kind}_s3")
    settings = S3Settings(bucket=bucket.name, endpoint=bucket.server.endpoint, tls=False, checksum="md5")
    store = S3Store(settings, bucket.environment())
    asked: list[str] = []
    store._client.meta.events.register("before-call.s3", lambda model, **other: asked.append(model.name))
    put(store, "x", DATA)
    store.close()
    assert asked == ["HeadObject", "PutObject"]


ENTRY = "<Contents><Key>{}</Key><Size>1</Size><LastModified>2026-01-02T03:04:05Z</LastModified></Contents>"


def page(*keys: str, truncated: str = "false", extra: str = "") -> Answer:
    entries = "".join(ENTRY.format(key) for key in keys)
    mark = f"<IsTruncated>{truncated}</IsTruncated>" if truncated else ""
    return Answer(body=f"<ListBucketResult>{mark}{extra}{entries}</ListBucketResult>".encode())


TOKEN = "<NextContinuationToken>t1</NextContinuationToken>"


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ([page("a", truncated="")], StoreUnreachable),
        ([Answer(body=b"")], StoreUnreachable),
        ([Answer(body=b"<html>log in first</html>")], StoreUnreachable),
        ([Answer(body=page("a", "b").body[:-40])], StoreUnreachable),
        ([Answer(body=page("a", "b").body, cut=60)], StoreUnreachable),
        ([page("a", truncated="true")], StoreUnreachable),
        ([page("a", truncated="true", extra="<NextContinuationToken></NextContinuationToken>")], StoreUnreachable),
        ([page("a", truncated="true", extra=TOKEN), page("b", truncated="true", extra=TOKEN)], StoreUnreachable),
        ([page("a", truncated="true", extra=TOKEN), error(503, "SlowDown")], StoreUnreachable),
        ([page("a", truncated="true", extra=TOKEN), error(403, "AccessDenied")], StoreDenied),
        ([page("a", "b", extra="<KeyCount>3</KeyCount>")], StoreUnreachable),
        ([page("b", "a")], StoreError),
        ([page("a", "a")], StoreError),
        ([page("a", truncated="true", extra=TOKEN), page("a", "b")], StoreError),
        ([Answer(body=page("a").body.replace(b"<Size>1</Size>", b""))], StoreUnreachable),
    ],
)
def test_a_listing_that_cannot_be_shown_to_be_whole_is_an_error(
    pages: list[Answer], expected: type[StoreError]
) -> None:
    answers = iter(pages)
    with serving(lambda request: next(answers)) as (server, store):
        with pytest.raises(expected) as caught:
            list(store.list(""))
        assert type(caught.value) is expected
        assert len(server.requests) == len(pages)


def test_an_empty_page_is_not_the_end() -> None:
    pages = iter([page(truncated="true", extra=TOKEN), page("a")])
    with serving(lambda request: next(pages)) as (_server, store):
        assert [entry.name for entry in store.list("")] == ["a"]


def test_a_listing_of_what_was_not_asked_for_is_an_error() -> None:
    with (
        serving(lambda request: page("packs/a", "records/b")) as (_server, store),
        pytest.raises(StoreError, match="records/b"),
    ):
        list(store.list("packs/"))


def test_pages_are_followed_by_their_tokens() -> None:
    pages = iter([page("a", "b", truncated="true", extra=TOKEN), page("c")])
    with serving(lambda request: next(pages)) as (server, store):
        assert [entry.name for entry in store.list("")] == ["a", "b", "c"]
    assert "continuation-token=t1" in server.requests[1].path


def test_a_server_without_a_clock_is_an_error() -> None:
    answer = page()
    answer.headers["Date"] = "yesterday"
    with serving(lambda request: answer) as (_server, store), pytest.raises(StoreError, match="time"):
        store.now()


BEGUN = b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Objects of over 5 MiB go in parts of that size (the least that servers take)."""
    monkeypatch.setattr(s3_upload, "SINGLE_MAX_BYTES", 5 * bounds.MIB)
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 * bounds.MIB)
    return 5 * bounds.MIB


@pytest.mark.parametrize("kind", ["rclone-sha256", "rclone-md5", "moto-sha256", "moto-md5", "moto-none"])
def test_a_large_object_goes_in_parts(kind: str, small_parts: int, request: pytest.FixtureRequest) -> None:
    server, _, checksum = kind.partition("-")
    bucket: S3Bucket = request.getfixturevalue(f"{server}_s3")
    settings = S3Settings(bucket=bucket.name, endpoint=bucket.server.endpoint, tls=False, checksum=checksum)  # type: ignore[arg-type]
    store = S3Store(settings, bucket.environment())
    data = os.urandom(2 * small_parts + 1)
    sent: list[Any] = []
    store._client.meta.events.register(
        "before-call.s3.UploadPart", lambda params, **other: sent.append(params["headers"])
    )
    put(store, "logs/a", data)
    put(store, "logs/a", data)
    assert store.get("logs/a") == data
    assert len(sent) == 3
    header = {"sha256": "x-amz-checksum-sha256", "md5": "Content-MD5"}.get(checksum)
    assert all(header is None or header in headers for headers in sent)
    store.close()


def test_an_upload_in_parts_that_fails_leaves_nothing(small_parts: int, moto_s3: S3Bucket) -> None:
    settings = S3Settings(bucket=moto_s3.name, endpoint=moto_s3.server.endpoint, tls=False)
    store = S3Store(settings, moto_s3.environment())
    data = os.urandom(2 * small_parts)
    with pytest.raises(Damaged, match="promised"):
        store.put("logs/a", io.BytesIO(data), size=len(data), sha256=hashlib.sha256(b"").digest())
    assert moto_s3.names() == []
    assert store._client.list_multipart_uploads(Bucket=moto_s3.name).get("Uploads", []) == []
    store.close()


@pytest.mark.parametrize("failing", ["POST", "PUT"])
def test_an_upload_in_parts_is_aborted_when_a_request_fails(failing: str, small_parts: int) -> None:
    def reply(request: Request) -> Answer:
        if "uploads" in request.path and request.method == "POST":
            return Answer(
                body=b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
            )
        if request.method == failing:
            return error(500, "InternalError")
        return Answer(headers={"ETag": '"e"'})

    data = bytes(small_parts + 1)
    with answering(missing_then(reply)) as server, store_of(server.url) as store, pytest.raises(StoreUnreachable):
        put(store, "x", data)
    assert [request.method for request in server.requests if "uploadId=u1" in request.path][-1] == "DELETE"


def parts_proven(*numbers: int) -> Callable[[Request], Answer]:
    """A server that proves these parts of an upload by MD5 and holds zeros."""

    def reply(request: Request) -> Answer:
        if request.method == "POST" and "uploads" in request.path:
            return Answer(
                body=b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
            )
        if request.method == "POST":
            return Answer(body=b"<CompleteMultipartUploadResult/>")
        if request.method == "PUT":
            proven = any(f"partNumber={number}&" in f"{request.path}&" for number in numbers)
            return Answer(headers={"ETag": hashlib.md5(request.body if proven else b"").hexdigest()})  # noqa: S324
        return Answer(body=bytes(5 * bounds.MIB + 1)) if request.method == "GET" else Answer()

    return missing_then(reply)


@pytest.mark.parametrize(("proven", "read_back"), [((1, 2), False), ((1,), True), ((2,), True), ((), True)])
def test_an_object_in_parts_is_proven_when_every_part_is(
    proven: tuple[int, ...], read_back: bool, small_parts: int
) -> None:
    with serving(parts_proven(*proven), checksum="md5") as (server, store):
        put(store, "x", bytes(small_parts + 1))
    assert ("GET" in [request.method for request in server.requests if "uploads" not in request.path]) == read_back


def test_proven_parts_of_another_object_than_promised_are_not_put_together(small_parts: int) -> None:
    body = io.BytesIO(bytes(small_parts + 1))
    with serving(parts_proven(1, 2), checksum="md5") as (server, store), pytest.raises(Damaged, match="promised"):
        store.put("x", body, size=small_parts + 1, sha256=SHA256)
    assert [request.method for request in server.requests if "uploadId=u1" in request.path] == ["PUT", "PUT", "DELETE"]


def test_old_left_over_parts_are_aborted_and_young_ones_are_not(small_parts: int) -> None:
    def reply(request: Request) -> Answer:
        if request.method == "GET" and "uploads" in request.path:
            upload = "<Upload><Key>{0}</Key><UploadId>{0}</UploadId><Initiated>{1}</Initiated></Upload>"
            both = upload.format("old", "2001-01-01T00:00:00Z") + upload.format("young", "2999-01-01T00:00:00Z")
            return Answer(body=f"<ListMultipartUploadsResult>{both}</ListMultipartUploadsResult>".encode())
        return error(503, "SlowDown") if request.method == "POST" else Answer(204)

    with serving(missing_then(reply)) as (server, store):
        for _ in range(2):
            with pytest.raises(StoreUnreachable):
                put(store, "x", bytes(small_parts + 1))
    aborted = [request.path for request in server.requests if request.method == "DELETE"]
    assert aborted == ["/bucket/old?uploadId=old"]


@pytest.mark.parametrize("size", [129 * bounds.MIB, bounds.GIB, 700 * bounds.GIB, 5 * 1024 * bounds.GIB])
def test_no_object_has_more_parts_than_s3_takes(size: int) -> None:
    step = s3_upload.part_bytes(size)
    assert step >= s3_upload.PART_BYTES
    assert -(-size // step) <= s3_upload.PARTS_MAX


def test_a_pack_is_sent_without_being_read_into_memory(rclone_s3: S3Bucket, tmp_path: Path) -> None:
    class Counting(io.FileIO):
        """Counts through ``fileno``-less reads how much is asked for at once."""

        largest = 0

        def fileno(self) -> int:
            raise io.UnsupportedOperation

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            Counting.largest = max(Counting.largest, len(data))
            return data

    path = tmp_path / "pack"
    path.write_bytes(os.urandom(16 * bounds.MIB))
    digest = hashlib.sha256(path.read_bytes()).digest()
    for checksum in ("sha256", "md5", "none"):
        settings = S3Settings(
            bucket=rclone_s3.name,
            endpoint=rclone_s3.server.endpoint,
            tls=False,
            checksum=checksum,  # type: ignore[arg-type]
        )
        store = S3Store(settings, rclone_s3.environment())
        with Counting(str(path)) as body:
            store.put(f"packs/{checksum}", body, size=16 * bounds.MIB, sha256=digest)  # type: ignore[arg-type]
        store.close()
    assert 0 < Counting.largest <= bounds.MIB
