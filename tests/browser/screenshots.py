"""Take the pictures in docs/: python -m tests.browser.screenshots [DIRECTORY]

Those of the viewer's pages are of a small system that sends what was decided here; those of the dashboard of a real
one, with load, streams, clients of which one is slow and one dies, and a subscriber that is killed: four minutes.
"""

from __future__ import annotations

import base64
import math
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import requests
from PIL import Image

from emostream.operate.supervisor import Supervisor
from emostream.roles import subscriber, subscribers
from emostream.settings import load
from testkit.broker import Broker
from testkit.browser import Browser
from testkit.fake_system import FakeSystem, batch, fake_system
from testkit.http_calls import call
from testkit.http_servers import Answer, http_client, http_server
from testkit.settings import PROJECT_DIR, environment_for
from testkit.video import video_of
from testkit.waiting import wait_until

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
    wait_until("all batches", lambda: len(browser.batches()) == 1 + len(CROWD))


def save(picture: Image.Image, directory: Path, name: str) -> None:
    """Keep a picture."""
    path = directory / f"{name}.png"
    opaque = picture.getchannel("A").getextrema() == (255, 255)
    (picture.convert("RGB") if opaque else picture).save(path, optimize=True)
    print(path, path.stat().st_size // 1024, "KB")


# How long there is load, and when in it goals fall, in seconds.
LOAD_SECONDS = 180
GOALS = {40: ("😍", 5000), 138: ("🔥", 9000)}
RARE = "🎉🤩😮😢🙌💪🥳🎵😎🤯"


class Load(threading.Thread):
    """A crowd at the app's door, 600 to 10,000 taps a second, in ten requests a second."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.ended = threading.Event()
        self.began = time.monotonic()

    def run(self) -> None:
        session = requests.Session()
        while not self.ended.wait(0.1):
            session.post(f"{self.url}/send-emojis", json=self._events(time.monotonic() - self.began), timeout=10)

    def _events(self, seconds: float) -> list[dict[str, object]]:
        taps = {emoji: (1500 + 900 * math.sin(seconds / 23 + 9 * part)) * part for emoji, part in PARTS.items()}
        for emoji in RARE:
            taps[emoji] = 25 * random.random()
        for at, (emoji, most) in GOALS.items():
            taps[emoji] = taps.get(emoji, 0) + most * math.exp(-(((seconds - at) / 13) ** 2))
            taps["👏"] += 0.4 * most * math.exp(-(((seconds - at - 9) / 16) ** 2))
        events: list[dict[str, object]] = []
        for emoji, a_second in taps.items():
            left = int(a_second / 10 + random.random())
            while left > 0:
                events.append({
                    "user_id": f"u{random.randrange(5000)}", "emoji_type": emoji, "count": min(left, 4),
                    "timestamp": "2026-01-31T20:15:00Z",
                })  # fmt: skip
                left -= 4
        return events[:1000]


@contextmanager
def watching(port: int, viewers: int) -> Iterator[None]:
    """So many viewers of the streams on a port, who read what comes."""
    streams = [socket.create_connection(("127.0.0.1", port)) for _ in range(viewers)]

    def read(stream: socket.socket) -> None:
        stream.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while stream.recv(65_536):
            pass

    for stream in streams:
        threading.Thread(target=read, args=(stream,), daemon=True).start()
    try:
        yield
    finally:
        for stream in streams:
            stream.shutdown(socket.SHUT_RDWR)


def take_dashboard(directory: Path) -> None:
    """The operator's page of a whole system under load, some of which is slow or dies."""
    with tempfile.TemporaryDirectory() as data, ExitStack() as stack:
        environment = environment_for(Path(data) / "data")
        broker, settings = Broker(environment), load([], environment)
        stack.callback(broker.operate, "emostream", "down")
        broker.operate("emostream", "up")
        app = f"http://127.0.0.1:{settings.app_port}"
        crowd = Load(app)
        crowd.start()
        ports = [role.port for role in subscribers(settings)]
        clients = [stack.enter_context(http_client()) for _ in range(12)]
        for client, port in zip(clients, ports * 2, strict=False):
            assert call(f"http://127.0.0.1:{port}/register", {"client_url": client.url})[0] == 200
        for number in (1, 2, 3):
            stack.enter_context(watching(subscriber(settings, 1, number).addresses[1].port, 40))
        browser = stack.enter_context(Browser())
        browser.open(f"{app}/dashboard")
        time.sleep(max(0.0, LOAD_SECONDS - 70 - time.monotonic() + crowd.began))
        clients[1].status = 503  # which costs it its slot after 30 s
        time.sleep(20)
        clients[3].pause_seconds = 4.0
        [victim] = [one for one in Supervisor(settings).processes() if one.name == "subscriber_3_3"]
        time.sleep(20)
        os.kill(victim.pid, signal.SIGKILL)
        wait_until("it is named", lambda: "came back" in browser.text("#also"), timeout_seconds=60)
        wait_until("the slow one is named", lambda: "slow" in browser.text("#also"), timeout_seconds=60)
        time.sleep(20)  # the last minute is one without the killed one's past
        for name, width, scheme in (("dashboard", 1280, "light"), ("dashboard-phone", 400, "dark")):
            browser.prefer(prefers_color_scheme=scheme)
            browser.resize(width, 800)
            time.sleep(0.5)
            browser.resize(width, browser.js("document.documentElement.scrollHeight"))
            time.sleep(2)
            save(browser.screenshot(), directory, name)
        crowd.ended.set()


def take_viewer(directory: Path) -> None:
    """Every page of the viewers, in the light and in the dark, large and small."""
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
        browser.prefer(prefers_color_scheme="dark", prefers_reduced_motion="no-preference")
        with video_of(browser, 6) as url:
            for name, width, height in (("viewer-video", 1280, 720), ("viewer-video-phone", 400, 780)):
                browser.resize(width, height)
                browser.open(f"{system.url}/?room=final&video={url}")
                show_a_minute(system, browser)
                browser.js("document.getElementById('player').controls = false")  # they hide by themselves, later
                time.sleep(2)
                save(browser.screenshot(), directory, name)
        browser.resize(1280, 720)
        browser.prefer(prefers_color_scheme="light", prefers_reduced_motion="no-preference")
        browser.open(f"{system.url}/overlay?side=right&size=64")
        wait_until("its stream", system.serving)
        for number in range(3):
            system.send(batch(number, {emoji: round(900 * part) for emoji, part in PARTS.items()}))
            time.sleep(2)
        save(browser.screenshot(transparent=True), directory, "overlay")


CLUB = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Northside FC</title><style>
body { margin: 0; font: 17px/1.5 serif; color: #222 } header { background: #7b1e3b; color: #fff; padding: 14px 24px }
main { max-width: 960px; margin: 24px auto; padding: 0 16px } .picture { position: relative } video { width: 100% }
emo-reactions { position: absolute; top: 0; right: 0; bottom: 0; left: 0; --emo-card: #ffffffd9 }
emo-reactions::part(bar) { padding-bottom: 12px } emo-reactions::part(button) { height: 60px; border-radius: 30px }
</style><script type="module" src="APP/emo-reactions.js"></script><header>Northside FC</header>
<main><h1>Live: the final</h1><div class="picture"><video src="VIDEO" muted autoplay playsinline></video>
<emo-reactions src="APP" room="final"></emo-reactions></div>
<p>Tap an emoji: everybody who watches sees it.</p></main>"""


def take_element(directory: Path) -> None:
    """The element in a page of somebody else."""
    with fake_system() as system, Browser(1280, 760) as browser, video_of(browser, 6) as url:
        page = CLUB.replace("APP", system.url).replace("VIDEO", url).encode()
        with http_server(lambda _: Answer(200, page, {"Content-Type": "text/html"})) as club:
            browser.open(club.url.replace("127.0.0.1", "localhost"))
            wait_until("its stream", system.serving)
            for number in range(3):
                system.send(batch(number, {emoji: round(900 * part) for emoji, part in PARTS.items()}))
                time.sleep(2)
            save(browser.screenshot(), directory, "element")


def take_animation(directory: Path) -> None:
    """Eight seconds of the viewer's page with a video, after a goal."""
    with fake_system() as system, Browser(960, 520) as browser, video_of(browser, 20) as url:
        browser.prefer(prefers_color_scheme="dark")
        browser.open(f"{system.url}/?room=final&video={url}")
        show_a_minute(system, browser)
        browser.js("document.getElementById('player').controls = false")
        began, times = time.monotonic(), [0.0]
        frames: list[Image.Image] = []
        for number, taps in enumerate((1900, 2600, 4200, 3600)):
            system.send(batch(200 + number, {emoji: round(taps * part) for emoji, part in PARTS.items()})
                        | {"batched_ms": round(time.time() * 1000) - 2000})  # fmt: skip
            while times[-1] < 2 * (number + 1):
                taken = browser.cdp("Page.captureScreenshot", format="jpeg", quality=92, optimizeForSpeed=True)["data"]
                frames.append(Image.open(BytesIO(base64.b64decode(taken))))
                times.append(time.monotonic() - began)
        lengths = [round(1000 * (after - before)) for before, after in pairwise(times)]
        frames = [frame.convert("RGB").resize((720, 390), Image.Resampling.LANCZOS) for frame in frames]
        path = directory / "viewer.webp"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=lengths, loop=0, quality=60, method=6)
        print(path, path.stat().st_size // 1024, "KB,", len(frames), "frames")


if __name__ == "__main__":
    wanted = Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT_DIR / "docs"
    take_viewer(wanted)
    take_element(wanted)
    take_animation(wanted)
    take_dashboard(wanted)
