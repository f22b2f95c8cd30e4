"""A real browser without a window, and what it saw of a page."""

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.report.conftest import experiment
from tests.report.test_landscape import folder as landscape_folder

__all__ = ["experiment", "landscape_folder"]

CHROMIUM, DRIVER = (shutil.which(name) or f"/usr/bin/{name}" for name in ("chromium", "chromedriver"))
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
OWN = re.compile(r"(file|data|blob|about):")  # addresses that leave no machine
TWO_FRAMES = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()));"
SCRIPT = (Path(__file__).parent / "look.js").read_text()


@dataclass(frozen=True)
class Browser:
    """Opens pages, changes how they are shown, and asks what can be seen."""

    driver: webdriver.Chrome

    def open(self, path: Path) -> None:
        """Open a file; forget what was said of pages before."""
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.show()
        self.driver.get(path.as_uri())

    def show(self, *, width: int = 1280, height: int = 900, dark: bool = False, phone: bool = False) -> None:
        """Set the size of the window, what the system prefers, and whether it is a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})
        self.driver.execute_async_script(TWO_FRAMES)

    def phone(self, *, dark: bool = False) -> None:
        """Show the page as a phone of 390 pixels does."""
        self.show(width=390, height=844, dark=dark, phone=True)

    def photograph(self) -> Image.Image:
        """The whole page, however long."""
        whole = {"format": "png", "captureBeyondViewport": True, "optimizeForSpeed": True}
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {**whole, "clip": {**size, "scale": 1}})
        return Image.open(io.BytesIO(base64.b64decode(shot["data"])))

    def complaints(self) -> list[str]:
        """What the console has, warnings left out."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def foreign_requests(self) -> list[str]:
        """Addresses outside the page's own files that were asked for."""
        entries = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        asked = [
            entry["params"]["request"]["url"]
            for entry in entries
            if entry["method"] == "Network.requestWillBeSent"
        ]
        assert any(address.startswith("file:") for address in asked), "the log of requests is empty"
        return [address for address in asked if not OWN.match(address)]

    def look(self, question: str) -> Any:
        """Ask one of the functions of look.js."""
        return self.driver.execute_script(f"{SCRIPT}\nreturn {question};")


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Browser]:
    missing = [program for program in (CHROMIUM, DRIVER) if not shutil.which(program)]
    if missing:
        complaint = f"{' and '.join(missing)} missing: apt-get install chromium chromium-driver"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"NO BROWSER, the pages are not looked at: {complaint}"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.set_page_load_timeout(60)
        yield Browser(driver)
    finally:
        driver.quit()
