"""Which failures are tried again."""

from __future__ import annotations

import logging

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from mingus_airflow.connections import mask_secret
from mingus_airflow.failures import translated
from mingus_engine import errors

pytestmark = pytest.mark.airflow

LOG = logging.getLogger("tests.failures")
EVERY_ERROR = [
    error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.MingusError)
]


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: error.__name__)
def test_only_what_may_pass_by_itself_is_tried_again(
    error: type[errors.MingusError], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(AirflowException) as caught, translated(LOG, "ship ledger"):
        raise error("pack 7 of run X is gone", hint="look under the sofa")
    assert isinstance(caught.value, AirflowFailException) is not error.transient
    assert "ship ledger: pack 7 of run X is gone" in str(caught.value)
    assert f"[{error.__name__}, exit code {error.exit_code}]" in str(caught.value)
    assert "hint: look under the sofa" in caplog.text


def test_a_defect_passes_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), translated(LOG, "backup ledger"):
        raise ZeroDivisionError


def test_a_secret_in_an_error_reaches_neither_log_nor_exception(caplog: pytest.LogCaptureFixture) -> None:
    mask_secret("hunter2-hunter2")
    with caplog.at_level(logging.INFO), pytest.raises(AirflowException) as caught, translated(LOG, "backup ledger"):
        raise errors.SourceDenied("refused password hunter2-hunter2", hint="not hunter2-hunter2")
    assert "hunter2" not in str(caught.value) + caplog.text
