"""Opens documents, in a process of its own: what is in them may be made to harm whoever reads them.

Run as a script (``python -I opening_child.py SOCKET UID GID``). The libraries are imported, then rights given up: it
becomes nobody where it was root, can write no file, and has bounded memory and time. For each message on the socket, a
kind of document with a descriptor of the file, it answers JSON: ``ok`` (``null``: it cannot be told) and ``why``.
"""

from __future__ import annotations

import bz2
import codecs
import ctypes
import gzip
import importlib
import io
import json
import lzma
import os
import pkgutil
import resource
import socket
import sys
import tarfile
import tempfile  # noqa: F401 - libraries load it late
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from typing import IO
from xml.etree import ElementTree as ET

import pypdf
from PIL import Image

# A picture of 40 million pixels takes 160 MB.
_MEMORY_BYTES = 1024 * 1024 * 1024
_PIXELS_MAX = 40_000_000
_SECONDS = 30
# Of what an archive unpacks to: more of it is not looked at.
_UNPACKED_MAX_BYTES = 512 * 1024 * 1024
_XML_MAX_BYTES = 4 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_PR_SET_NO_NEW_PRIVS = 38


class _Untold(Exception):
    """It is not known whether it opens."""


def _pdf(file: IO[bytes]) -> None:
    file.seek(0)
    reader = pypdf.PdfReader(file, strict=False)
    if reader.is_encrypted:
        raise _Untold("encrypted")
    pages = reader.pages
    for number in {0, len(pages) - 1} if len(pages) else set():
        pages[number].get_contents()


def _image(file: IO[bytes]) -> None:
    with Image.open(file) as image:
        pixels = image.width * image.height
        image.verify()
    if pixels <= _PIXELS_MAX:
        file.seek(0)
        with Image.open(file) as image:
            image.load()


def _zip(file: IO[bytes]) -> None:
    with zipfile.ZipFile(file) as archive:
        _test(archive)


def _test(archive: zipfile.ZipFile) -> None:
    """Every member, as far as ``_UNPACKED_MAX_BYTES`` goes: its CRC is compared at its end."""
    left = _UNPACKED_MAX_BYTES
    for member in archive.infolist():
        if member.flag_bits & 1:
            raise _Untold("encrypted")
        with archive.open(member) as opened:
            while piece := opened.read(_PIECE_BYTES):
                left -= len(piece)
                if left < 0:
                    return


def _office(file: IO[bytes]) -> None:
    file.seek(0)
    if file.read(8) == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise _Untold("encrypted, or of the older kind")
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        if "[Content_Types].xml" in names:
            parts = ["[Content_Types].xml"]
            if not names & {"word/document.xml", "xl/workbook.xml", "xl/workbook.bin", "ppt/presentation.xml"}:
                raise ValueError("it has no document, workbook or presentation")
        elif "mimetype" in names:
            parts = ["content.xml"]
        else:
            raise ValueError("it has neither [Content_Types].xml nor mimetype")
        for part in parts:
            if archive.getinfo(part).file_size <= _XML_MAX_BYTES:
                ET.fromstring(archive.read(part))  # noqa: S314 - bounded, in a process that may break
        _test(archive)


def _tar(file: IO[bytes]) -> None:
    with tarfile.open(fileobj=file) as archive:
        for _ in archive:
            pass


def _unpacked(unpacking: gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile) -> None:
    left = _UNPACKED_MAX_BYTES
    with unpacking:
        while left > 0 and (piece := unpacking.read(_PIECE_BYTES)):
            left -= len(piece)


_OPENERS: dict[str, Callable[[IO[bytes]], None]] = {
    "pdf": _pdf,
    "image": _image,
    "office": _office,
    "zip": _zip,
    "tar": _tar,
    "gzip": lambda file: _unpacked(gzip.open(file)),  # noqa: SIM115 - closed there
    "bzip2": lambda file: _unpacked(bz2.open(file)),  # noqa: SIM115 - closed there
    "xz": lambda file: _unpacked(lzma.open(file)),  # noqa: SIM115 - closed there
}


def _opened(kind: str, descriptor: int) -> dict[str, object]:
    try:
        with open(descriptor, "rb", closefd=False) as file:
            _OPENERS[kind](file)
    except _Untold as why:
        return {"ok": None, "why": str(why)}
    except Image.DecompressionBombError as error:
        return {"ok": None, "why": str(error)[:200]}
    except ImportError as error:  # the program's fault: what is loaded late lies where nobody may read
        return {"ok": None, "why": str(error)[:200]}
    except MemoryError:
        return {"ok": None, "why": "it needs too much memory"}
    except RecursionError:
        return {"ok": False, "why": "it is nested too deeply"}
    except Exception as error:  # noqa: BLE001 - whatever a library raises of a broken document
        if isinstance(error, LookupError) and "unknown encoding" in str(error):
            return {"ok": None, "why": str(error)[:200]}
        return {"ok": False, "why": f"{type(error).__name__}: {error}"[:200]}
    return {"ok": True, "why": ""}


def _load() -> None:
    """Load what libraries load when they first need it: it may lie where nobody may read."""
    Image.init()
    for module in pkgutil.walk_packages(pypdf.__path__, "pypdf."):
        with suppress(Exception):
            importlib.import_module(module.name)
    for encoding in ("cp437", "ascii", "latin-1", "utf-8", "utf-16", "utf-16-be", "cp1252", "mac-roman", "charmap"):
        codecs.lookup(encoding)
    writer, out = pypdf.PdfWriter(), io.BytesIO()
    writer.add_blank_page(10, 10)
    writer.write(out)
    _pdf(out)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "")
        archive.writestr("content.xml", "<a/>")
    _office(out)
    for kind, packed in (("gzip", gzip.compress(b"")), ("bzip2", bz2.compress(b"")), ("xz", lzma.compress(b""))):
        _OPENERS[kind](io.BytesIO(packed))


def _confine(uid: int, gid: int) -> None:
    _load()
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))


def main(arguments: list[str]) -> None:
    """Answer until the socket is closed."""
    warnings.simplefilter("ignore")
    connection = socket.socket(fileno=int(arguments[0]))
    _confine(int(arguments[1]), int(arguments[2]))
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 64, 1)
        if not message:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + _SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        answer = _opened(message.decode(), descriptors[0])
        os.close(descriptors[0])
        connection.send(json.dumps(answer).encode())


if __name__ == "__main__":
    sys.stdout = sys.stderr = io.StringIO()
    main(sys.argv[1:])
