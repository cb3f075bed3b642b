"""Restore tests of files: whether documents open, and tests that take turns."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pypdf
import pytest
from PIL import Image

from mingus_engine.jobs.files import documents, sampling
from mingus_engine.jobs.files.documents import DocumentOpener, kind_of
from mingus_engine.jobs.files.sampling import Sample, following, shares
from mingus_engine.jobs.inspect import list_snapshots
from mingus_engine.jobs.verify import VerificationRefuted, VerifyReport, verify
from mingus_engine.repository import names, records
from mingus_engine.settings import VerifySettings
from tests.support.file_sets import SOURCE, FileSet


def pdf() -> bytes:
    writer = pypdf.PdfWriter()
    writer.add_blank_page(200, 200)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def picture(form: str) -> bytes:
    out = io.BytesIO()
    Image.frombytes("RGB", (64, 64), random.Random(1).randbytes(64 * 64 * 3)).save(out, form)
    return out.getvalue()


def zipped(**members: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/"), text)
    return out.getvalue()


def office() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", "<document/>" * 100)
    return out.getvalue()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return out.getvalue()


WHOLE: dict[str, Callable[[], bytes]] = {
    "a.pdf": pdf,
    "a.PNG": lambda: picture("PNG"),
    "a.jpeg": lambda: picture("JPEG"),
    "a.docx": office,
    "a.odt": lambda: zipped(mimetype="application/vnd.oasis.opendocument.text", **{"content.xml": "<office/>"}),
    "a.zip": lambda: zipped(a="x" * 1000),
    "a.tgz": tar,
    "a.gz": lambda: gzip.compress(b"x" * 100_000),
    "a.bz2": lambda: bz2.compress(b"x" * 100_000),
    "a.xz": lambda: lzma.compress(b"x" * 100_000),
}


@pytest.fixture(scope="module")
def opener() -> Iterator[DocumentOpener]:
    with DocumentOpener() as made:
        yield made


@pytest.fixture
def one(workspace: Path) -> Iterator[FileSet]:
    made = FileSet.make(workspace / "set", burst_alarm_share=0.0)
    yield made
    made.close()


def opened(opener: DocumentOpener, where: Path, content: bytes) -> documents.Opened:
    where.write_bytes(content)
    return opener.open(os.fsencode(where), kind_of(os.fsencode(where)))


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_document_that_is_whole_opens_and_a_broken_one_does_not(
    name: str, opener: DocumentOpener, workspace: Path
) -> None:
    whole = WHOLE[name]()
    assert opened(opener, workspace / name, whole) == (True, "")
    cut = opened(opener, workspace / name, whole[: len(whole) // 2])
    assert cut.ok is False
    assert cut.why
    assert opened(opener, workspace / name, random.Random(1).randbytes(2_000)).ok is False


def test_what_is_encrypted_is_not_told(opener: DocumentOpener, workspace: Path) -> None:
    writer = pypdf.PdfWriter()
    writer.add_blank_page(10, 10)
    writer.encrypt("word", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    assert opened(opener, workspace / "a.pdf", out.getvalue()) == (None, "encrypted")


def test_hostile_documents_neither_hang_nor_take_memory_nor_kill(workspace: Path) -> None:
    bomb = zipped(a="\0" * 700_000_000) if os.environ.get("MINGUS_LARGE") else zipped(a="\0" * 20_000_000)
    laughs = "<!DOCTYPE l [<!ENTITY a 'ha'>" + "".join(
        f"<!ENTITY a{n} '{('&a' + (str(n - 1) if n else '') + ';') * 10}'>" for n in range(10)
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("[Content_Types].xml", laughs + "]><l>&a9;</l>")
        archive.writestr("word/document.xml", "")
    with DocumentOpener(timeout_s=20) as opener:
        assert opened(opener, workspace / "bomb.zip", bomb).ok is True
        assert opened(opener, workspace / "laughs.docx", out.getvalue()).ok is not True
        endless = (
            b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 1 0 R/Kids[1 0 R]/Count 99999999>>endobj\ntrailer<</Root 1 0 R>>"
        )
        assert opened(opener, workspace / "endless.pdf", endless).ok is not True
        assert opened(opener, workspace / "good.pdf", pdf()).ok is True  # whatever happened to the one before


def test_one_that_hangs_is_given_up_and_the_next_is_opened(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = workspace / "child.py"
    child.write_text(
        documents._CHILD.read_text().replace(
            "def _tar(file: IO[bytes]) -> None:\n", "def _tar(file: IO[bytes]) -> None:\n    while True: pass\n"
        )
    )
    monkeypatch.setattr(documents, "_CHILD", child)
    with DocumentOpener(timeout_s=8) as opener:
        assert opened(opener, workspace / "a.tgz", tar()).why == "it did not open within 8 s"
        assert opened(opener, workspace / "a.png", picture("PNG")).ok is True


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_who_opens_them_has_no_rights(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = workspace / "child.py"
    tells = (
        "def _tar(file: IO[bytes]) -> None:\n    import errno\n    said = [str(os.getuid())]\n"
        f"    for way in ('{workspace}/made', '/etc/shadow'):\n"
        "        try: os.write(os.open(way, os.O_WRONLY if 'made' in way else os.O_RDONLY), b'x')\n"
        "        except OSError as e: said.append(errno.errorcode[e.errno])\n"
        "    raise ValueError(' '.join(said))\n"
    )
    child.write_text(documents._CHILD.read_text().replace("def _tar(file: IO[bytes]) -> None:\n", tells))
    monkeypatch.setattr(documents, "_CHILD", child)
    (workspace / "made").touch()
    (workspace / "made").chmod(0o666)
    with DocumentOpener() as opener:
        assert opened(opener, workspace / "a.tgz", tar()).why == "ValueError: 65534 EFBIG EACCES"


def test_a_document_broken_before_its_backup_is_a_finding_and_one_that_turns_bad_a_failure(one: FileSet) -> None:
    (one.tree / "good.pdf").write_bytes(pdf())
    (one.tree / "bad.pdf").write_bytes(b"nothing")
    one.back_up()
    check = documents_check(one.verify("L3"))
    assert check["ok"]
    assert check["detail"].startswith("1 documents open; 1 were already broken when they were backed up: tree/bad.pdf")
    (one.tree / "good.pdf").write_bytes(random.Random(1).randbytes(5_000))
    (one.tree / "new.pdf").write_bytes(b"nothing")
    one.back_up()
    with pytest.raises(VerificationRefuted, match=r"opened at the last proof and do not now.*tree/good.pdf") as refuted:
        one.verify("L3")
    data = documents_check(refuted.value.report)["data"]
    assert [path.partition(":")[0] for path in data["already_broken"]] == ["tree/bad.pdf", "tree/new.pdf"]
    # It was told; from now on it is one that was broken before.
    assert one.verify("L3").ok


def documents_check(report: VerifyReport) -> dict[str, Any]:
    return next(c for c in report.checks if c["name"] == "L3 documents")


# -- taking turns -----------------------------------------------------------------------------------------------------


def take_turns(one: FileSet, **verify_settings: float) -> None:
    source = one.settings.source(SOURCE)
    one.settings = one.settings.with_source(replace(source, verify=replace(source.verify, **verify_settings)))


def test_so_many_tests_cover_everything_and_none_counts_as_a_whole_one(
    one: FileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored: list[set[bytes]] = []
    real = sampling.SampledReader.tables

    def seen(self: sampling.SampledReader, *numbers: Any) -> Iterator[Any]:
        restored.append(set())
        for table in real(self, *numbers):
            restored[-1] |= set(table.paths)
            yield table

    monkeypatch.setattr(sampling.SampledReader, "tables", seen)
    (one.tree / "folder").mkdir()
    for i in range(60):
        (one.tree / "folder" / f"{i}").write_bytes(random.Random(i).randbytes(3_000))
    os.link(one.tree / "folder" / "7", one.tree / "other name")
    (one.tree / "large").write_bytes(random.Random(9).randbytes(9_000_000))
    one.back_up()
    take_turns(one, sample_share=0.25)
    reports = []
    for i in range(4):
        reports.append(one.verify("L3"))
        (one.tree / f"new-{i}").write_text("more")
        one.back_up()
    assert len({report.sample["part"] for report in reports if report.sample}) == 4
    assert [report.sample and report.sample["number"] for report in reports] == [0, 1, 2, 3]
    files = {os.fsencode(f"tree/folder/{i}") for i in range(60)} | {b"tree/other name", b"tree/large"}
    assert files <= set.union(*restored)
    assert all(len(paths & files) < 40 for paths in restored)
    assert sum(report.bytes_read for report in reports) < 10_000_000
    # A name of a file goes with the file.
    assert all((b"tree/other name" in paths) == (b"tree/folder/7" in paths) for paths in restored)
    after = one.verify("L3").sample
    assert after is not None
    assert (after["number"], after["cycle"]) == (4, 2)
    proofs = [c.proof for s in list_snapshots(one.settings, SOURCE, context=one.context).snapshots for c in s.copies]
    assert {proof.level for proof in proofs if proof} == {"L1"}
    with one.repository() as repository:
        found = [names.record(info.name) for info in repository.store.list(f"records/{SOURCE}/")]
        facts = [repository.get_record(name).facts for name in found if name and name.kind == records.PROOF]
    assert all(fact["sample"]["of"] == 4 and fact["sample"]["level"] == "L3" for fact in facts)
    whole = verify(one.settings, SOURCE, context=one.context, level="L3", whole=True)
    assert whole.sample is None


def test_how_many_shares_follows_from_share_and_bytes() -> None:
    assert shares(VerifySettings(), 10**12) == 1
    assert shares(VerifySettings(sample_share=0.1), 0) == 10
    assert shares(VerifySettings(sample_share=1 / 3), 0) == 3
    assert shares(VerifySettings(sample_max_bytes=10**9), 10**12) == 1000
    assert shares(VerifySettings(sample_share=0.5, sample_max_bytes=10**9), 10) == 2


def test_the_next_share_follows_the_last_good_one_and_a_failed_one_comes_again() -> None:
    today = date(2026, 11, 23)
    first = following(None, 7, today)
    assert first == Sample(today.toordinal() % 7, 7)
    seen = {first.part}
    last = first
    for _ in range(6):
        last = following({"sample": last.as_dict(), "ok": True}, 7, today)
        seen.add(last.part)
    assert seen == set(range(7))
    assert following({"sample": last.as_dict(), "ok": False}, 7, today) == last
    assert following({"sample": last.as_dict(), "ok": True}, 8, today) == Sample(today.toordinal() % 8, 8)
    assert Sample(0, 7, 6).as_dict()["cycle"] == 1
    assert Sample(0, 7, 7).as_dict()["cycle"] == 2


def test_evidence_that_is_no_evidence_is_none() -> None:
    assert documents._decoded({"opened": "no base64!"}) == set()
    assert documents._decoded({"opened": base64.b64encode(b"12345678").decode()}) == {b"12345678"}
