"""Nobody recovers over a running business alone: the approval of a recovery, and the guard that does not believe it.

Neither a task's state nor its XCom is proof of an approval: whoever may edit a run can set both. So the protected task
itself asks Airflow's REST API, with a read-only account, who answered which question, and compares it with what it is
about to do. An approval holds

* for one order and one plan: their digest is in the question's subject, and the task computes it anew;
* for one try: cleared, the task needs an answer that is younger than its last try;
* of a person who did not ask for it, and did nothing else to this run (start, clear, mark, write XCom).

What is *not* kept out: an administrator of Airflow, whoever can change its database, its code or the worker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException

from mingus_airflow.connections import redacted
from mingus_airflow.failures import translated
from mingus_airflow.recovery import RecoveryOrder
from mingus_airflow.rest import AirflowApi, ApiError, run_path
from mingus_airflow.wiring import load_settings, wiring

#: Of a plan that changes files: a line for each of the first of them.
CHANGES = "changes"
# The answer itself is logged under this name.
_ANSWER = "update_hitl_detail"
# What acts on tasks of runs that it names in its body, or chooses by date: such an event names no run itself.
_BULK = re.compile("clear|task_instance|dag_runs|xcom")


class NotApproved(AirflowFailException):
    """The recovery was not approved as it is; nothing was touched. Never retried."""


@dataclass(frozen=True)
class Facts:
    """What Airflow says about an approval.

    :param requester: who started the run, ``None`` = Airflow does not know. :param detail: the question and its answer,
        ``None`` = it was not asked. :param earlier: starts of the earlier tries of the protected task.
    :param tries_missing: earlier tries of which Airflow has no record. :param deeds: other events of who answered.
    """

    requester: str | None
    detail: Mapping[str, Any] | None
    earlier: Sequence[datetime] = ()
    tries_missing: int = 0
    deeds: Sequence[str] = ()


@dataclass(frozen=True)
class Approved:
    """A valid approval. ``at`` is ISO 8601."""

    by: str
    at: str
    requester: str

    def as_dict(self) -> dict[str, str]:
        """JSON types, for the report and the run's record."""
        return {"approved_by": self.by, "approved_at": self.at, "requested_by": self.requester}


def subject(order: RecoveryOrder, plan: Mapping[str, Any]) -> str:
    """The question's headline. The digest is in it and not in the body, which quotes what the requester wrote."""
    return f"Recover {order.source} ({order.mode})? Order {order.digest(plan)}"


def judge(facts: Facts, wanted: str, approvers: Sequence[str]) -> Approved:
    """Whether *facts* are an approval of the order whose question is *wanted*. Pure.

    :param approvers: who may approve; empty = anybody but the requester.
    :raises NotApproved: saying why not.
    """
    detail = facts.detail
    if detail is None or not detail.get("response_received"):
        raise NotApproved("no person has answered the question; a task that is marked as success is not an approval")
    who = detail.get("responded_by_user") or {}
    names = {str(who[key]).casefold() for key in ("id", "name") if who.get(key)}
    if not names:
        raise NotApproved("the answer has no author (a time-out?)")
    shown = str(who.get("name") or who.get("id"))
    if detail.get("chosen_options") != [ApprovalOperator.APPROVE]:
        raise NotApproved(f"{shown} answered {detail.get('chosen_options')}")
    if not facts.requester:
        raise NotApproved("nobody is known to have asked for this run; trigger it as a person")
    if facts.requester.casefold() in names:
        raise NotApproved(f"{shown} asked for this recovery and cannot approve it as well")
    if approvers and names.isdisjoint(name.casefold() for name in approvers):
        raise NotApproved(f"{shown} is not among the approvers of the settings")
    if detail.get("subject") != wanted:
        raise NotApproved("what was approved is another order or plan than this one; ask again")
    at = _moment(detail.get("responded_at"))
    if facts.tries_missing:
        raise NotApproved(f"Airflow has no record of {facts.tries_missing} earlier tries; trigger a new run")
    if any(at <= start for start in facts.earlier):
        raise NotApproved("the approval was used by an earlier try; clear the approval too, and have it given again")
    if facts.deeds:
        raise NotApproved(f"{shown} approved and also acted on this run ({', '.join(facts.deeds)}); trigger a new run")
    return Approved(shown, at.isoformat(), facts.requester)


def collect(api: AirflowApi, *, dag_id: str, run_id: str, asked: str, task_id: str, try_number: int) -> Facts:
    """Ask Airflow.

    :param asked: task that asks for the approval. :param task_id, try_number: the protected task and its try now.
    :raises ApiError: Airflow did not say.
    """
    run = api.get(run_path(dag_id, run_id))
    where = f"{run_path(dag_id, run_id)}/taskInstances"
    try:
        detail = api.get(f"{where}/{asked}/-1/hitlDetails")
    except ApiError as error:
        if error.status != 404:
            raise
        detail = None
    earlier: list[datetime] = []
    if try_number > 1:
        tries = api.get(f"{where}/{task_id}/tries")["task_instances"]
        earlier = [
            _moment(entry["start_date"])
            for entry in tries
            if entry["start_date"] and int(entry["try_number"]) < try_number
        ]
    who = (detail or {}).get("responded_by_user") or {}
    return Facts(
        requester=run["triggering_user_name"],
        detail=detail,
        earlier=earlier,
        tries_missing=try_number - 1 - len(earlier),
        deeds=_deeds(api, {str(who[key]) for key in ("id", "name") if who.get(key)}, run_id, run["run_after"]),
    )


def require_approval(
    context: Mapping[str, Any],
    order: RecoveryOrder,
    plan: Mapping[str, Any],
    *,
    asked: str,
    connection: str,
    approvers: Sequence[str],
) -> Approved:
    """Let the task of *context* go on only when this very order was approved.

    :param asked: id of the task that asked. :param connection: Airflow connection of the read-only account.
    :raises NotApproved: it was not, or Airflow could not say.
    """
    ti = context["ti"]
    try:
        api = AirflowApi.of_connection(connection)
        facts = collect(
            api, dag_id=ti.dag_id, run_id=ti.run_id, asked=asked, task_id=ti.task_id, try_number=ti.try_number
        )
    except (ApiError, KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, ApiError) else f"an answer was not understood ({type(error).__name__})"
        raise NotApproved(f"the approval could not be checked: {reason}") from None
    return judge(facts, subject(order, plan), approvers)


class RecoveryApprovalOperator(ApprovalOperator):
    """Asks a person who did not start the run to approve one order and its plan.

    :param order: parameters of the recovery or their JSON. (templated)
    :param order_type: what *order* is parsed as.
    :param plan: report of the plan task; shown, and bound to the answer. (templated)
    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    template_fields: Sequence[str] = ("order", "plan", "settings_file")
    ui_color = "#b5713c"
    ui_fgcolor = "#ffffff"

    def __init__(
        self,
        *,
        order: str | Mapping[str, Any],
        order_type: type[RecoveryOrder],
        plan: Mapping[str, Any],
        settings_file: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(subject="-", **kwargs)
        self.order = order
        self.order_type = order_type
        self.plan = plan
        self.settings_file = settings_file

    def execute(self, context: Any) -> Any:
        """Put the question; the task then waits without a process."""
        with translated(self.log, "approval"):
            order = self.order_type.parse(self.order)
            chosen = wiring(load_settings(self.settings_file)).approval
        requester = getattr(context["dag_run"], "triggering_user_name", None)
        if not requester:
            raise NotApproved("nobody is known to have asked for this run; trigger it as a person")
        if chosen.approvers:
            others = [name for name in chosen.approvers if name.casefold() != requester.casefold()]
            if not others:
                raise NotApproved(f"{requester} is the only approver of the settings and cannot approve this request")
            self.assigned_users = [{"id": name, "name": name} for name in others]
        self.response_timeout = timedelta(seconds=chosen.timeout_s)
        self.subject = subject(order, self.plan)
        self.body = question(order, self.plan, requester)
        self.log.info("%s\n%s", self.subject, redacted(self.body))
        return super().execute(context)


def question(order: RecoveryOrder, plan: Mapping[str, Any], requester: str) -> str:
    """The body in Markdown: who wants what, and what it will do. Everything that is not ours is in code spans."""
    lines = [f"{_code(requester)} asks for this. **Somebody else must approve it.**", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_code(value)} |" for name, value in order.said().items()]
    lines += ["", "The plan:", "", "| | |", "|---|---|"]
    shown = {name: value for name, value in plan.items() if value not in (None, "", [], {}) and name != CHANGES}
    lines += [f"| {name} | {_code(value)} |" for name, value in shown.items()]
    if plan.get(CHANGES):
        lines += ["", "What it does, the first of it:", "", *(f"- {_code(line)}" for line in plan[CHANGES])]
    return "\n".join(lines)


def _code(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    plain = "".join(c if c.isprintable() and c not in "`|" else f"\\x{ord(c):02x}" for c in text)
    return f"`{plain[:2000]}`" if plain else ""


def _deeds(api: AirflowApi, names: set[str], run_id: str, since: str) -> list[str]:
    """What the people *names* did to the run besides answering, as names of events."""
    found: set[str] = set()
    for name in names:
        # Not from its queueing on: clearing a run queues it again, after the event.
        for event in api.all("/eventLogs", "event_logs", owner=name, after=since, order_by="event_log_id"):
            what, run = str(event["event"]), event["run_id"]
            named = run == run_id or run_id in (event.get("extra") or "")
            if what != _ANSWER and (named or (not run and _BULK.search(what))):
                found.add(what)
    return sorted(found)


def _moment(text: Any) -> datetime:
    moment = datetime.fromisoformat(str(text))
    if moment.tzinfo is None:
        raise ValueError("a time without an offset")
    return moment
