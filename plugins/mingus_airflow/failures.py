"""What a failure of the engine means to Airflow: try again, or wake a person."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from mingus_airflow.connections import redacted
from mingus_engine.errors import MingusError


@contextmanager
def translated(log: logging.Logger, what: str) -> Iterator[None]:
    """Turn a :class:`MingusError` into Airflow's exception for it; anything else is a defect and passes unchanged.

    The engine's traceback says nothing to who reads the log at night, so it is kept for ``DEBUG``; what failed and what
    to do about it are the last lines of the log.

    :raises AirflowException: the failure may pass by itself; Airflow tries again while retries are left.
    :raises AirflowFailException: the same call would fail again; the task fails now.
    """
    try:
        yield
    except MingusError as error:
        log.debug("traceback of the failure", exc_info=True)
        raise as_airflow(error, log, what) from None


def as_airflow(error: MingusError, log: logging.Logger, what: str) -> AirflowException:
    """The Airflow exception for *error*; its text and hint are logged on the way."""
    text = redacted(f"{what}: {error.message} [{type(error).__name__}, exit code {error.exit_code}]")
    log.error("%s", text)
    if error.hint:
        log.error("hint: %s", redacted(error.hint))
    if error.transient:
        log.warning("this may pass by itself: Airflow tries again while retries are left")
        return _explained(AirflowException(text), error)
    log.warning("the same call would fail again: not retried; clear the task when the cause is mended")
    return _explained(AirflowFailException(text), error)


def _explained(raised: AirflowException, error: MingusError) -> AirflowException:
    """*raised*, with what an alert says besides its text."""
    raised.mingus_cause = type(error).__name__
    raised.mingus_hint = redacted(error.hint)
    return raised
