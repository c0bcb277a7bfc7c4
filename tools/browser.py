"""A headless Chromium without Appium, for tests, benchmarks and pictures of pages that we make."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from android_env.appium.chromium import find_browser


@contextlib.contextmanager
def headless(width: int = 1300, height: int = 900, *, script: str = "") -> Iterator[Any]:
    """Opens the browser and closes it when the block ends.

    Args:
        width: of the window, in CSS pixels; `height` likewise.
        script: JavaScript that every page runs before its own.

    Yields:
        Selenium's WebDriver.

    Raises:
        SetupError: Chromium or chromedriver is not on PATH.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser, chromedriver = find_browser()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--window-size={width},{height}")
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        if script:
            driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        yield driver
    finally:
        driver.quit()


def emulate(
    driver: Any, width: int, height: int, *, scale: float = 1, phone: bool = False, dark: bool = False
) -> None:
    """Gives pages another screen: its size in CSS pixels, device pixels to each, a phone's manners, and a colour scheme."""
    screen = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
