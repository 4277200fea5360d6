"""A headless Chromium, where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_ARGUMENTS = ("--headless=new", "--no-sandbox", "--force-prefers-reduced-motion", "--window-size=1200,1000")


@contextmanager
def headless(*arguments: str, downloads: Path | None = None) -> Iterator[Any]:
    """A driver of a browser with these more arguments, which saves into the folder `downloads`. Skips the test where
    there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the page is not tested in a browser: no selenium")
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("the page is not tested in a browser: no chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*_ARGUMENTS, *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    session.set_script_timeout(120)
    try:
        yield session
    finally:
        session.quit()


def until(browser: Any, condition: str) -> Any:
    """The value of a JavaScript expression as soon as it is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60, 0.05).until(lambda b: b.execute_script(f"return {condition}"))
