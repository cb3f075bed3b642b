"""Texts that people shall read although there are secrets in them: configuration, the output of programs.

What looks like a secret becomes ``***``. Rather too much than too little is masked: a name that says so (``password``,
``token``, ``key`` …) costs the rest of its line, blocks between BEGIN and END all their lines, and so do long words
that look random. The lines stay in number, so that two masked texts can be compared.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

MASK = "***"
# A longer line is no text for people, and expressions would take long over it.
LINE_MAX_CHARACTERS = 4096
# Words shorter than this are left even when they look random.
_RANDOM_MIN_CHARACTERS = 20
_HEX_MIN_CHARACTERS = 32
# Bits a character: English words have some 2.5 to 3.3 over 20 letters, random base64 more than 4.
_RANDOM_MIN_BITS = 3.6
# A string that is not closed on its line may be long; one that never is must not mask the rest of the file.
_STRING_MAX_LINES = 200

_WORDS = (
    r"pass(?:w|phrase|code|key)|(?<![a-z])pass(?![a-z])|requirepass|masterauth|pwd|secret|token|credential|cookie"
    r"|auth(?!or)|bearer|dsn|conn(?:ection)?[-_.]?str|salt|(?<![a-z])pin(?![a-z])|otp|signature|keys?(?![a-z])"
)
# From where a word begins only: else an expression would try every letter of a long one.
_NAME = rf"(?<![\w.$/-])[\"']?[\w.$/-]*(?:{_WORDS})[\w.$-]*[\"']?\]?"
_QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
_ASSIGNED = re.compile(
    rf"(?P<name>{_NAME})(?P<between>\s*(?:=>|:=|[:=])\s*|\s+)(?P<value>{_QUOTED}|\S.*)", re.IGNORECASE
)
_OPENED = re.compile(
    rf"^(?P<indent>[\s-]*)(?:export\s+)?{_NAME}\s*(?:=>|:=|[:=])\s*(?P<what>[|>][+-]?\d*|\[|\{{)?\s*$", re.IGNORECASE
)
_ELEMENT = re.compile(rf"(?P<open><[\w:.-]*(?:{_WORDS})[\w:.-]*[^<>]*>)[^<]*", re.IGNORECASE)
# `name: DB_PASSWORD` and then `value: …`, on one line or two; <entry key="db.password">…</entry>.
_NAMED = re.compile(rf"(?P<head>\b(?:name|key|id)\b[\"']?\s*[:=]\s*{_NAME})(?P<rest>.*)", re.IGNORECASE)
_VALUE = re.compile(r"(?P<head>[\"']?\bvalue\b[\"']?\s*[:=]?\s*)\S.*", re.IGNORECASE)
_URL = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^\s/:@]*:)\S*@", re.IGNORECASE)
_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]+-----")
_END = re.compile(r"-----END [A-Z0-9 ]+-----")
_KNOWN = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bxox[abeprs]-[\w-]{8,}|\bgh[oprsu]_\w{16,}|\bglpat-[\w-]{16,}|\bsk[-_][\w-]{16,}"
    r"|\beyJ[\w-]{8,}\.[\w.-]+|\$(?:[0-9a-z]{1,2}|apr1|argon2\w*|pbkdf2[\w-]*|scrypt)\$\S+|\{S?SHA\d*\}\S+"
    r"|SCRAM-SHA-256\$\S+|\bmd5[0-9a-f]{32}\b"
)
_PGPASS = re.compile(r"^(?P<head>[^:\s]+:(?:\d+|\*):[^:]*:[^:]+:).+$")
_ACL_USER = re.compile(r"(?<=\s)[>#<!]\S+")
_RANDOM = re.compile(rf"[A-Za-z0-9+/_=-]{{{_RANDOM_MIN_CHARACTERS},}}")


def mask(text: str) -> str:
    """*text* with ``***`` for what looks like a secret; as many lines as before."""
    return "\n".join(mask_lines(text.split("\n")))


def mask_lines(lines: list[str]) -> Iterator[str]:
    """:func:`mask`, for the lines of one text."""
    masking = _Masking()
    for line in lines:
        yield masking.line(line)


class _Masking:
    """What earlier lines say of the next one."""

    def __init__(self) -> None:
        self._block = False  # between BEGIN and END
        self._indent = -1  # what is indented more belongs to a name that says secret
        self._quote = ""  # a string that such a name opened
        self._quote_lines = 0
        self._next = False  # a backslash at the end of what was masked
        self._value = False  # the next `value:` is of a name that says secret

    def line(self, line: str) -> str:
        """*line*, masked."""
        if len(line) > LINE_MAX_CHARACTERS:
            return f"{MASK} ({len(line)} characters)"
        carried = self._carried(line)
        if carried is not None:
            return carried
        if _BEGIN.search(line):
            self._block = _END.search(line) is None
            return _BEGIN.sub(lambda m: f"{m[0]} {MASK}", line) if self._block else MASK
        if opened := _OPENED.match(line):
            self._indent = len(opened["indent"])
            return line
        if self._value and (found := _VALUE.search(line)):
            self._value = False
            return line[: found.end("head")] + MASK
        return self._alone(line)

    def _carried(self, line: str) -> str | None:
        """The line where one before decides."""
        if self._block:
            self._block = _END.search(line) is None
            return MASK if self._block else _END.sub(lambda m: m[0], line[line.index("-----END") :])
        if self._quote:
            self._quote_lines += 1
            if self._quote in line or self._quote_lines > _STRING_MAX_LINES:
                self._quote = ""
            return MASK
        if self._next:
            self._next = line.endswith("\\")
            return MASK
        if self._indent >= 0:
            content = line.lstrip(" \t-")
            if not content or content[0] in "]}" or len(line) - len(content) > self._indent:
                return MASK if content else line
            self._indent = -1
        return None

    def _alone(self, line: str) -> str:
        if named := _NAMED.search(line):
            # The value may stand on this line or on one of the next.
            rest = named["rest"]
            self._value = not _VALUE.search(rest)
            line = line[: named.end("head")] + (f" {MASK}" if rest.strip(" \"',}/>") else rest)
            return _shapes(line)
        masked = _ASSIGNED.sub(self._assigned, _ELEMENT.sub(lambda m: m["open"] + MASK, line))
        if masked != line and line.endswith("\\"):
            self._next = True
        if line.lstrip().startswith("user "):
            masked = _ACL_USER.sub(MASK, masked)
        return _shapes(masked)

    def _assigned(self, found: re.Match[str]) -> str:
        value = found["value"]
        for quote in ('"""', "'''", '"', "'"):
            if value.startswith(quote) and quote not in value[len(quote) :]:
                self._quote, self._quote_lines = quote, 0
                break
        return f"{found['name']}{found['between']}{MASK}"


def _shapes(line: str) -> str:
    """*line* without what is a secret by its form."""
    line = _URL.sub(lambda m: f"{m['head']}{MASK}@", line)
    line = _PGPASS.sub(lambda m: m["head"] + MASK, line)
    line = _KNOWN.sub(MASK, line)
    return _RANDOM.sub(lambda m: MASK if _is_random(m[0]) else m[0], line)


def _is_random(word: str) -> bool:
    if re.fullmatch(r"[0-9a-fA-F]+", word):
        return len(word) >= _HEX_MIN_CHARACTERS and not word.isdigit()
    parts = re.split(r"[/_=-]", word)
    if max(map(len, parts)) < _RANDOM_MIN_CHARACTERS - 4:
        return False  # a path, or words with hyphens
    kinds = sum(any(map(test, word)) for test in (str.isdigit, str.isupper, str.islower))
    return kinds >= 2 and any(map(str.isdigit, word)) and _bits(word) >= _RANDOM_MIN_BITS


def _bits(word: str) -> float:
    """Shannon entropy of the characters of *word*, in bits a character."""
    return -sum(n / len(word) * math.log2(n / len(word)) for n in Counter(word).values())
