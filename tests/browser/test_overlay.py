"""The overlay in a real Chromium: what broadcast software lays over its picture."""

from __future__ import annotations

import pytest
from PIL import Image

from testkit.browser import Browser
from testkit.fake_system import FakeSystem, batch, fake_system
from testkit.waiting import wait_until


def opened(browser: Browser, system: FakeSystem, query: str = "") -> None:
    browser.open(f"{system.url}/overlay{query}")
    wait_until("its stream", system.serving)


def wait_floated(browser: Browser, least: int) -> list[str]:
    wait_until(f"{least} emojis", lambda: len(browser.floated()) >= least)
    return browser.floated()


def test_the_overlay_is_transparent_except_for_the_emojis(browser: Browser, system: FakeSystem) -> None:
    opened(browser, system)
    empty = browser.screenshot(transparent=True)
    assert empty.getchannel("A").getextrema() == (0, 0)
    system.send(batch(1, {"😊": 5000}))
    wait_floated(browser, 10)

    pictures: list[Image.Image] = []

    def painted() -> bool:
        pictures.append(browser.screenshot(transparent=True).getchannel("A"))
        return pictures[-1].getextrema() == (0, 255)

    wait_until("an emoji is painted, and beside it nothing", painted)
    alpha = pictures[-1]
    assert alpha.histogram()[0] > 0.5 * alpha.width * alpha.height
    assert set(browser.text("emo-reactions") + browser.js("inside('#floats').textContent")) == {"😊"}
    assert browser.complaints() == []


def test_without_a_stream_the_overlay_stays_empty(browser: Browser, system: FakeSystem) -> None:
    for subscriber in system.subscribers:
        subscriber.kill()
    browser.open(f"{system.url}/overlay")
    wait_until("it has asked", lambda: any("/subscribers" in url for url in requested(browser)))
    assert browser.js("document.body.innerText.trim()") == ""
    assert browser.screenshot(transparent=True).getchannel("A").getextrema() == (0, 0)


def requested(browser: Browser) -> list[str]:
    urls: list[str] = browser.js("performance.getEntriesByType('resource').map((entry) => entry.name)")
    return urls


def test_the_query_sets_side_size_speed_and_emojis(browser: Browser, system: FakeSystem) -> None:
    opened(browser, system, "?size=100&speed=2&side=right&set=🔥,👏")
    system.send(batch(1, {"😊": 3, "🔥": 3, "👏": 3}))
    assert set(wait_floated(browser, 6)) == {"🔥", "👏"}
    wait_until("their places", lambda: len(browser.js("notes.places")) == 6)
    assert all(place["left"] > 1280 * 0.7 for place in browser.js("notes.places"))
    sizes = "[...inside('#floats').children].map((node) => parseFloat(node.style.fontSize))"
    assert all(75 <= size <= 135 for size in browser.js(sizes))
    durations = """inside('#floats').getAnimations({subtree: true}).map(({effect}) => {
        const offsets = effect.getKeyframes().map((frame) => frame.offset);  // from the start to the top, and a rest
        return effect.getTiming().duration * (offsets[offsets.length - 2] - offsets[offsets.length - 7]);
    })"""
    assert all(1600 <= duration <= 2400 for duration in browser.js(durations))


def test_emojis_can_rise_on_the_left_side(browser: Browser, system: FakeSystem) -> None:
    opened(browser, system, "?side=left")
    system.send(batch(1, {"😊": 8}))
    wait_floated(browser, 8)
    assert all(place["right"] < 1280 * 0.35 for place in browser.js("notes.places"))


@pytest.mark.parametrize(
    ("wanted", "tapped", "expected"),
    [
        ("❤", "❤️", "❤️"),
        ("❤️", "❤", "❤️"),
        ("❤︎", "❤", "❤️"),
        ("%E2%9D%A4", "❤️", "❤️"),
        ("%E2%9D%A4%EF%B8%8F%2C%F0%9F%94%A5", "❤", "❤️"),
        (" 🔥 , ❤,", "❤️", "❤️"),
        ("❤️,❤,❤️", "❤️", "❤️"),
        ("👍", "👍🏽", "👍"),
        ("👍🏿", "👍", "👍"),
        ("👩‍🚀", "👩🏽‍🚀", "👩‍🚀"),
        ("🦕,nonsense,❤", "❤️", "❤️"),
        ("🇮🇳", "🇮🇳", "🇮🇳"),
        ("#️⃣", "#⃣", "#️⃣"),
    ],
)
def test_an_emoji_of_the_query_is_found_however_it_is_spelled(
    browser: Browser, wanted: str, tapped: str, expected: str
) -> None:
    with fake_system((1,), EMOJIS="❤️,👍,👏") as system:
        opened(browser, system, f"?set={wanted.replace('#', '%23')}")
        system.send(batch(1, {tapped: 2, "👏": 3}))
        assert wait_floated(browser, 2) == [expected] * 2
        system.send(batch(2, {"❤️": 1, "❤": 1, "👍🏻": 1, "👍🏿": 1}))
        if expected in ("❤️", "👍"):
            assert wait_floated(browser, 4) == [expected] * 4


def test_the_custom_css_of_obs_applies(browser: Browser, system: FakeSystem) -> None:
    opened(browser, system)
    browser.js("""(() => { const style = document.createElement("style");
        style.innerHTML = "body { background-color: rgba(0, 0, 0, 0.5); }"; document.head.appendChild(style); })()""")
    assert browser.js("getComputedStyle(document.body).backgroundColor") == "rgba(0, 0, 0, 0.5)"
    assert browser.complaints() == []


def test_the_query_names_the_room(browser: Browser, system: FakeSystem) -> None:
    browser.open(f"{system.url}/overlay?room=final")
    wait_until("its stream", system.serving)
    assert [one.asked_rooms for one in system.serving()] == [["final"]]


def test_nonsense_in_the_query_is_ignored(browser: Browser, system: FakeSystem) -> None:
    opened(browser, system, "?size=huge&speed=-&side=up&set=,")
    system.send(batch(1, {"😊": 6, "🔥": 2}))
    assert set(wait_floated(browser, 8)) == {"😊", "🔥"}
    sizes = "[...inside('#floats').children].map((node) => parseFloat(node.style.fontSize))"
    assert all(50 <= size <= 100 for size in browser.js(sizes))
