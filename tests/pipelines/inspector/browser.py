"""A Chromium for tests and benchmarks: the machine's, or the one that playwright installed."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager

WITHOUT = "WINNOW_WITHOUT_BROWSER"  # set: tests of the page are passed over
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class NoBrowser(Exception):
    """No Chromium on this machine. One line: the fix."""


def chromium(playwright) -> str | None:
    """Path of a Chromium, or None."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    own = playwright.chromium.executable_path
    return own if os.path.exists(own) else None


@contextmanager
def launched(playwright):
    path = chromium(playwright)
    if path is None:
        raise NoBrowser(
            "no Chromium, which the page is tested and measured in: `apt-get install chromium`, or `playwright install "
            f"chromium`; {WITHOUT}=1 passes over the tests of the page"
        )
    browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
    try:
        yield browser
    finally:
        browser.close()
