"""Alerts through a real Airflow: its callbacks and deadlines, a real mail server, HTTP in the place of Slack."""

from __future__ import annotations

import pytest

from tests.end_to_end.conftest import DAG, REDIS_DAG, Installation
from tests.support.processes import wait_until

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


def subjects(installation: Installation, of: str) -> list[str]:
    return [found for mail in installation.mail.mails if of in (found := str(mail["Subject"]).strip())]


@pytest.mark.usefixtures("proven_sessions")
def test_a_failure_is_told_once_after_the_last_try_and_its_end_too(installation: Installation) -> None:
    step = f"{REDIS_DAG}, source.back_up"
    installation.redis.execute("SAVE")  # what is there now is there afterwards, and ends when it would have
    installation.redis.stop()
    try:
        run_id = installation.trigger(dag=REDIS_DAG, sources=["sessions"])
        assert installation.wait(run_id, dag=REDIS_DAG) == "failed"
        wait_until(lambda: subjects(installation, step), "the mail about the failure", timeout_s=60)
        again = installation.trigger(dag=REDIS_DAG, sources=["sessions"])
        assert installation.wait(again, dag=REDIS_DAG) == "failed"
    finally:
        installation.redis.start()
    assert subjects(installation, step) == [f"[MINGUS] Critical: {step} failed: sessions"]
    (mail,) = [mail for mail in installation.mail.mails if step in str(mail["Subject"])]
    text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert "It failed in all of 2 tries." in text
    assert "newest snapshot" in text
    assert "is the server up?" in text
    assert f"{installation.airflow.url}/dags/{REDIS_DAG}/runs/{run_id}" in text
    posts = [post for post in installation.slack.posts if step in post["text"]]
    assert len(posts) == 1

    good = installation.trigger(dag=REDIS_DAG, sources=["sessions"])
    assert installation.wait(good, dag=REDIS_DAG) == "success"
    wait_until(lambda: len(subjects(installation, step)) == 2, "the mail about the end", timeout_s=60)
    assert subjects(installation, step)[1] == f"[MINGUS] Recovered: {step}: sessions"


@pytest.mark.usefixtures("proven")
def test_a_run_that_is_late_is_told_while_it_goes_on(installation: Installation) -> None:
    wait_until(lambda: subjects(installation, f"Late: {DAG}"), "the mail about the late run", timeout_s=120)
    assert len(subjects(installation, f"Late: {DAG}")) == 1
