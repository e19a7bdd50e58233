"""The viewer's page in a real Chromium. A test decides what the subscribers send."""

from __future__ import annotations

import re
import time
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from emostream.settings import SEED_EMOJIS
from testkit.browser import Browser, luminance, module
from testkit.fake_system import FakeSystem, batch, fake_system
from testkit.http_calls import call
from testkit.video import video_of
from testkit.waiting import wait_until


@pytest.fixture
def page(browser: Browser, system: FakeSystem) -> Browser:
    """The page, with its stream open."""
    browser.open(system.url)
    browser.wait_live()
    return browser


def wait_batches(page: Browser, *expected: int) -> None:
    wait_until(f"batches {expected}", lambda: len(page.batches()) >= len(expected))
    assert page.batches() == list(expected)


# --- taps ---


def test_a_tap_floats_at_once_and_taps_of_half_a_second_are_sent_together(page: Browser, system: FakeSystem) -> None:
    # In one script, because a few calls of a browser may take longer than the half second.
    page.js("[1, 1, 1, 4].forEach((place) => inside(`button:nth-child(${place})`).click())")
    assert page.floated() == ["😊", "😊", "😊", "🔥"]
    wait_until("the taps at the app", lambda: system.taps)
    assert system.posts == 1
    assert [(tap["emoji_type"], tap.get("count", 1)) for tap in system.taps] == [("😊", 3), ("🔥", 1)]
    assert len({tap["user_id"] for tap in system.taps}) == 1
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", tap["timestamp"]) for tap in system.taps)


def test_the_buttons_are_the_emojis_that_the_host_allows(browser: Browser) -> None:
    allowed = [chr(0x1F600 + number) for number in range(12)]
    with fake_system(EMOJIS=",".join(allowed)) as system:
        browser.open(system.url)
        wait_until("the buttons", browser.buttons)
        assert [button.get_attribute("value") for button in browser.buttons()] == allowed


def test_the_viewers_own_taps_do_not_float_again_with_their_batch(page: Browser, system: FakeSystem) -> None:
    page.buttons()[0].click()
    system.send(batch(1, {"😊": 1, "🔥": 2}))
    wait_until("the others' emojis", lambda: page.floated().count("🔥") == 2)
    assert page.floated().count("😊") == 1
    assert page.text("#total") == "3"


def test_taps_that_the_app_cannot_accept_now_are_sent_later(page: Browser, system: FakeSystem) -> None:
    system.answer = (503, {"error": "try again"})
    page.buttons()[1].click()
    wait_until("the viewer is told", lambda: "follow" in page.text("#notice"))
    system.answer = (200, {"status": "success", "rejected": []})
    wait_until("the tap at the app", lambda: system.taps)
    assert [tap["emoji_type"] for tap in system.taps] == ["😂"]
    wait_until("the viewer is told no more", lambda: not page.text("#notice"))


def test_a_refusal_is_shown_in_the_words_of_the_app(page: Browser, system: FakeSystem) -> None:
    system.answer = (429, {"error": "expected at most 10/second of a user, got more"})
    page.buttons()[1].click()
    wait_until("the viewer is told", lambda: "expected at most 10/second" in page.text("#notice"))
    system.answer = (200, {"rejected": [{"index": 0, "error": "emoji_type: expected an allowed emoji"}]})
    page.buttons()[1].click()
    wait_until("the viewer is told", lambda: "expected an allowed emoji" in page.text("#notice"))


def test_a_room_in_the_address_is_tapped_in_watched_and_named(browser: Browser, system: FakeSystem) -> None:
    browser.open(f"{system.url}/?room=final")
    browser.wait_live()
    browser.buttons()[0].click()
    wait_until("the tap at the app", lambda: system.tap_rooms == ["final"])
    assert [one.asked_rooms for one in system.serving()] == [["final"]]
    assert browser.text("#room") == "final"
    browser.open(system.url)
    browser.wait_live()
    browser.buttons()[0].click()
    wait_until("a tap without a room", lambda: system.posts == 2)
    assert system.tap_rooms == ["final"]
    assert [room for one in system.subscribers for room in one.asked_rooms] == ["final"]


def test_a_room_that_cannot_be_one_stays_text_and_is_refused_once_with_the_reason(
    browser: Browser, system: FakeSystem
) -> None:
    for subscriber in system.subscribers:
        subscriber.refusal = "room: expected 1 to 64 of these, got <img src=x onerror=window.smuggled=1>"
    browser.open(f"{system.url}/?room=%3Cimg%20src=x%20onerror=window.smuggled=1%3E")
    wait_until("it is told", lambda: browser.text("#notice").startswith("room: expected 1 to 64"))
    assert browser.text("#state") == "Refused"
    assert browser.text("#room") == "<img src=x onerror=window.smuggled=1>"
    assert browser.js("window.smuggled") is None
    time.sleep(1)  # in which a page that tries again would have done so
    assert sum(len(one.asked_rooms) for one in system.subscribers) == 1


def test_a_key_in_the_address_is_sent_only_to_the_app(browser: Browser, system: FakeSystem) -> None:
    browser.open(f"{system.url}/#key=secret")
    browser.wait_live()
    browser.buttons()[0].click()
    wait_until("the tap at the app", lambda: system.taps)
    assert system.authorizations == ["Bearer secret"]


# --- batches ---


def test_the_emojis_of_a_batch_are_spread_until_the_next_one_and_bounded(page: Browser, system: FakeSystem) -> None:
    system.send(batch(0, {"😊": 700_000, "🔥": 300_000, "👏": 1}))
    wait_until("the whole batch", lambda: len(page.floated()) == 32)
    times = page.js("notes.times")
    assert 1500 < times[-1] - times[0] < 8000  # about 2 s, and more only where the machine stalls
    assert max(page.floated().index(emoji) for emoji in "😊🔥") < 20
    assert page.floated().count("😊") > page.floated().count("🔥") > page.floated().count("👏") >= 1
    for number in range(1, 7):
        system.send(batch(number, {"😊": 700_000}))
    wait_until("a full screen", lambda: page.js("notes.most") == 70)
    wait_until("all batches", lambda: len(page.batches()) == 7)
    assert page.js("notes.most") <= 70


SHARES: list[tuple[dict[str, int], int, dict[str, int]]] = [
    ({}, 10, {}),
    ({"a": 3, "b": 1}, 10, {"a": 3, "b": 1}),
    ({"a": 0, "b": 2}, 10, {"b": 2}),
    ({"a": 900, "b": 100}, 12, {"a": 10, "b": 2}),
    ({"a": 10**9, "b": 1}, 10, {"a": 9, "b": 1}),
    ({"a": 5, "b": 4, "c": 3}, 2, {"a": 1, "b": 1}),
]


@pytest.mark.parametrize(("events", "limit", "expected"), SHARES)
def test_a_batch_is_shown_completely_or_in_proportion(
    page: Browser, system: FakeSystem, events: dict[str, int], limit: int, expected: dict[str, int]
) -> None:
    counts = [{"emoji": emoji, "events": number} for emoji, number in events.items()]
    shown = module(page, "../emo-reactions.js", "m.share(arguments[0], arguments[1])", counts, limit)
    assert {emoji: shown.count(emoji) for emoji in shown} == expected


def test_totals_are_the_sums_of_the_batches_the_highest_first(page: Browser, system: FakeSystem) -> None:
    system.send(batch(1, {"😊": 1200, "🔥": 30}))
    system.send(batch(2, {"🔥": 2000}))
    wait_batches(page, 1, 2)
    assert page.text("#total") == "3,230"
    rows = page.js("[...document.querySelectorAll('#shares li')].map((li) => li.innerText.replaceAll('\\n', ' '))")
    assert rows == ["🔥 2,030", "😊 1,200"]


def test_whoever_comes_late_sees_the_last_minute_at_once_and_counts_nothing_twice(
    browser: Browser, system: FakeSystem
) -> None:
    # 40 s of it: were it the whole minute, the first ones would be over before a slow browser has shown them.
    now_ms = round(time.time() * 1000)
    times = [now_ms - 2000 * (20 - n) for n in range(20)]
    past = [batch(n, {"😊": 600, "🔥": n}) | {"batched_ms": ms, "pushed_ms": ms + 900} for n, ms in enumerate(times)]
    for subscriber in system.subscribers:
        subscriber.past = past
    browser.open(system.url)
    wait_until("the last minute", lambda: browser.text("#total") == f"{20 * 600 + sum(range(20)):,}")
    assert not browser.js("document.getElementById('quiet').checkVisibility()")
    heights = re.findall(
        r"[\d.]+ ([\d.]+)(?= C|$)", browser.js("document.querySelector('#chart .line').getAttribute('d')")
    )
    assert sum(float(height) < 60 for height in heights) > 16
    assert set(browser.floated()) <= {"😊", "🔥"}
    wait_until("the newest batch floats", browser.floated)
    system.serving()[0].kill()
    wait_until("another stream", lambda: any(one.resumed_with for one in system.serving()))
    browser.wait_live()
    system.send(batch(29, {"😊": 1}) | {"batched_ms": now_ms})
    wait_batches(browser, 29)
    assert browser.text("#total") == f"{20 * 600 + sum(range(20)) + 1:,}"


def test_the_page_says_that_nobody_has_reacted_only_when_it_knows(browser: Browser) -> None:
    is_shown = "document.getElementById('quiet').checkVisibility()"
    with fake_system((1,), room=0) as system:
        browser.open(system.url)
        wait_until("all places are taken", lambda: browser.text("#state").startswith("Full"))
        assert not browser.js(is_shown)
    with fake_system((1,)) as system:
        browser.open(system.url)
        browser.wait_live()
        wait_until("it is known", lambda: browser.js(is_shown))


def test_events_older_than_a_minute_no_longer_count(page: Browser, system: FakeSystem) -> None:
    script = """(() => { const minute = new m.LastMinute();
        minute.add([{emoji: "😊", events: 5}], 1000); minute.add([{emoji: "🔥", events: 7}], 41000);
        return [41000, 59000, 62000, 103000].map((now) => minute.at(now).total); })()"""
    assert module(page, "last_minute.js", script) == [12, 12, 7, 0]


# --- the connection ---


def test_the_page_resumes_in_the_same_cluster_after_exactly_what_it_has_seen(page: Browser, system: FakeSystem) -> None:
    [first] = system.serving()
    system.send(batch(1, {"😊": 1}))
    wait_batches(page, 1)
    first.kill()
    system.send(batch(2, {"😊": 1}))  # while it is away
    wait_until("another stream", lambda: system.serving() not in ([], [first]))
    page.wait_live()
    system.send(batch(3, {"😊": 1}))
    wait_batches(page, 1, 2, 3)
    [second] = system.serving()
    assert second.resumed_with == [f"{first.cluster}-1-1"]
    same = [one for one in system.subscribers if one.cluster == first.cluster and one is not first]
    assert not same or second in same


def test_batches_missed_before_the_first_one_are_sent_again(page: Browser, system: FakeSystem) -> None:
    [first] = system.serving()
    first.kill()
    system.send(batch(1, {"😊": 1}))
    wait_batches(page, 1)


def test_all_parts_of_a_batch_are_shown(page: Browser, system: FakeSystem) -> None:
    [serving] = system.serving()
    serving.send(batch(1, {"😊": 1}), "1-1-1.0.0")
    serving.send(batch(1, {"🔥": 1}), "1-1-1.1.0")
    wait_batches(page, 1, 1)
    assert page.text("#total") == "2"


def test_a_page_that_is_left_frees_its_stream_and_resumes_when_it_is_shown_again(
    page: Browser, system: FakeSystem
) -> None:
    system.send(batch(1, {"😊": 1}))
    wait_batches(page, 1)

    def noticed() -> bool:
        for subscriber in system.serving():
            subscriber.write(":\n\n")  # a fake notices only when it writes that a viewer has gone
        return not system.serving()

    page.get("about:blank")
    wait_until("the place is free", noticed)
    system.send(batch(2, {"😊": 1}))
    page.back()
    page.wait_live()
    system.send(batch(3, {"😊": 1}))
    wait_until("the newest batch", lambda: page.batches()[-1:] == [3])
    assert page.batches() in ([1, 2, 3], [3])  # depending on whether the browser kept the page or loaded it again


def test_a_gap_is_shown(page: Browser, system: FakeSystem) -> None:
    [serving] = system.serving()
    serving.write('event: gap\ndata: {"reason": "what happened since is no longer kept"}\n\n')
    wait_until("the reason", lambda: "no longer kept" in page.text("#notice"))


def test_the_state_says_when_no_stream_is_free_and_when_one_is_again(browser: Browser) -> None:
    with fake_system((1,), room=0) as system:
        [only] = system.subscribers
        browser.open(system.url)
        wait_until("all places are taken", lambda: browser.text("#state").startswith("Full"))
        only.room = 100
        wait_until("the app knows", lambda: call(f"{system.url}/subscribers")[1]["subscribers"][0]["available_streams"])
        browser.js("window.dispatchEvent(new Event('online'))")  # makes the page try at once
        wait_until("it is live", lambda: browser.text("#state") == "Live")
        only.kill()
        wait_until("it reconnects", lambda: browser.text("#state") == "Reconnecting…")


def test_viewers_are_spread_with_a_preference_for_the_least_loaded(page: Browser, system: FakeSystem) -> None:
    listed = [
        {"stream_url": "a", "alive": True, "cluster": 1, "streams": 10, "available_streams": 5},
        {"stream_url": "b", "alive": True, "cluster": 1, "streams": 11, "available_streams": 5},
        {"stream_url": "c", "alive": True, "cluster": 2, "streams": 500, "available_streams": 5},
        {"stream_url": "d", "alive": True, "cluster": 2, "streams": 500, "available_streams": 0},
        {"stream_url": "e", "alive": False, "cluster": 2, "streams": 0, "available_streams": 5},
        {"stream_url": None, "alive": True, "cluster": 2, "streams": 0, "available_streams": 5},
    ]
    chosen = module(
        page, "../emo-reactions.js", "Array.from({length: 900}, () => m.choose(arguments[0]).stream_url)", listed
    )
    times = {url: chosen.count(url) for url in set(chosen)}
    assert set(times) == {"a", "b", "c"}
    assert times["a"] > times["b"] > times["c"] > 0
    near = "m.choose(arguments[0], {cluster: 2}).stream_url"
    assert module(page, "../emo-reactions.js", near, listed) == "c"
    avoiding = "m.choose(arguments[0], {cluster: 2, avoid: new Set(['c', 'b'])}).stream_url"
    assert module(page, "../emo-reactions.js", avoiding, listed) == "a"


# --- with a picture ---


def boxes(page: Browser, *selectors: str) -> list[dict[str, float]]:
    """Where these are in the window; those after the first, inside the element."""
    there = "(document.querySelector(name) || inside(name)).getBoundingClientRect().toJSON()"
    found: list[dict[str, float]] = page.js(f"arguments[0].map((name) => {there})", selectors)
    return found


@pytest.mark.parametrize(("width", "height"), [(320, 700), (400, 780), (844, 390), (1280, 800), (1366, 620)])
def test_the_emojis_float_over_the_picture(browser: Browser, system: FakeSystem, width: int, height: int) -> None:
    with video_of(browser) as url:
        browser.resize(width, height)
        browser.complaints()
        browser.open(f"{system.url}/?room=final&video={url}")
        browser.wait_live()
        wait_until("it plays", lambda: browser.js("document.getElementById('player').currentTime > 0"))
        system.send(batch(1, dict.fromkeys(SEED_EMOJIS, 123_456_789)))
        wait_until("the emojis", lambda: len(browser.js("notes.places")) >= 3)
    picture, floats, bar, chart = boxes(browser, "#player", "#floats", "#bar", ".minute")
    assert (width, height) == (844, 390) or picture["width"] / picture["height"] == pytest.approx(16 / 9, abs=0.01)
    assert (floats["left"], floats["top"], floats["right"]) == pytest.approx(
        (picture["left"], picture["top"], picture["right"]), abs=1
    )
    assert bar["top"] == pytest.approx(picture["bottom"], abs=1)
    assert bar["bottom"] <= height
    assert chart["top"] >= bar["bottom"] or chart["left"] >= picture["right"]
    assert browser.js("document.scrollingElement.scrollWidth") <= width
    assert browser.js("document.elementFromPoint(innerWidth / 4, 120).id") == "player"  # its controls can be reached
    for place in browser.js("notes.places"):
        assert picture["left"] <= place["left"] < picture["right"]
    assert browser.complaints() == []


def test_a_picture_of_another_origin_than_that_of_the_address_is_forbidden(
    browser: Browser, system: FakeSystem
) -> None:
    with video_of(browser) as url:
        browser.open(f"{system.url}/?video={url}")
        wait_until("it is there", lambda: browser.js("document.getElementById('player').readyState > 0"))
        assert browser.complaints() == []
        browser.js("document.getElementById('player').src = 'http://192.0.2.1/match.webm'")
        wait_until("it is refused", lambda: any("violates" in said for said in browser.complaints()))


def test_the_page_says_why_there_is_no_picture(browser: Browser, system: FakeSystem) -> None:
    with video_of(browser) as url:
        browser.open(f"{system.url}/?video={url.replace('match', 'nothing')}")
        wait_until("the reason", lambda: browser.js("document.querySelector('.no-picture')"))
    assert browser.text(".no-picture").startswith("The picture cannot be played")
    assert not browser.js("document.getElementById('player')")
    browser.wait_live()


@pytest.mark.parametrize(("answer", "shown"), [("", "cannot play HLS"), ("maybe", "")])
def test_hls_is_left_to_browsers_that_have_it(browser: Browser, system: FakeSystem, answer: str, shown: str) -> None:
    script = browser.cdp(
        "Page.addScriptToEvaluateOnNewDocument",
        source=f"HTMLMediaElement.prototype.canPlayType = () => '{answer}'; window.asked = [];"
        "Object.defineProperty(HTMLMediaElement.prototype, 'src', {set(url) { asked.push(url); }});",
    )
    try:
        browser.open(f"{system.url}/?video=https://video.example/final.m3u8?token=1")
        wait_until("the picture", lambda: browser.js("document.querySelector('.picture')?.childElementCount"))
        assert shown in browser.js("document.querySelector('.picture').textContent")
        assert browser.js("asked") == ([] if shown else ["https://video.example/final.m3u8?token=1"])
    finally:
        browser.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])


def test_a_delay_in_the_address_holds_back_what_is_shown_and_moves_the_chart(
    browser: Browser, system: FakeSystem
) -> None:
    browser.open(f"{system.url}/?delay=3")
    browser.wait_live()
    now_ms = round(time.time() * 1000)
    system.send(batch(1, {"🔥": 5}) | {"batched_ms": now_ms, "last_accepted_ms": now_ms, "pushed_ms": now_ms})
    wait_batches(browser, 1)
    assert time.time() * 1000 - now_ms >= 3000
    height = re.findall(r" ([\d.]+)", browser.js("document.querySelector('#chart .line').getAttribute('d')"))[-1]
    assert float(height) < 60  # the newest end of the chart has it


# --- for everybody ---


def test_the_page_asks_only_this_host_and_the_browser_does_not_complain(page: Browser, system: FakeSystem) -> None:
    page.buttons()[0].click()
    system.send(batch(1, {"😊": 1}))
    wait_batches(page, 1)
    wait_until("the tap at the app", lambda: system.taps)
    hosts = {f"127.0.0.1:{system.port}"} | {f"127.0.0.1:{subscriber.port}" for subscriber in system.subscribers}
    assert page.requested_hosts() <= hosts
    assert page.complaints() == []


def test_the_page_uses_the_host_name_by_which_the_browser_reached_the_app(browser: Browser, system: FakeSystem) -> None:
    browser.open(system.url.replace("127.0.0.1", "localhost"))
    browser.wait_live()
    assert {urlsplit(f"//{host}").hostname for host in browser.requested_hosts()} == {"localhost"}


def test_an_injected_script_does_not_run(page: Browser) -> None:
    page.js("""(() => { const script = document.createElement("script");
        script.textContent = "window.smuggled = 1"; document.body.append(script); })()""")
    page.js("fetch('http://192.0.2.1/').catch(() => 0) && 0")
    assert page.js("window.smuggled") is None
    found: list[str] = []  # each complaint is told once

    def complaints() -> int:
        found.extend(page.complaints())
        return len(found)

    wait_until("both are refused", lambda: complaints() >= 2)


def test_everything_can_be_done_with_the_keyboard(page: Browser, system: FakeSystem) -> None:
    keys = ActionChains(page)
    keys.send_keys(Keys.TAB).perform()
    assert page.js("document.activeElement.shadowRoot.activeElement.value") == SEED_EMOJIS[0]
    assert page.js("getComputedStyle(document.activeElement.shadowRoot.activeElement).outlineStyle") == "solid"
    keys.send_keys(Keys.ENTER).send_keys(Keys.TAB).send_keys(Keys.SPACE).send_keys("4").perform()
    wait_until("the taps at the app", lambda: len(system.taps) >= 3)
    assert sorted(tap["emoji_type"] for tap in system.taps) == sorted([SEED_EMOJIS[0], SEED_EMOJIS[1], SEED_EMOJIS[3]])
    assert page.floated() == [SEED_EMOJIS[0], SEED_EMOJIS[1], SEED_EMOJIS[3]]


def test_a_key_that_is_held_down_is_one_tap(page: Browser) -> None:
    page.buttons()[0].send_keys("")
    for repeated in (False, True, True):
        for key, code, text in (("4", "Digit4", "4"), ("Enter", "Enter", "\r")):
            page.cdp("Input.dispatchKeyEvent", type="keyDown", key=key, code=code, text=text, autoRepeat=repeated)
    assert page.floated().count("🔥") == 1
    assert page.floated().count("😊") <= 1


def test_without_motion_the_numbers_light_up_instead(browser: Browser, system: FakeSystem) -> None:
    browser.prefer(prefers_reduced_motion="reduce")
    browser.open(system.url)
    browser.wait_live()
    browser.buttons()[0].click()
    # Noted by the page itself: the light is over after a second.
    browser.js("""(() => { window.lit = 0; document.addEventListener("emo-batch", () => setTimeout(() => {
        const numbers = [...document.querySelectorAll("#shares .number")];
        lit = numbers.filter((number) => number.getAnimations().length).length;
    })); })()""")
    system.send(batch(1, {"😊": 500, "🔥": 100}))
    wait_batches(browser, 1)
    wait_until("both numbers light up", lambda: browser.js("lit") == 2)
    assert browser.text("#total") == "600"
    wait_until("the tap at the app", lambda: system.taps)
    assert browser.floated() == []


def test_a_screen_reader_is_told_the_totals_now_and_then(page: Browser, system: FakeSystem) -> None:
    page.js("""(() => { window.told = []; const summary = document.getElementById("summary");
        new MutationObserver(() => told.push(summary.textContent)).observe(summary, {childList: true}); })()""")
    system.send(batch(1, {"😊": 1200, "🔥": 2000}))
    wait_until("a summary", lambda: page.js("told.length"))
    assert page.js("told") == ["3200 reactions in the last minute: 🔥 2000, 😊 1200."]
    assert page.js("document.getElementById('summary').ariaLive") == "polite"
    assert page.js("inside('#floats').ariaHidden") == "true"


@pytest.mark.parametrize("width", [320, 400, 1280])
def test_everything_fits_whatever_the_width(page: Browser, system: FakeSystem, width: int) -> None:
    page.resize(width, 700)
    system.send(batch(1, dict.fromkeys(SEED_EMOJIS, 123_456_789)))
    wait_batches(page, 1)
    assert page.js("document.scrollingElement.scrollWidth") <= width
    boxes = page.js("[...inside('#buttons').children].map((button) => button.getBoundingClientRect().toJSON())")
    for box in boxes:
        assert box["left"] >= 0
        assert box["right"] <= width
        assert box["bottom"] <= 700
        assert min(box["width"], box["height"]) >= 44


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark_mode(browser: Browser, system: FakeSystem, scheme: str) -> None:
    browser.prefer(prefers_color_scheme=scheme)
    browser.open(system.url)
    color = "getComputedStyle(document.documentElement).getPropertyValue(arguments[0]).trim()"
    backgrounds = [luminance(browser.js(color, name)) for name in ("--page", "--card")]
    for name in ("--text", "--muted", "--bad", "--accent"):
        for background in backgrounds:
            lighter, darker = sorted((luminance(browser.js(color, name)), background), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, name
    assert (max(backgrounds) < 0.1) == (scheme == "dark")
