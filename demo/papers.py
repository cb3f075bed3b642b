"""The demo's files: documents, an application's configuration and its code; some are lost on purpose and come back."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw

from demo.errors import DemoError
from demo.places import Places

#: Id of a source → what kind of set it is.
SETS = {"papers": "documents", "settings": "configuration", "application": "code"}
_INVOICES, _CONTRACTS = 240, 40
_LOST = (Path("contracts"), Path("invoices/2026-04/0003.pdf"))
#: Path below the documents' root → mode, modification time (ns) and digest of a file.
Tree = dict[Path, tuple[int, int, bytes]]


class Papers:
    """Three directories below ``places.root / "files"``, each one set."""

    def __init__(self, places: Places) -> None:
        self.home = places.root / "files"

    @property
    def roots(self) -> dict[str, Path]:
        """Id of a source → its directory."""
        return {source: self.home / source for source in SETS}

    def make(self) -> None:
        """Write everything."""
        for root in self.roots.values():
            root.mkdir(parents=True)
        self._make_documents(self.roots["papers"])
        (self.roots["settings"] / "ledger.yaml").write_text(
            "database: {host: db.internal, name: ledger}\nlimits: {transfer_eur: 15000}\nsmtp_password: only-a-demo\n"
        )
        (self.roots["settings"] / "proxy.conf").write_text("listen 443 ssl;\nproxy_pass http://127.0.0.1:8000;\n")
        self._make_code(self.roots["application"])

    def lose(self) -> int:
        """What people do: a directory and a file are deleted by mistake. Returns how many files that are."""
        root, before = self.roots["papers"], len(self.tree())
        for path in _LOST:
            shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()
        return before - len(self.tree())

    def tree(self) -> Tree:
        """The documents as they are now."""
        root = self.roots["papers"]
        found: Tree = {}
        for path in sorted(root.rglob("*")):
            if path.is_file():
                status = path.stat()
                digest = hashlib.sha256(path.read_bytes()).digest()
                found[path.relative_to(root)] = (status.st_mode, status.st_mtime_ns, digest)
        return found

    def _make_documents(self, root: Path) -> None:
        for number in range(_INVOICES):
            folder = root / "invoices" / f"2026-{number % 12 + 1:02}"
            folder.mkdir(parents=True, exist_ok=True)
            _page(f"Invoice {number}").save(folder / f"{number:04}.pdf")
        (root / "contracts").mkdir()
        for number in range(_CONTRACTS):
            (root / "contracts" / f"contract-{number:03}.docx").write_bytes(_letter(f"Contract {number}"))
        (root / "scans").mkdir()
        _page("Passport").save(root / "scans" / "passport.png")
        os.link(root / "scans" / "passport.png", root / "scans" / "passport-copy.png")
        (root / "latest").symlink_to("invoices/2026-12")

    def _make_code(self, root: Path) -> None:
        (root / "transfer.py").write_text(
            'def allowed(amount: int) -> bool:\n    """By the limits."""\n    return amount <= 15_000\n'
        )
        who = ("-c", "user.name=demo", "-c", "user.email=demo@example.com", "-c", "commit.gpgsign=false")
        for arguments in (
            ("init", "--quiet"),
            ("add", "."),
            (*who, "commit", "--quiet", "--message", "Limit transfers"),
        ):
            subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True)


def compare(before: Tree, after: Tree) -> str:
    """What is the same, in words.

    :raises DemoError: it is not.
    """
    wrong = [path for path in before if after.get(path) != before[path]]
    foreign = after.keys() - before.keys()
    if wrong or foreign or not before:
        raise DemoError(
            f"of {len(before)} files {len(wrong)} are missing or differ; {len(foreign)} should not be there"
        )
    return f"all {len(before)} files with their content, modes and times to the nanosecond"


def _page(text: str) -> Image.Image:
    page = Image.new("L", (420, 594), "white")
    ImageDraw.Draw(page).text((40, 40), text, fill="black")
    return page


def _letter(text: str) -> bytes:
    """A document that word processors open."""
    main = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    words = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{main}"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="rId1" Type="{kind}" Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{words}"><w:body><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body>'
        "</w:document>",
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>{content}')
    return out.getvalue()
