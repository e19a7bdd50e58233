"""<emo-reactions> in a page of another origin, under a strict policy, in a real Chromium."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from testkit.browser import Browser
from testkit.fake_system import FakeSystem, batch
from testkit.other_site import other_site
from testkit.settings import PROJECT_DIR
from testkit.video import video_of
from testkit.waiting import wait_until

# On a busy machine; clients/js/tests/picture.test.js has at most 0.1 s, by a clock of its own.
LATE_MS = 5_000


class Site:
    """A browser that opens pages of another site."""

    def __init__(self, browser: Browser, system: FakeSystem, stack: ExitStack) -> None:
        self.browser, self.system, self.stack = browser, system, stack
        self.url = ""

    def open(self, attributes: str = "") -> None:
        self.url = self.stack.enter_context(other_site(self.system.url, attributes))
        self.browser.open(self.url)
        self.wait("live")

    def wait(self, state: str) -> None:
        wait_until(f"the state {state}", lambda: self.browser.js("window.state") == state)

    def total(self, emoji: str) -> int:
        found: int = self.browser.js("totals[arguments[0]] || 0", emoji)
        return found

    def send(self, batch_id: int, events: int = 1) -> int:
        """A batch as subscribers send it, counted a moment ago; when its last tap was, in Unix milliseconds."""
        now_ms = round(time.time() * 1000)
        times = {"last_accepted_ms": now_ms - 300, "batched_ms": now_ms - 200, "pushed_ms": now_ms}
        self.system.send(batch(batch_id, {"🔥": events}) | times)
        return times["last_accepted_ms"]


@pytest.fixture
def site(browser: Browser, system: FakeSystem) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(browser, system, stack)


def test_taps_floats_and_totals_work_under_a_strict_policy(site: Site) -> None:
    site.open('room="final" key="secret" user="me" emojis="🔥 👏"')
    assert [button.text[:1] for button in site.browser.buttons()] == ["🔥", "👏"]
    site.browser.buttons()[1].click()
    assert site.browser.floated() == ["👏"]
    wait_until("the tap at the app", lambda: site.system.taps)
    assert [(tap["user_id"], tap["emoji_type"]) for tap in site.system.taps] == [("me", "👏")]
    assert (site.system.tap_rooms, site.system.authorizations) == (["final"], ["Bearer secret"])
    assert [one.asked_rooms for one in site.system.serving()] == [["final"]]
    site.system.send(batch(1, {"🔥": 5, "👏": 1, "🐍": 9}))
    wait_until("the batch floats", lambda: site.browser.floated().count("🔥") == 5)
    assert set(site.browser.floated()[1:]) == {"🔥"}
    assert (site.total("🔥"), site.total("👏"), site.total("🐍")) == (5, 1, 9)
    assert site.browser.js("getComputedStyle(inside('#floats')).position") == "absolute"
    assert site.browser.complaints() == []


def test_without_the_documented_origins_the_policy_forbids_it(site: Site) -> None:
    site.open()
    site.browser.js("document.querySelector('emo-reactions').setAttribute('src', 'http://192.0.2.1')")
    wait_until("a complaint", lambda: any("192.0.2.1" in said for said in site.browser.complaints()))


def test_an_attribute_may_change_at_any_time(site: Site) -> None:
    site.open('room="final"')
    site.browser.js("document.querySelector('emo-reactions').setAttribute('room', 'semifinal')")

    def asked_rooms() -> list[str]:
        return sorted(room for one in site.system.subscribers for room in one.asked_rooms)

    wait_until("the other room", lambda: asked_rooms() == ["final", "semifinal"])
    site.browser.js("document.querySelector('emo-reactions').setAttribute('emojis', '🏏')")
    wait_until("the button", lambda: [button.text[:1] for button in site.browser.buttons()] == ["🏏"])
    site.browser.js("document.querySelector('emo-reactions').tap('🏏')")
    wait_until("the tap at the app", lambda: site.system.tap_rooms == ["semifinal"])


def test_an_element_that_is_removed_ends_its_stream(site: Site) -> None:
    site.open()
    [serving] = site.system.serving()
    site.browser.js("document.querySelector('emo-reactions').remove()")
    wait_until("it ends", lambda: serving.write(":\n\n") or not site.system.serving())  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    ("mode", "visible"), [("both", ["bar", "floats"]), ("buttons", ["bar"]), ("floats", ["floats"])]
)
def test_a_mode_shows_only_that(site: Site, mode: str, visible: list[str]) -> None:
    site.open(f'mode="{mode}"')
    shown = "['bar', 'floats'].filter((id) => getComputedStyle(inside('#' + id)).display !== 'none')"
    assert site.browser.js(shown) == visible


def test_a_click_beside_the_buttons_goes_to_the_page(site: Site) -> None:
    site.open()
    assert site.browser.js("document.elementFromPoint(innerWidth / 2, 100).tagName") != "EMO-REACTIONS"
    assert (
        site.browser.js("document.elementFromPoint(innerWidth / 2, innerHeight * 0.9 - 40).tagName") == "EMO-REACTIONS"
    )


def test_the_keyboard_taps_only_while_the_focus_is_in_the_element(site: Site) -> None:
    site.open()
    ActionChains(site.browser).send_keys("2").send_keys(Keys.TAB).send_keys("3").send_keys(Keys.ENTER).perform()
    wait_until("the taps", lambda: len(site.system.taps) == 2)
    assert sorted(tap["emoji_type"] for tap in site.system.taps) == ["😊", "😍"]


def test_from_right_to_left_the_first_button_is_at_the_right(site: Site) -> None:
    site.open('dir="rtl"')
    site.browser.js("inside('button').click()")
    boxes = site.browser.js("[...inside('#buttons').children].map((button) => button.getBoundingClientRect().left)")
    assert boxes == sorted(boxes, reverse=True)
    wait_until("its place", lambda: site.browser.js("notes.places"))
    [place] = site.browser.js("notes.places")
    assert abs((place["left"] + place["right"]) / 2 - boxes[0]) < 150


AXE = PROJECT_DIR / ".data" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
VIOLATIONS = """const done = arguments[arguments.length - 1];
axe.run().then(({violations}) => done(violations.map(({id, nodes}) => id + " " + nodes.map((node) => node.html))))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_keeps_people_from_using_it(site: Site, scheme: str) -> None:
    site.browser.prefer(prefers_color_scheme=scheme)
    with video_of(site.browser) as video:
        site.open()
        pictures = [f"{site.system.url}/?video={url}" for url in (video, "http://127.0.0.1:1/match.webm")]
        for url in (site.url, site.system.url, *pictures):
            site.browser.open(url)
            wait_until("the buttons", site.browser.buttons)
            site.browser.js("inside('#notice').textContent = 'Not sent: expected an allowed emoji'")
            site.browser.execute_script(AXE.read_text())
            assert site.browser.execute_async_script(VIOLATIONS) == []


def test_a_killed_subscriber_costs_nothing(site: Site) -> None:
    site.open()
    site.send(1)
    wait_until("the batch", lambda: site.total("🔥") == 1)
    [first] = site.system.serving()
    first.kill()
    site.send(2)
    wait_until("the batch", lambda: site.total("🔥") == 2)
    assert site.browser.js("shown.map(([id]) => id)") == [1, 2]


@pytest.mark.parametrize("wrong_ms", [-600_000, 600_000])
def test_a_wrong_clock_of_the_viewer_makes_no_difference(site: Site, wrong_ms: int) -> None:
    script = site.browser.cdp(
        "Page.addScriptToEvaluateOnNewDocument",
        source=f"""const origin = performance.timeOrigin + {wrong_ms}, real = Date.now;
        Object.defineProperty(Performance.prototype, "timeOrigin", {{get: () => origin}});
        Date.now = () => real() + {wrong_ms};""",
    )
    try:
        now_ms = round(time.time() * 1000)
        for subscriber in site.system.subscribers:
            subscriber.past = [batch(1, {"🔥": 7}) | {"batched_ms": now_ms - 30_000, "pushed_ms": now_ms - 29_900}]
        site.browser.open(site.system.url)
        wait_until("the last minute", lambda: site.browser.text("#total") == "7")
        site.send(2, 5)
        wait_until("it floats", lambda: site.browser.floated().count("🔥") == 5)
        assert site.browser.text("#total") == "12"
    finally:
        site.browser.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])


def test_a_hidden_tab_that_comes_back_bursts_nothing(site: Site) -> None:
    site.open()
    site.browser.minimize_window()
    try:
        wait_until("it is hidden", lambda: site.browser.js("document.hidden"))
        for number in range(1, 21):
            site.send(number, 1000)
        wait_until("all are counted", lambda: site.total("🔥") == 20_000)
    finally:
        site.browser.set_window_rect(width=1280, height=800)
    wait_until("it is shown", lambda: not site.browser.js("document.hidden"))
    site.send(21, 3)
    wait_until("the new ones float", lambda: len(site.browser.floated()) >= 3)
    assert len(site.browser.floated()) == 3


def descendants(process: int) -> list[int]:
    """The processes that this one has started, and those that they have."""
    files = Path(f"/proc/{process}/task").glob("*/children")
    children = [int(child) for file in files for child in file.read_text().split()]
    return children + [one for child in children for one in descendants(child)]


def test_a_browser_that_slept_counts_all_and_bursts_nothing(site: Site) -> None:
    site.open()
    processes = descendants(site.browser.service.process.pid)
    assert len(processes) >= 3
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        for number in range(1, 31):
            site.send(number, 1000)
        time.sleep(6)  # longer than a batch is fresh
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
    wait_until("all are counted", lambda: site.total("🔥") == 30_000)
    assert site.browser.js("shown.map(([id]) => id)") == list(range(1, 31))
    site.send(31, 3)
    wait_until("the new ones float", lambda: len(site.browser.floated()) >= 3)
    assert len(site.browser.floated()) == 3


def test_twenty_tabs_have_one_stream_and_go_on_when_its_tab_ends(site: Site) -> None:
    site.open()
    tabs = [site.browser.current_window_handle]
    try:
        for _ in range(19):
            site.browser.switch_to.new_window("tab")
            site.browser.get(site.url)
            tabs.append(site.browser.current_window_handle)
        site.wait("live")
        site.send(1)

        def totals() -> list[int]:
            found = []
            for tab in tabs:
                site.browser.switch_to.window(tab)
                found.append(site.total("🔥"))
            return found

        wait_until("all have it", lambda: set(totals()) == {1})
        assert sum(len(subscriber.open_streams) for subscriber in site.system.subscribers) == 1
        assert sum(len(subscriber.resumed_with) for subscriber in site.system.subscribers) == 1
        site.browser.switch_to.window(tabs.pop(0))  # which has the stream
        site.browser.close()
        site.send(2)
        wait_until("all have it", lambda: set(totals()) == {2})
        resumed = [last for subscriber in site.system.subscribers for last in subscriber.resumed_with]
        assert [last.split("-")[1] for last in resumed if last] == ["1"]
    finally:
        for tab in tabs[1:]:
            site.browser.switch_to.window(tab)
            site.browser.close()
        site.browser.switch_to.window(tabs[0])


def test_nothing_is_shown_before_the_picture_has_come_to_it(site: Site) -> None:
    site.open('delay="auto" for="player"')
    site.browser.js("""(() => { let behind = 3000; window.seek = (ms) => { behind = ms; };
        const get = () => Date.now() - behind;
        Object.defineProperty(document.getElementById("player"), "programDateTime", {get}); })()""")
    sent = {}
    for number in range(1, 6):
        sent[number] = site.send(number)
        time.sleep(0.5)
    wait_until("the first batch", lambda: site.total("🔥") >= 1)
    wait_until("all of them", lambda: site.total("🔥") == 5)
    late = [shown - sent[number] - 3000 for number, shown in site.browser.js("shown")]
    assert all(-20 <= ms <= LATE_MS for ms in late), late
    site.browser.js("seek(600000)")  # ten minutes back
    site.send(6, 1)
    time.sleep(1)
    assert site.total("🔥") == 5
    site.browser.js("seek(0)")
    wait_until("it is shown", lambda: site.total("🔥") == 6)


def test_a_fixed_delay_is_kept(site: Site) -> None:
    site.open('delay="2"')
    sent = site.send(1)
    wait_until("the batch", lambda: site.total("🔥") == 1)
    [[_, shown]] = site.browser.js("shown")
    assert 2000 <= shown - sent <= 2000 + LATE_MS
