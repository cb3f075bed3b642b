"""From an event to the people: once for one story, never twice within the repeat interval, and its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mingus_engine.alerts import event as kinds
from mingus_engine.alerts.delivering import Outcome, deliver
from mingus_engine.alerts.event import Event
from mingus_engine.alerts.memory import Memory
from mingus_engine.alerts.message import compose
from mingus_engine.alerts.routing import channels_of
from mingus_engine.alerts.senders import Sender
from mingus_engine.settings import Settings

#: In the place of a channel: the directory in which it is remembered what was told.
MEMORY = "memory"


@dataclass(frozen=True)
class Teller:
    """Tells events by *senders*.

    :param meaning: of sources, what can be recovered; asked only when something is told. It has its own bound.
    :param log: what an operator should read.
    :param told: called for every outcome; ``MEMORY`` as its channel = what was told cannot be remembered.
    :param redacted: takes secrets out of a text.
    """

    settings: Settings
    senders: Mapping[str, Sender]
    meaning: Callable[[Sequence[str]], Mapping[str, str]] = lambda _: {}
    log: Callable[[str], None] = lambda _: None
    told: Callable[[Outcome], None] = lambda _: None
    redacted: Callable[[str], str] = str

    def tell(self, event: Event, *, others: bool = False) -> None:
        """Tell *event*, unless it was told lately.

        :param others: more of the same run may fail alike: wait for them.
        """
        if not self.senders:
            self.log(f"alert: no channel is set up, nobody is told: {event.what}")
            return
        memory = Memory(self.settings)
        try:
            group = memory.put(event)
        except OSError as error:
            # Silence is the worse mistake: told at once, and again if it happens again.
            self._forgets(error)
            self._send([event])
            return
        if group is None:
            return
        if others:
            time.sleep(self.settings.alerts.group_wait_s)
        self._take(memory, group, event)
        self.sweep()

    def succeeded(self, dag: str, task: str, source: str, *, run: str, url: str, others: bool = False) -> None:
        """A step of a source went well: if it was told to have failed, tell that this is over."""
        try:
            ended = Memory(self.settings).end(dag, task, source)
        except OSError:
            ended = None
        if ended is not None:
            since, severity, count = ended
            times = "once" if count == 1 else f"{count} times"
            what = f"{source or task} succeeded; it had failed {times} since {since}."
            over = Event(
                kind=kinds.RECOVERED, severity=severity, what=what, dag=dag, task=task, source=source, run=run, url=url
            )
            self.tell(over, others=others)
        else:
            self.sweep()

    def sweep(self) -> None:
        """Take up what a killed process left, or nobody could be told; one thing at a time: it may take a minute."""
        if not self.senders:
            return
        memory = Memory(self.settings)
        try:
            for path in memory.left_over()[:1]:
                self._take(memory, path)
        except OSError as error:
            self._forgets(error)

    def _take(self, memory: Memory, group: Path, own: Event | None = None) -> None:
        """Take the events of *group* and tell them.

        :param own: the caller's; told also where the group cannot be taken. The others' are taken up later.
        """
        try:
            taken = memory.take(group)
        except OSError as error:
            self._forgets(error)
            if own is not None:
                self._send([own])
            return
        if taken is None:
            return
        path, events = taken
        try:
            fresh = memory.fresh(events)
        except OSError as error:
            self._forgets(error)
            fresh = events
        if not fresh or self._send(fresh):
            try:
                memory.done(path, fresh)
            except OSError as error:
                self._forgets(error)

    def _forgets(self, error: OSError) -> None:
        why = f"{self.settings.alerts_path} cannot be written ({error.strerror}): told without memory"
        self.log(f"alert: {why}")
        self.told(Outcome(MEMORY, False, 1, why))

    def _send(self, events: Sequence[Event]) -> bool:
        """Whether somebody was told, or nobody is to be."""
        routed: dict[tuple[Event, ...], list[str]] = {}
        for channel in self.senders:
            fits = tuple(
                event
                for event in events
                if channel in channels_of(self.settings.alerts, event.severity, event.source, tuple(self.senders))
            )
            if fits:
                routed.setdefault(fits, []).append(channel)
        if not routed:
            self.log(f"alert: no channel for: {events[0].what}")
            return True
        meaning = self.meaning(sorted({event.source for event in events if event.source}))
        ok = False
        for fits, channels in routed.items():
            message = compose(fits, meaning)
            chosen = {name: self.senders[name] for name in channels}
            found = deliver(self.settings, message, chosen, log=self.log, told=self.told, redacted=self.redacted)
            ok = ok or any(outcome.ok for outcome in found)
            for outcome in found:
                if outcome.ok:
                    self.log(f"alert: {outcome.channel} was told: {message.subject}")
        return ok
