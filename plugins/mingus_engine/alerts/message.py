"""An event in the form of each channel: what happened, what it means for recovery, the next step, where to look."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mingus_engine.alerts import event as kinds
from mingus_engine.alerts.event import Event

# A subject is one line in a list; Slack takes 150 in a header, 3000 in a section; an SMS has 160 of the GSM alphabet.
_SUBJECT_MAX, _HEADER_MAX, _SECTION_MAX, _TEXT_MAX, SHORT_MAX = 120, 150, 2900, 2000, 160
_SOURCES_NAMED = 5
_ICONS = {kinds.CRITICAL: "\N{LARGE RED CIRCLE}", kinds.WARNING: "\N{LARGE ORANGE CIRCLE}"}
_DONE = "\N{LARGE GREEN CIRCLE}"


@dataclass(frozen=True)
class Message:
    """One message in every form. ``short``: at most 160 characters of ASCII."""

    subject: str
    text: str
    html: str
    blocks: list[dict[str, Any]] = field(default_factory=list)
    short: str = ""


def compose(events: Sequence[Event], meaning: Mapping[str, str] | None = None) -> Message:
    """The message of *events* that are one story (same DAG, task, kind and cause), at least one.

    :param meaning: source → what can be recovered; for those of the events where it is known.
    """
    first = events[0]
    subject = _cut(_line(f"[MINGUS] {_title(events)}"), _SUBJECT_MAX)
    parts = [(head, body) for head, body in _parts(events, meaning or {}) if body]
    text = "\n\n".join(f"{head}:\n{body}" for head, body in parts)
    return Message(
        subject=subject,
        text=f"{_title(events)}\n\n{text}\n",
        html=_html(_title(events), parts, first.url),
        blocks=_blocks(_title(events), parts, first),
        short=_short(events),
    )


def _title(events: Sequence[Event]) -> str:
    first = events[0]
    names = sorted({event.source for event in events if event.source})
    who = ", ".join(names[:_SOURCES_NAMED]) + (
        f" and {len(names) - _SOURCES_NAMED} more" if len(names) > _SOURCES_NAMED else ""
    )
    of = f": {who}" if who else ""
    step = ", ".join(part for part in (first.dag, first.task) if part)
    match first.kind:
        case kinds.RECOVERED:
            return f"Recovered: {step}{of}"
        case kinds.LATE:
            return f"Late: {first.dag} has not ended in time"
        case kinds.FINDING:
            return f"{first.severity.capitalize()}: {first.cause}{of}"
        case kinds.TEST:
            return "Test alert"
        case kinds.CHANNEL:
            return "Alerts cannot be sent by every channel"
        case _:
            return f"{first.severity.capitalize()}: {step} failed{of}"


def _parts(events: Sequence[Event], meaning: Mapping[str, str]) -> list[tuple[str, str]]:
    first = events[0]
    what = list(dict.fromkeys(_cut(event.what, _TEXT_MAX // min(len(events), 8)) for event in events))
    tried = ""
    if first.kind == kinds.EXHAUSTED:
        tried = f"It failed in all of {first.tries} tries."
    elif first.kind == kinds.FAILURE:
        tried = "It was not tried again: the same call would fail again."
    known = [f"{name}: {meaning[name]}" for name in sorted({event.source for event in events}) if meaning.get(name)]
    more = len(what) - 20
    lines = [*what[:20], *([f"and {more} more"] if more > 0 else []), *([tried] if tried else [])]
    hints = list(dict.fromkeys(event.hint for event in events if event.hint))[:3]
    return [
        ("What happened", "\n".join(lines)),
        ("What can be recovered", "\n".join(known[:20])),
        ("Next step", "\n".join(_cut(hint, 500) for hint in hints)),
        ("Run", " ".join(part for part in (first.run, first.url) if part)),
        ("When", first.at),
    ]


def _html(title: str, parts: Sequence[tuple[str, str]], url: str) -> str:
    style = "text-align:left;vertical-align:top;padding:4px 12px 4px 0;white-space:nowrap"
    rows = "".join(
        f'<tr><th style="{style}">{html.escape(head)}</th>'
        f'<td style="padding:4px 0">{html.escape(body).replace(chr(10), "<br>")}</td></tr>'
        for head, body in parts
    )
    link = f'<p><a href="{html.escape(url, quote=True)}">Open the run in Airflow</a></p>' if _is_link(url) else ""
    return (
        f'<!DOCTYPE html><html><body style="font-family:sans-serif"><h3>{html.escape(title)}</h3>'
        f"<table>{rows}</table>{link}</body></html>"
    )


def _blocks(title: str, parts: Sequence[tuple[str, str]], first: Event) -> list[dict[str, Any]]:
    icon = _DONE if first.kind == kinds.RECOVERED else _ICONS.get(first.severity, "\N{LARGE BLUE CIRCLE}")
    header = {"type": "plain_text", "text": _cut(f"{icon} {_line(title)}", _HEADER_MAX)}
    sections = [
        {"type": "section", "text": {"type": "mrkdwn", "text": _cut(f"*{head}*\n{_slack(body)}", _SECTION_MAX)}}
        for head, body in parts
        if head != "Run"
    ]
    link = [
        {
            "type": "actions",
            "elements": [
                {"type": "button", "text": {"type": "plain_text", "text": "Open the run"}, "url": first.url[:3000]}
            ],
        }
    ]
    return [{"type": "header", "text": header}, *sections, *(link if _is_link(first.url) else [])]


def _short(events: Sequence[Event]) -> str:
    """What fits into an SMS."""
    text = f"MINGUS {_title(events)}. {events[0].what if events[0].kind != kinds.RECOVERED else ''}"
    plain = unicodedata.normalize("NFKD", _line(text)).encode("ascii", "ignore").decode()
    return _cut(plain, SHORT_MAX, "...")


def _is_link(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _slack(text: str) -> str:
    """*text* without the three characters that mean something to Slack's markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _line(text: str) -> str:
    """*text* on one line, without control characters: a header may hold none."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _cut(text: str, most: int, mark: str = "…") -> str:
    return text if len(text) <= most else text[: most - len(mark)] + mark
