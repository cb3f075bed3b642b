"""What operators share that carry out a recovery order: the order and its plan, and the guard in front of the job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from airflow.sdk.exceptions import AirflowSkipException

from mingus_airflow.approval import require_approval
from mingus_airflow.failures import translated
from mingus_airflow.operators.base import EngineOperator
from mingus_airflow.recovery import RecoveryOrder
from mingus_airflow.wiring import load_settings, wiring

OrderT = TypeVar("OrderT", bound=RecoveryOrder)


class OrderOperator(EngineOperator, Generic[OrderT]):
    """Base of the operators of the recoveries: works on one order.

    :param order: parameters of the recovery or their JSON, as *order_type*. (templated)
    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    order_type: type[OrderT]
    template_fields: Sequence[str] = ("order", "settings_file")

    def __init__(self, *, order: str | Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(source="", **kwargs)
        self.order = order

    def parsed(self) -> OrderT:
        """The order. :raises SettingsError: it is not one."""
        return self.order_type.parse(self.order)

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Check the order, then run the job for its source."""
        with translated(self.log, self.verb):
            self.source = self.parsed().source
        return super().execute(context)


class ApprovedOperator(OrderOperator[OrderT]):
    """An operator that does nothing before Airflow itself confirmed that this order and plan were approved.

    It is not retried: an approval serves one try (``mingus_airflow.approval``).

    :param order: parameters of the recovery. (templated) :param plan: report of the plan task; says which snapshot of
        which repository is used, and is part of what was approved. (templated)
    :param asked: id of the task that asked for the approval.
    """

    # What it is for; an order of another mode skips it.
    modes: ClassVar[tuple[str, ...]]
    template_fields: Sequence[str] = (*OrderOperator.template_fields, "plan")

    def __init__(self, *, plan: Mapping[str, Any], asked: str = "approve", **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "retries": 0})
        self.plan = plan
        self.asked = asked

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for the approval, then run the job; the report also says who asked and who approved.

        :raises AirflowSkipException: the order is of another mode. :raises NotApproved: nothing was touched.
        """
        with translated(self.log, self.verb):
            order = self.parsed()
            if order.mode not in self.modes:
                raise AirflowSkipException(f"the order is to {order.mode}")
            chosen = wiring(load_settings(self.settings_file)).approval
        approved = require_approval(
            context,
            order,
            self.plan,
            asked=self.asked,
            connection=chosen.connection,
            approvers=chosen.approvers,
        )
        self.log.info("approved by %s at %s; asked for by %s", approved.by, approved.at, approved.requester)
        return super().execute(context) | approved.as_dict()
