"""Telling people: what happened, what it means for recovery, what to do next.

*Event*: one thing to tell. *Cause*: what makes two events the same story. *Incident*: a cause that was told and has
not ended. *Channel*: mail, Slack or SMS. *Sender*: what gives one message to one channel, and raises when it could not.
*Route*: which severities of which sources go to which channels.

An event is first put into a file (:mod:`.memory`), then told: whoever dies in between leaves it to the next one that
looks. Several processes, on several machines too where they share the directory, tell one story once. When the
directory cannot be written, events are told all the same, maybe more than once: silence is the worse mistake.

Nothing here raises into a backup, and everything is bounded: :data:`.delivering.TRY_TIMEOUT_S` a try, three tries, all
channels at once. Not promised: that a message was read; that a gateway which took it sends it on.
"""

from __future__ import annotations

from mingus_engine.alerts.checking import Problem, configured, problems
from mingus_engine.alerts.memory import Memory
from mingus_engine.alerts.outcomes import Failure, last_failures

__all__ = ["Failure", "Memory", "Problem", "configured", "last_failures", "problems"]
