"""A headless Chromium, and what tests ask of its page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from testkit.waiting import wait_until


class Browser(webdriver.Chrome):
    """A headless Chromium with a window of its own, and what tests ask of it."""

    def __init__(self, width: int = 1280, height: int = 800, arguments: Sequence[str] = ()) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = _installed("chromium", "chromium-browser", "google-chrome")
        for argument in (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--force-color-profile=srgb", "--no-first-run", "--disable-extensions", "--disable-background-networking",
            f"--window-size={width},{height}", *arguments,
        ):  # fmt: skip
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        super().__init__(options, webdriver.ChromeService(_installed("chromedriver")))
        self.set_script_timeout(120)  # a video is recorded anew where the machine was too busy for a picture
        self.resize(width, height)
        self._noting: set[str] = set()  # windows

    def resize(self, width: int, height: int) -> None:
        """The page's own size in CSS px, whatever the least width of a window is."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, **features: str) -> None:
        """Set media features, for example prefers_reduced_motion="reduce"."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.cdp("Emulation.setEmulatedMedia", features=named)

    def cdp(self, command: str, **parameters: object) -> Any:
        return self.execute_cdp_cmd(command, parameters)

    def open(self, url: str) -> None:
        """Load a page, and note from now on which batches it shows, and how many emojis it has up at a time."""
        if self.current_window_handle not in self._noting:
            self._noting.add(self.current_window_handle)
            self.cdp("Page.addScriptToEvaluateOnNewDocument", source=_NOTES)
        self.get(url)

    def js(self, expression: str, *arguments: object) -> Any:
        return self.execute_script(f"return {expression}", *arguments)

    def batches(self) -> list[int]:
        """The ids of the batches that the page has shown, in order."""
        found: list[int] = self.js("notes.batches")
        return found

    def floated(self) -> list[str]:
        """Every emoji that has begun to rise, in order."""
        found: list[str] = self.js("notes.floated")
        return found

    def text(self, selector: str) -> str:
        there = "(document.querySelector(arguments[0]) || inside(arguments[0]))"
        found: str = self.js(f"{there}.textContent.trim()", selector)
        return found

    def wait_live(self) -> None:
        wait_until("the page is live", lambda: self.text("#state") == "Live")

    def buttons(self) -> list[Any]:
        return self.find_element(By.CSS_SELECTOR, "emo-reactions").shadow_root.find_elements(By.CSS_SELECTOR, "button")

    def screenshot(self, transparent: bool = False) -> Image.Image:
        """What the page looks like, with the alpha that a broadcast's software would see."""
        if transparent:
            self.cdp("Emulation.setDefaultBackgroundColorOverride", color={"r": 0, "g": 0, "b": 0, "a": 0})
        return Image.open(BytesIO(self.get_screenshot_as_png())).convert("RGBA")

    def complaints(self) -> list[str]:
        """What the browser has warned of since the last call: blocked requests, uncaught errors."""
        return [entry["message"] for entry in self.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]  # type: ignore[no-untyped-call]

    def requested_hosts(self) -> set[str]:
        """host:port of every request since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.get_log("performance")]  # type: ignore[no-untyped-call]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return {urlsplit(url).netloc for url in urls}


_NOTES = """
window.notes = {batches: [], floated: [], times: [], places: [], most: 0};
window.inside = (selector) => document.querySelector("emo-reactions").shadowRoot.querySelector(selector);
document.addEventListener("emo-batch", ({detail}) => detail.recent || notes.batches.push(detail.batch_id));
const observer = new MutationObserver((changes) => {
  for (const change of changes) {
    if (change.target.id !== "floats") continue;
    for (const node of change.addedNodes) {
      notes.floated.push(node.textContent);
      notes.times.push(performance.now());
      requestAnimationFrame(() => notes.places.push(node.getBoundingClientRect().toJSON()));
    }
    notes.most = Math.max(notes.most, change.target.childElementCount);
  }
});
const attach = Element.prototype.attachShadow;
Element.prototype.attachShadow = function (options) {
  const shadow = attach.call(this, options);
  observer.observe(shadow, {childList: true, subtree: true});
  return shadow;
};
"""


def _installed(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    raise AssertionError(
        f"none of {', '.join(names)} is installed; on Debian: apt-get install chromium chromium-driver"
    )


def luminance(color: str) -> float:
    """Relative luminance of #rrggbb, as WCAG defines it."""
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def module(page: Browser, name: str, expression: str, *arguments: object) -> Any:
    """An expression over `m`, one of the page's modules."""
    source = page.js("document.querySelector('script[type=module]').src").rsplit("/", 1)[0] + f"/{name}"
    return page.execute_async_script(
        f"const done = arguments[arguments.length - 1]; const given = [...arguments];"
        f"import('{source}').then((m) => done((function() {{ return {expression}; }})(...given)))",
        *arguments,
    )
