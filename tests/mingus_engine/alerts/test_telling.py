"""One story is told once, to the right channels, by whoever is left; its end is told too."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.alerts import delivering, memory
from mingus_engine.alerts.delivering import Outcome
from mingus_engine.alerts.event import Event
from mingus_engine.alerts.message import SHORT_MAX, Message, compose
from mingus_engine.alerts.routing import channels_of
from mingus_engine.alerts.senders import NotTaken
from mingus_engine.alerts.telling import MEMORY, Teller
from mingus_engine.settings import Settings, parse
from tests.support.processes import wait_until

BASE = """
state_directory: state
repositories: [{name: primary, path: primary}]
sources: [{id: ledger}, {id: ledger-eu}, {id: crm}]
"""


@dataclass
class Inbox:
    """A channel; what it took, and whether it takes anything."""

    messages: list[Message] = field(default_factory=list)
    broken: bool = False

    def __call__(self, message: Message) -> None:
        if self.broken:
            raise NotTaken("no route to host", lasting=True)
        self.messages.append(message)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return parse(BASE + "alerts: {group_wait_s: 1, repeat_interval_s: 3600}", base=tmp_path, environ={})


def event(**more: Any) -> Event:
    common = {"kind": "failure", "severity": "critical", "dag": "full", "run": "r1", "task": "source.back_up"}
    return Event(**{**common, "source": "ledger", "cause": "SourceDenied", "what": "no right", **more})


def teller(settings: Settings, **inboxes: Inbox) -> Teller:
    return Teller(settings, inboxes)


def test_a_failure_that_lasts_is_told_once_within_the_repeat_interval(settings: Settings) -> None:
    mail = Inbox()
    for run in ("r1", "r2", "r3"):
        teller(settings, mail=mail).tell(event(run=run))
    assert len(mail.messages) == 1


def test_it_is_told_again_after_the_repeat_interval(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    mail = Inbox()
    teller(settings, mail=mail).tell(event())
    later = time.time() + 3700
    monkeypatch.setattr(memory.time, "time", lambda: later)
    teller(settings, mail=mail).tell(event(run="r2"))
    assert len(mail.messages) == 2


def test_a_clock_that_was_set_back_does_not_silence_anybody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = Inbox()
    teller(settings, mail=mail).tell(event())
    earlier = time.time() - 7 * 86400
    monkeypatch.setattr(memory.time, "time", lambda: earlier)
    teller(settings, mail=mail).tell(event(run="r2"))
    assert len(mail.messages) == 2


def test_what_got_worse_is_told_at_once_and_what_got_better_is_not(settings: Settings) -> None:
    mail = Inbox()
    for number, severity in enumerate(("warning", "warning", "critical", "critical", "warning", "critical")):
        teller(settings, mail=mail).tell(event(run=f"r{number}", severity=severity))
    assert [message.subject.split()[1] for message in mail.messages] == ["Warning:", "Critical:"]


def test_the_end_is_told_to_whom_the_worst_was_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    telephone = Inbox()
    teller(settings, sms=telephone).tell(event())
    later = time.time() + 3700
    monkeypatch.setattr(memory.time, "time", lambda: later)
    told = teller(settings, sms=telephone)
    told.tell(event(run="r2", severity="warning"))
    told.succeeded("full", "source.back_up", "ledger", run="r3", url="")
    assert [message.subject.split()[1] for message in telephone.messages] == ["Critical:", "Recovered:"]


@pytest.mark.parametrize("other", [{"cause": "Damaged"}, {"source": "crm"}, {"task": "source.ship"}, {"dag": "wal"}])
def test_another_story_is_told_by_itself(settings: Settings, other: dict[str, str]) -> None:
    mail = Inbox()
    teller(settings, mail=mail).tell(event())
    teller(settings, mail=mail).tell(event(**other))
    assert len(mail.messages) == 2


def test_success_ends_it_once_and_the_next_failure_is_told_again(settings: Settings) -> None:
    mail = Inbox()
    told = teller(settings, mail=mail)
    told.tell(event())
    told.tell(event(run="r2"))
    for _ in range(2):
        told.succeeded("full", "source.back_up", "ledger", run="r3", url="")
    assert len(mail.messages) == 2
    assert mail.messages[1].subject.startswith("[MINGUS] Recovered: full, source.back_up: ledger")
    assert "failed 2 times" in mail.messages[1].text
    told.tell(event(run="r4"))
    assert len(mail.messages) == 3


def test_success_of_what_never_failed_or_of_another_source_says_nothing(settings: Settings) -> None:
    mail = Inbox()
    told = teller(settings, mail=mail)
    told.succeeded("full", "source.back_up", "ledger", run="r0", url="")
    told.tell(event())
    told.succeeded("full", "source.back_up", "crm", run="r1", url="")
    assert len(mail.messages) == 1


def test_a_finding_is_not_ended_by_the_next_success(settings: Settings) -> None:
    mail = Inbox()
    told = teller(settings, mail=mail)
    told.tell(event(kind="finding", cause="gap from 0/3000000"))
    told.succeeded("full", "source.back_up", "ledger", run="r2", url="")
    told.tell(event(kind="finding", cause="gap from 0/3000000", run="r2"))
    assert len(mail.messages) == 1


def _fail(settings: Settings, file: Path, source: str, barrier: Any) -> None:
    def send(message: Message) -> None:
        with file.open("a") as out:
            out.write(json.dumps(message.text) + "\n")

    barrier.wait()
    Teller(settings, {"mail": send}).tell(event(source=source, what=f"no right on {source}"), others=True)


def test_sources_that_fail_alike_in_one_run_share_one_message_over_processes(
    settings: Settings, tmp_path: Path
) -> None:
    """Eight workers at the same moment: one message that names them all."""
    names = [f"s{i}" for i in range(8)]
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(len(names))
    file = tmp_path / "messages"
    workers = [spawn.Process(target=_fail, args=(settings, file, name, barrier)) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * len(names)
    (text,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(f"no right on {name}" in text for name in names)


def _put_and_die(settings: Settings) -> None:
    def never(_: Message) -> None:
        raise AssertionError("not reached")

    threading.Timer(0.3, lambda: os.kill(os.getpid(), 9)).start()
    Teller(settings, {"mail": never}).tell(event(), others=True)


def test_what_a_killed_process_had_to_tell_is_told_by_the_next_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=_put_and_die, args=(settings,))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -9
    mail = Inbox()
    teller(settings, mail=mail).sweep()
    assert mail.messages == []  # its leader may still be waiting
    later = time.time() + 120
    monkeypatch.setattr(memory.time, "time", lambda: later)
    teller(settings, mail=mail).succeeded("wal", "archive", "crm", run="x", url="")
    (message,) = mail.messages
    assert "ledger" in message.subject


def test_what_nobody_could_be_told_is_tried_again_and_not_forgotten(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = Inbox(broken=True)
    teller(settings, mail=mail).tell(event())
    mail.broken = False
    teller(settings, mail=mail).sweep()
    assert mail.messages == []
    later = time.time() + 400
    monkeypatch.setattr(memory.time, "time", lambda: later)
    teller(settings, mail=mail).sweep()
    teller(settings, mail=mail).sweep()
    assert len(mail.messages) == 1
    teller(settings, mail=mail).tell(event(run="r2"))
    assert len(mail.messages) == 1


def test_a_directory_that_cannot_be_written_loses_no_alert(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, not a directory")
    mail, said = Inbox(), []
    told = Teller(settings, {"mail": mail}, log=said.append)
    told.tell(event(), others=True)
    told.succeeded("full", "source.back_up", "ledger", run="r2", url="")
    assert len(mail.messages) == 1
    assert "without memory" in said[0]


@pytest.mark.parametrize("step", ["take", "fresh", "done"])
def test_a_disk_that_is_full_in_between_loses_no_alert_and_is_counted(
    step: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(memory.Memory, step, full)
    mail, outcomes = Inbox(), list[Outcome]()
    Teller(settings, {"mail": mail}, told=outcomes.append).tell(event())
    assert len(mail.messages) == 1
    assert {(outcome.channel, outcome.ok) for outcome in outcomes} == {("mail", True), (MEMORY, False)}


@pytest.mark.parametrize("garbage", ["", "{", "[1]", '{"told_at": "soon"}', '{"kind": 7}', "\x00"])
def test_garbage_in_its_files_loses_no_alert(settings: Settings, garbage: str) -> None:
    mail = Inbox()
    teller(settings, mail=mail).tell(event())
    for path in settings.alerts_path.rglob("*.json"):
        path.write_text(garbage)
    group = settings.alerts_path / "pending" / "left-over"
    group.mkdir(parents=True, exist_ok=True)
    (group / "x.json").write_text(garbage)
    os.utime(group, (1, 1))
    told = teller(settings, mail=mail)
    told.tell(event(run="r2"))
    assert len(mail.messages) >= 2


def test_a_lock_that_another_holds_for_ever_does_not_hold_up_the_alert(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr(memory.files, "_LOCK_TIMEOUT_S", 0.1)
    settings.alerts_path.mkdir(parents=True)
    with (settings.alerts_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        mail = Inbox()
        teller(settings, mail=mail).tell(event())
    assert len(mail.messages) == 1


def test_each_channel_is_given_its_own_severities_and_sources(tmp_path: Path) -> None:
    routes = """
alerts:
  routes:
    - {severities: [critical], channels: [sms]}
    - {sources: ["ledger*"], channels: [mail]}
    - {severities: [warning, info], sources: [crm], channels: [slack]}
"""
    alerts = parse(BASE + routes, base=tmp_path, environ={}).alerts
    known = ("mail", "slack", "sms")
    assert channels_of(alerts, "critical", "ledger-eu", known) == ("mail", "sms")
    assert channels_of(alerts, "warning", "crm", known) == ("slack",)
    assert channels_of(alerts, "warning", "", known) == ("mail", "slack")
    assert channels_of(alerts, "info", "other", known) == ()
    # What is critical goes somewhere, though its only route leads to a channel that is not set up.
    assert channels_of(alerts, "critical", "crm", ("mail", "slack")) == ("mail", "slack")


def test_without_routes_telephones_ring_for_what_is_critical_only(settings: Settings) -> None:
    known = ("mail", "slack", "sms")
    assert channels_of(settings.alerts, "critical", "x", known) == known
    assert channels_of(settings.alerts, "warning", "x", known) == ("mail", "slack")
    assert channels_of(settings.alerts, "info", "x", known) == ()


def test_a_message_says_what_it_means_and_what_to_do_and_fits(settings: Settings) -> None:
    long = "größer " * 1000 + "\r\nBcc: everybody@example.com\x00 <script>"
    found = compose(
        [event(source=f"s{i}", what=f"{i} {long}", hint="do this", url="https://a.example/x") for i in range(50)],
        {"s7": "newest snapshot of yesterday"},
    )
    assert "\n" not in found.subject + found.short
    assert len(found.short) <= SHORT_MAX
    assert found.short.isascii()
    assert "s7: newest snapshot of yesterday" in found.text
    assert "do this" in found.text
    assert "https://a.example/x" in found.html
    assert "<script>" not in found.html
    assert len(found.blocks) <= 50
    assert all(len(block["text"]["text"]) <= 3000 for block in found.blocks if block["type"] == "section")
    assert all(len(block["text"]["text"]) <= 150 for block in found.blocks if block["type"] == "header")
    assert "s0, s1, s10, s11, s12 and 45 more" in found.text


def test_recoverability_is_asked_only_when_something_is_told(settings: Settings) -> None:
    asked: list[Sequence[str]] = []

    def meaning(sources: Sequence[str]) -> dict[str, str]:
        asked.append(sources)
        return {"ledger": "newest snapshot of yesterday"}

    mail = Inbox()
    told = Teller(settings, {"mail": mail}, meaning=meaning)
    told.succeeded("full", "source.back_up", "ledger", run="r0", url="")
    told.tell(event())
    told.tell(event(run="r2"))
    assert asked == [["ledger"]]
    assert "newest snapshot of yesterday" in mail.messages[0].text


def test_a_sender_that_never_returns_holds_up_nobody(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivering, "TRY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(delivering, "_PAUSES_S", (0.01, 0.01))
    release = threading.Event()
    slack = Inbox()
    told = Teller(settings, {"mail": lambda _: release.wait() and None, "slack": slack})
    done = threading.Thread(target=told.tell, args=(event(),))
    done.start()
    wait_until(lambda: not done.is_alive(), "the alert ends", timeout_s=30)
    release.set()
    assert "mail could not be sent: no answer" in slack.messages[1].text
