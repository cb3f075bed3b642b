"""What a person sees: Airflow's pages in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from demo.supervisor import ADMIN
from tests.end_to_end.conftest import DAG, Installation
from tests.support.browser import keep, logged_in


@pytest.fixture(scope="module")
def page(installation: Installation) -> Iterator[Page]:
    airflow = installation.airflow
    with logged_in(f"http://127.0.0.1:{airflow.port}", ADMIN, airflow.passwords[ADMIN]) as found:
        yield found


def _address(installation: Installation, path: str) -> str:
    return f"http://127.0.0.1:{installation.airflow.port}{path}"


def test_the_grid_of_the_nightly_backup_shows_its_steps(installation: Installation, proven: str, page: Page) -> None:
    page.goto(_address(installation, f"/dags/{DAG}/runs/{quote(proven)}"))
    page.get_by_role("button", name="Expand all task groups").first.click()
    for task in ("source.back_up", "source.ship", "source.verify"):
        expect(page.get_by_role("link", name=task).first).to_be_visible()
    expect(page.get_by_text("verify [ ]").first).to_be_visible()
    keep(page, "grid")


def test_the_report_of_a_restore_test_is_a_click_away(installation: Installation, proven: str, page: Page) -> None:
    page.goto(_address(installation, f"/dags/{DAG}/runs/{quote(proven)}/tasks/source.verify/mapped/0/details"))
    page.get_by_text("Report", exact=True).first.click()
    page.wait_for_url("**/xcom")
    page.get_by_role("button", name=re.compile("^Expand")).last.click()
    expect(page.get_by_text('"L4"').first).to_be_visible()
    keep(page, "report")
