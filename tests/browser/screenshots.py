"""Take the pictures in docs/: python -m tests.browser.screenshots [DIRECTORY]"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from PIL import Image

from tests.browser.support import Browser, FakeSystem, batch, fake_system
from tests.harness import PROJECT_DIR, wait_until

# How a crowd's minute goes: taps per batch of the whole, and each emoji's part of them, slowly changing.
CROWD = (400, 420, 380, 500, 900, 2400, 3900, 3100, 2200, 1500, 1200, 900, 800, 760, 900, 1100, 1000, 950, 1400, 2600,
         4200, 3600, 2700, 2000, 1600, 1300, 1250, 1500, 1900)  # fmt: skip
PARTS = {"😊": 0.22, "😂": 0.13, "😍": 0.09, "🔥": 0.33, "👏": 0.23}


def show_a_minute(system: FakeSystem, browser: Browser) -> None:
    """Batches of the last minute at once, and the newest two as they come."""
    browser.wait_live()
    now_ms = round(time.time() * 1000)
    # The first one tells the page how late batches are; without it, it would take all of them for late.
    system.send(batch(100, {"😊": 1}) | {"batched_ms": now_ms})
    wait_until("the first batch", browser.batches)
    for number, taps in enumerate(CROWD):
        if number >= len(CROWD) - 2:
            time.sleep(2)
        counts = {emoji: round(taps * part) for emoji, part in PARTS.items()}
        counted_ms = now_ms - 2000 * (len(CROWD) - 2 - number)
        system.send(batch(number, counts) | {"batched_ms": counted_ms})
    wait_until("all batches", lambda: len(browser.batches()) == 1 + len(CROWD), timeout_seconds=10)


def save(picture: Image.Image, directory: Path, name: str) -> None:
    """Keep a picture."""
    path = directory / f"{name}.png"
    opaque = picture.getchannel("A").getextrema() == (255, 255)
    (picture.convert("RGB") if opaque else picture).save(path, optimize=True)
    print(path, path.stat().st_size // 1024, "KB")


def take(directory: Path) -> None:
    """Every page, in the light and in the dark, large and small."""
    with fake_system() as system, Browser() as browser:
        for name, width, height, scheme, motion in (
            ("viewer", 1280, 800, "light", "no-preference"),
            ("viewer-dark", 1280, 800, "dark", "no-preference"),
            ("viewer-phone", 400, 780, "dark", "no-preference"),
            ("viewer-still", 1280, 800, "light", "reduce"),
        ):
            browser.resize(width, height)
            browser.prefer(prefers_color_scheme=scheme, prefers_reduced_motion=motion)
            browser.open(system.url)
            show_a_minute(system, browser)
            time.sleep(0.3 if motion == "reduce" else 2)
            save(browser.screenshot(), directory, name)
        browser.resize(1280, 720)
        browser.prefer(prefers_color_scheme="light", prefers_reduced_motion="no-preference")
        browser.open(f"{system.url}/overlay?side=right&size=64")
        wait_until("its stream", system.serving)
        for number in range(3):
            system.send(batch(number, {emoji: round(900 * part) for emoji, part in PARTS.items()}))
            time.sleep(2)
        save(browser.screenshot(transparent=True), directory, "overlay")


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT_DIR / "docs")
