"""A real browser, Debian's Chromium without a window, that is logged in to a real Airflow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

#: Where screenshots are kept; unset = nowhere. The pictures of the documentation are made by a run with
#: ``MINGUS_SCREENSHOTS=docs/images``.
SCREENSHOTS = os.environ.get("MINGUS_SCREENSHOTS", "")
# The switches keep Chromium from looking for its maker's servers: traffic stays on this machine.
_SWITCHES = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def logged_in(base_url: str, user: str, password: str) -> Iterator[Page]:
    """A page of the Airflow at *base_url*."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(_SWITCHES))
        try:
            page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="light", locale="en-GB")
            page.set_default_timeout(30_000)
            expect.set_options(timeout=30_000)
            page.goto(f"{base_url}/auth/login")
            page.fill("input[name=username]", user)
            page.fill("input[name=password]", password)
            page.click("button[type=submit]")
            page.wait_for_url(lambda url: "/login" not in url)
            yield page
        finally:
            browser.close()


def keep(page: Page, name: str) -> None:
    """Keep a picture of *page* as *name*.png, where pictures are wanted."""
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")
