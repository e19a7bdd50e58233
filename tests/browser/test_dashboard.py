"""The operator's page in a real Chromium. A test decides the numbers of the system."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from testkit.browser import Browser, luminance, module
from testkit.fake_dashboard import FakeApp, FakeNumbers, fake_app, timeline, with_clients
from testkit.waiting import wait_until

HOSTILE = "http://10.0.0.7:8001/<img src=x onerror=window.smuggled=1>\"'&"
PARTS = {"🔥": 0.5, "😊": 0.3, "👏": 0.1}
JUDGE = """(() => { const all = new m.Answers(); for (const one of arguments[0]) all.add(one);
    return m.judge(m.figuresOf(all, new Set(arguments[1]))); })()"""


def first_rate(page: Browser) -> str | None:
    """The rate of incoming events, as the page shows it."""
    found: str | None = page.js("document.querySelector('#hops b')?.textContent")
    return found


@pytest.fixture
def app() -> Iterator[FakeApp]:
    with fake_app() as found:
        yield found


@pytest.fixture
def page(browser: Browser, app: FakeApp) -> Browser:
    """The page after two answers."""
    browser.open(app.url)
    wait_until("two answers", lambda: first_rate(browser) == "500")
    return browser


@pytest.fixture(scope="module")
def silent_app() -> Iterator[FakeApp]:
    with fake_app() as found:
        found.status = 503
        yield found


@pytest.fixture
def scripts(browser: Browser, silent_app: FakeApp) -> Browser:
    """The page's modules, on a page that gets no answers."""
    browser.open(silent_app.url)
    return browser


def judged(scripts: Browser, numbers: FakeNumbers, answers: list[dict[str, Any]], seen: tuple[str, ...] = ()) -> Any:
    """What the page says about these answers."""
    source = scripts.js("document.querySelector('script[type=module]').src").rsplit("/", 1)[0]
    return scripts.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "Promise.all(['rates', 'figures', 'what_is_slow'].map((name) => import(`${arguments[2]}/${name}.js`)))"
        f".then((modules) => {{ const m = Object.assign({{}}, ...modules); done({JUDGE}); }})",
        answers, list(seen), source,
    )  # fmt: skip


# --- the sentence ---


def busy() -> FakeNumbers:
    return with_clients(FakeNumbers(), "subscriber_1_1", "subscriber_2_1")


def quiet(numbers: FakeNumbers) -> None:
    numbers.events = 0


def late_by_push(numbers: FakeNumbers) -> None:
    numbers.latencies = {"batch": 1.2, "route": 0.04, "push": 7.0}


def aggregate_behind(numbers: FakeNumbers) -> None:
    numbers.series("main_publisher")["emostream_aggregate_lag_events"] = 12_000


def one_cluster_behind(numbers: FakeNumbers) -> None:
    numbers.series("cluster_publisher_2")["emostream_route_lag_records"] = 400


def broker_away(numbers: FakeNumbers) -> None:
    numbers.series("app").update(emostream_ingest_broker_away=1, emostream_ingest_buffered=4321)


def process_down(numbers: FakeNumbers) -> None:
    numbers.processes["cluster_publisher_2"] |= {"state": "BACKOFF", "page": None, "uptime_seconds": 0}


def not_ready(numbers: FakeNumbers) -> None:
    for name in ("main_publisher", "subscriber_1_1", "subscriber_1_2"):
        numbers.processes[name] |= {"ready": False, "reason": "its topic cannot be read"}
    numbers.processes["main_publisher"]["reason"] = "no micro-batch for 31 s"


def two_without_answer(numbers: FakeNumbers) -> None:
    for name in ("subscriber_1_1", "subscriber_1_2"):
        numbers.processes[name]["page"] = None


def publisher_hangs(numbers: FakeNumbers) -> None:
    numbers.stuck = {"main_publisher"}


def one_subscriber_hangs(numbers: FakeNumbers) -> None:
    numbers.stuck = {"subscriber_3_1"}


def full(numbers: FakeNumbers) -> None:
    numbers.series("app")['emostream_ingest_refused_total{reason="full"}'] += 70


def starting(numbers: FakeNumbers) -> None:
    numbers.processes["subscriber_1_3"] |= {"ready": False, "page": None, "uptime_seconds": 4, "restarts": 1}


def slow_client(numbers: FakeNumbers) -> None:
    numbers.processes["subscriber_2_1"]["page"]["clients"] = [
        {"client_url": "http://slow/", "behind_records": 16, "failing_seconds": 0},
        {"client_url": "http://usual/", "behind_records": 15, "failing_seconds": 2},
    ]


def streams_only(numbers: FakeNumbers) -> None:
    for name in ("subscriber_1_1", "subscriber_2_1"):
        numbers.series(name).update(emostream_deliver_clients=0, emostream_deliver_streams=9)


def late_streams(numbers: FakeNumbers) -> None:
    streams_only(numbers)
    numbers.stream_seconds = 4.0


VERDICTS: list[tuple[Callable[[FakeNumbers], None] | None, str, str, list[str]]] = [
    (None, "well", "All well: p99 1.5 s from tap to screen.", []),
    (quiet, "well", "All well: nobody taps, and nothing waits.", []),
    (late_by_push, "slow", "Slow: p99 is 10 s from tap to screen, most of it in push (10 s).", []),
    (aggregate_behind, "slow", "Slow: aggregate is 12,000 events behind.", []),
    (one_cluster_behind, "slow", "Slow: cluster_publisher_2 is 400 counts behind.", []),
    (broker_away, "bad", "Broken: the broker accepts no events; 4,321 events wait for it.",
     ["Ingest holds 4,321 events that the broker has not accepted."]),
    (process_down, "bad", "Broken: cluster_publisher_2 keeps failing.", []),
    (not_ready, "bad", "Broken: main_publisher is not ready: no micro-batch for 31 s.",
     ["subscriber_1_1 and subscriber_1_2 are not ready: its topic cannot be read."]),
    (two_without_answer, "bad", "Broken: subscriber_1_1 and subscriber_1_2 give no answer.", []),
    (publisher_hangs, "bad", "Broken: main_publisher reads nothing although something waits for it.", []),
    (one_subscriber_hangs, "bad", "Broken: subscriber_3_1 reads nothing although something waits for it.", []),
    (full, "slow", "Slow: ingest refuses 35 events a second because its buffer is full.", []),
    (streams_only, "well", "All well: streams get each batch 50 ms after it was routed.", []),
    (late_streams, "slow", "Slow: streams get a batch up to 5.0 s after it was routed.", []),
    (starting, "well", "All well: p99 1.5 s from tap to screen.", ["subscriber_1_3 came back 4.0 s ago."]),
    (slow_client, "well", "All well: p99 1.5 s from tap to screen.", ["1 client is slow: http://slow/."]),
]  # fmt: skip


@pytest.mark.parametrize(("trouble", "level", "sentence", "also"), VERDICTS)
def test_one_sentence_says_what_is_slow(
    scripts: Browser, trouble: Callable[[FakeNumbers], None] | None, level: str, sentence: str, also: list[str]
) -> None:
    numbers = busy()
    answers = [] if trouble is quiet else numbers.answers(31)
    for _ in range(40 if trouble in (late_by_push, streams_only, late_streams) else 8):
        if trouble:
            trouble(numbers)
        answers += numbers.answers(1)
    assert judged(scripts, numbers, answers) == {"level": level, "sentence": sentence, "also": also}


def test_the_first_answer_is_enough_to_say_what_is_behind(scripts: Browser) -> None:
    numbers = busy()
    assert judged(scripts, numbers, numbers.answers(1))["sentence"] == "All well: nothing waits."
    aggregate_behind(numbers)
    assert judged(scripts, numbers, numbers.answers(1))["sentence"] == "Slow: aggregate is 12,000 events behind."


def test_a_publisher_that_catches_up_says_when_it_will_be_done(scripts: Browser) -> None:
    numbers = busy()
    answers = numbers.answers(8)
    for _ in range(8):
        numbers.series("main_publisher")["emostream_aggregate_events_total"] += 3000
        numbers.series("main_publisher")["emostream_aggregate_lag_events"] = 90_000
        answers += numbers.answers(1)
    sentence = judged(scripts, numbers, answers)["sentence"]
    assert sentence == "Slow: aggregate is 90,000 events behind, and will have caught up in 1 min."


def test_without_supervisor_only_processes_that_have_ever_answered_are_missed(scripts: Browser) -> None:
    numbers = busy()
    numbers.supervised = False
    for one in numbers.processes.values():
        one |= {"state": None, "ready": None, "restarts": None, "uptime_seconds": None}
    for name in ("subscriber_3_1", "subscriber_3_2"):
        numbers.processes[name]["page"] = None
    answers = numbers.answers(10)
    assert judged(scripts, numbers, answers)["level"] == "well"
    missed = judged(scripts, numbers, answers, seen=("subscriber_3_2",))
    assert missed["sentence"] == "Broken: subscriber_3_2 gives no answer."


# --- what is computed from two answers ---


def rates(scripts: Browser, answers: list[dict[str, Any]], expression: str) -> Any:
    script = f"(() => {{ const all = new m.Answers(); for (const one of arguments[0]) all.add(one); {expression} }})()"
    return module(scripts, "rates.js", script, answers)


def test_a_rate_is_an_increase_by_its_seconds_and_a_restart_begins_at_zero(scripts: Browser) -> None:
    numbers = busy()
    answers = numbers.answers(6)
    accepted = "emostream_ingest_accepted_total"
    rate = f"return all.rate('app', '{accepted}', 10);"
    assert rates(scripts, answers, rate) == 500
    assert rates(scripts, answers[:1], rate) == 0
    assert rates(scripts, [*answers, answers[-1]], rate) == 500
    numbers.series("app")[accepted] = 0
    restarted = answers[:3] + numbers.answers(3)
    told = [one["processes"][1]["page"]["series"][accepted] for one in restarted]
    assert told == [1000, 2000, 3000, 1000, 2000, 3000]
    assert rates(scripts, restarted, f"return all.increase('app', '{accepted}', 60);") == 2000 + 3000
    silent = numbers.answers(3)
    silent[1]["processes"][1]["page"] = None
    assert rates(scripts, silent, f"return all.increase('app', '{accepted}', 60);") == 2000


def test_rates_cover_the_last_seconds_and_old_answers_are_dropped(scripts: Browser) -> None:
    numbers = busy()
    answers = numbers.answers(60)
    numbers.events = 50
    answers += numbers.answers(6)
    found = rates(scripts, answers, "return [all.rate('app', 'emostream_ingest_accepted_total', 10), all.list.length];")
    assert found == [50, 33]


QUANTILES: list[tuple[float, list[float], list[float], float | None]] = [
    (0.5, [1, 2, 4], [0, 0, 0], None),
    (0.5, [1, 2, 4], [10, 10, 10], 0.5),
    (0.5, [1, 2, 4], [0, 10, 10], 1.5),
    (0.99, [1, 2, 4], [0, 0, 100], 3.98),
    (0.99, [1, 2, 4], [50, 60, 60], 4),
    (0.5, [], [], None),
]


@pytest.mark.parametrize(("part", "bounds", "at_most", "expected"), QUANTILES)
def test_a_quantile_is_interpolated_within_its_bucket(
    scripts: Browser, part: float, bounds: list[float], at_most: list[float], expected: float | None
) -> None:
    histogram = {"le": bounds, "atMost": at_most, "count": 100 if at_most == [50, 60, 60] else max(at_most, default=0)}
    found = module(scripts, "rates.js", "m.quantile(arguments[0], arguments[1])", part, histogram)
    assert found == (expected if expected is None else pytest.approx(expected))


PEAKS: list[tuple[Sequence[float], list[int]]] = [
    ([0] * 50, []),
    ([5] * 50, []),
    ([0] * 20 + [9] + [0] * 29, [20]),
    ([0] * 10 + [9] + [0] * 20 + [6] + [0] * 18, [10, 31]),
    ([0] * 10 + [9, 8, 8.5] + [0] * 37, [10]),
    ([0] * 10 + [9] + [8] * 20 + [8.5] + [0] * 18, [10]),
    ([0] * 10 + [9] + [0] * 20 + [2] + [0] * 18, [10]),
    ([1, 2, 3, 4, 5, 6, 7, 8, 9], []),  # it may still rise
    (([0] * 9 + [9]) * 10, [9, 19, 29, 39, 49]),
]


@pytest.mark.parametrize(("total", "expected"), PEAKS)
def test_peaks_are_the_values_that_stand_out(scripts: Browser, total: Sequence[float], expected: list[int]) -> None:
    assert module(scripts, "timeline_chart.js", "m.peaksOf(arguments[0])", total) == expected


TRIMMED: list[tuple[list[int], int, int]] = [
    ([0] * 180, 18, 162),
    ([0] * 100 + [5] * 80, 81, 99),
    ([5] * 180, 180, 0),
    ([0] * 170 + [5] * 10, 18, 162),
]


@pytest.mark.parametrize(("total", "buckets", "skipped"), TRIMMED)
def test_the_empty_time_before_the_first_events_is_not_shown(
    scripts: Browser, total: list[int], buckets: int, skipped: int
) -> None:
    for given in (timeline(total, {"🔥": 1}), timeline(total, {}, others=3)):
        found = module(scripts, "timeline_chart.js", "m.trimmed(arguments[0])", given)
        assert len(found["others"]) == buckets
        assert found["first_ms"] == given["first_ms"] + skipped * 10_000
        assert sum(found["others"]) + sum(sum(one["events"]) for one in found["emojis"]) == sum(total)


WORDS = [(0.004, "4 ms"), (0.25, "250 ms"), (0.996, "1.0 s"), (2.44, "2.4 s"), (59.4, "59 s"), (59.6, "1 min"),
         (7000, "2 h"), (400_000, "5 days")]  # fmt: skip


@pytest.mark.parametrize(("seconds", "expected"), WORDS)
def test_durations_have_a_fitting_unit(scripts: Browser, seconds: float, expected: str) -> None:
    assert module(scripts, "format.js", "m.duration(arguments[0])", seconds) == expected


# --- the page ---


def rows(page: Browser, selector: str) -> list[str]:
    cells = "[...n.children].map((c) => c.textContent).join(' | ')"
    found: list[str] = page.js(f"[...document.querySelectorAll(arguments[0])].map((n) => {cells})", selector)
    return found


def shown(page: Browser, selector: str) -> int:
    found: int = page.js("document.querySelectorAll(arguments[0]).length", selector)
    return found


def test_everything_is_shown_and_updates_by_itself(page: Browser, app: FakeApp) -> None:
    app.numbers.series("subscriber_1_1")["emostream_deliver_streams"] = 1240
    app.numbers.processes["subscriber_1_2"] |= {"restarts": 2}
    wait_until("all of it is new", lambda: "3,105" in page.text("#hops"))
    assert rows(page, "#hops li") == [
        "ingest | 500 events in/s | 0 on the way",
        "aggregate | 500 events/s | 0 events behind",
        "route | 7.5 counts/s | 0 counts behind",
        "deliver | 23 counts/s | 0 counts behind",
        "screens | 3,105 counts out/s | 4 clients, 1,240 streams",
    ]
    assert (page.text("#p50"), page.text("#p99")) == ("1.3 s", "1.5 s")
    assert rows(page, "#stages tr") == [
        "batch | 1.2 s | 1.3 s | 1.5 s", "route | 40 ms | 30 ms | 50 ms", "push | 20 ms | 30 ms | 50 ms",
        "route → streams | 30 ms | 30 ms | 50 ms",
    ]  # fmt: skip
    processes = rows(page, "#processes tr")
    assert len(processes) == 15
    assert processes[0] == "kafka_1 | running | 0 | 67 min |  |  | "
    assert processes[7] == "subscriber_1_2 | running | 2 | 67 min | 0 | 0 | 80 MB"
    assert page.text("#state") == "Live"
    assert page.js("document.title") == "✓ All well: p99 1.5 s from tap to screen."
    app.numbers.events = 1000
    wait_until("the rate follows", lambda: first_rate(page) == "1,000")


def test_the_stages_add_up_to_the_mean_from_tap_to_screen(page: Browser) -> None:
    boxes = page.js("[...document.querySelectorAll('#bar > span')].map((s) => s.getBoundingClientRect().toJSON())")
    parts, [p50, p99] = boxes[:3], boxes[3:]
    for before, after in itertools.pairwise(parts):
        assert after["left"] == pytest.approx(before["right"], abs=1)
    mean = (1.2 + 0.04 + 0.02) / 1.575  # as a part of the whole bar
    width = page.js("document.getElementById('bar').getBoundingClientRect().width")
    assert parts[-1]["right"] - parts[0]["left"] == pytest.approx(mean * width, rel=0.02)
    assert p50["left"] < p99["left"] < parts[0]["left"] + width


def test_the_last_half_hour_is_a_stack_of_areas_with_its_peaks_marked(page: Browser, app: FakeApp) -> None:
    total = [100.0] * 60 + [4000.0] + [100.0] * 100 + [2000.0] + [100.0] * 18
    app.timeline = timeline(total, PARTS, others=3)
    page.get(app.url)
    wait_until("the chart", lambda: shown(page, "#areas polygon") == 4)
    assert page.js("[...document.querySelectorAll('.mark .emoji')].map((n) => n.textContent)") == ["🔥", "🔥"]
    lefts = page.js("[...document.querySelectorAll('.mark')].map((n) => parseFloat(n.style.left))")
    assert lefts == pytest.approx([60 / 179 * 100, 161 / 179 * 100], abs=0.1)
    assert rows(page, "#legend li")[0] == " | 🔥 | 11,900"
    assert rows(page, "#legend li")[3] == " | 3 others | 2,380"
    assert page.text("#most") == "400 /s"
    assert "400 events per second, mostly 🔥" in page.text("#peaks")
    chart = page.find_element("id", "chart")
    ActionChains(page).move_to_element(chart).perform()
    assert "10 /s" in page.text("#readout")
    assert page.complaints() == []


def test_the_picture_of_one_room_can_be_chosen_with_the_keyboard_and_kept(page: Browser, app: FakeApp) -> None:
    labels = "[...document.querySelectorAll('#rooms button')].map((n) => n.textContent)"
    assert page.js("document.getElementById('rooms').hidden")
    app.rooms = {"": 600, "final": 6000, HOSTILE: 60}
    page.get(app.url)
    wait_until("the rooms", lambda: shown(page, "#rooms button") == 4)
    assert page.js(labels) == ["all rooms  111", "default room  10", "final  100", f"{HOSTILE}  1.0"]
    assert app.asked_rooms[-1] is None
    page.js("document.querySelectorAll('#rooms button')[2].focus()")
    ActionChains(page).send_keys(Keys.ENTER).perform()
    wait_until("its picture", lambda: page.text("#of-room") == "in final")
    assert app.asked_rooms[-1] == "final"
    assert page.js("document.activeElement.textContent") == "final  100"
    assert page.js("document.getElementById('csv').getAttribute('href')") == "timeline.csv?minutes=30&room=final"
    assert page.current_url.endswith("/dashboard?room=final")
    page.refresh()
    wait_until("it is kept", lambda: page.text("#of-room") == "in final")
    page.js("document.querySelector('#rooms [aria-pressed=true]').click()")
    wait_until("all rooms again", lambda: page.text("#of-room") == "")
    assert app.asked_rooms[-1] is None
    page.js("document.querySelectorAll('#rooms button')[1].click()")
    wait_until("the default room", lambda: page.text("#of-room") == "in the default room")
    assert app.asked_rooms[-1] == ""
    assert page.js("window.smuggled") is None


def test_without_a_timeline_the_rest_is_shown_with_the_reason(page: Browser, app: FakeApp) -> None:
    assert page.js("document.getElementById('no-history').checkVisibility()")
    app.timeline = None
    page.get(app.url)
    wait_until("it is told", lambda: page.text("#history-note"))
    assert page.text("#history-note") == "Not up to date: try again: the topic cannot be read"
    wait_until("the rest", lambda: page.text("#sentence").startswith("All well: p99"))


def test_a_hostile_client_address_stays_text(page: Browser, app: FakeApp) -> None:
    numbers = app.numbers
    numbers.processes["subscriber_1_1"]["page"]["clients"] = [
        {"client_url": HOSTILE, "behind_records": 3, "failing_seconds": 12.4}
    ]
    numbers.processes["subscriber_2_1"]["evicted"] = [
        {"client_url": HOSTILE, "reason": f"it answered {HOSTILE}", "at_ms": numbers.at_ms - 40_000}
    ]
    wait_until("both are named", lambda: shown(page, ".named .url") == 2)
    assert page.text("#slow .url") == page.text("#evicted .url") == HOSTILE
    assert page.text("#slow .what") == "failing for 12 s, 3 counts behind · subscriber_1_1"
    assert "ago: it answered http://10.0.0.7" in page.text("#evicted .what")
    assert HOSTILE in page.text("#also")
    assert page.js("window.smuggled") is None
    assert shown(page, "main img") == 0
    assert page.complaints() == []


def test_the_page_says_when_the_app_is_gone_and_when_it_is_back(page: Browser, app: FakeApp) -> None:
    app.status = 500
    wait_until("it is told", lambda: page.text("#sentence").startswith("Broken: the app has not"))
    assert page.text("#state").startswith("Old: as of ")
    app.status = 200
    wait_until("it is back", lambda: page.text("#state") == "Live")


def test_the_page_asks_only_the_app_and_the_browser_does_not_complain(page: Browser, app: FakeApp) -> None:
    assert page.requested_hosts() == {f"127.0.0.1:{app.port}"}
    assert shown(page, "[style]") > 0  # set by script, which the policy allows
    assert page.complaints() == []


def test_a_screen_reader_is_told_when_it_gets_worse_and_not_every_number(page: Browser, app: FakeApp) -> None:
    page.js("""(() => { window.told = []; const summary = document.getElementById("summary");
        new MutationObserver(() => told.push(summary.textContent)).observe(summary, {childList: true}); })()""")
    app.numbers.latencies = {"batch": 1.9, "route": 0.04, "push": 0.02}
    wait_until("another number", lambda: page.text("#p99") != "1.5 s")
    assert page.js("told") == []
    aggregate_behind(app.numbers)
    wait_until("it is told", lambda: page.js("told.length"))
    assert page.js("told") == ["Slow: aggregate is 12,000 events behind."]
    assert page.js("document.getElementById('summary').ariaLive") == "polite"
    assert page.js("document.getElementById('areas').ariaHidden") == "true"


def test_everything_can_be_reached_with_the_keyboard(page: Browser) -> None:
    ActionChains(page).send_keys(Keys.TAB).perform()
    assert page.js("document.activeElement.getAttribute('href')") == "timeline.csv?minutes=30"
    assert page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("width", [320, 400, 768, 1280])
def test_everything_fits_whatever_the_width(browser: Browser, app: FakeApp, width: int) -> None:
    numbers = app.numbers
    numbers.events = 12_345_678
    numbers.series("subscriber_1_1")["emostream_deliver_streams"] = 123_456
    numbers.series("main_publisher")["emostream_aggregate_lag_events"] = 123_456_789
    numbers.processes["subscriber_1_1"]["page"]["clients"] = [
        {"client_url": "http://" + "x" * 300, "behind_records": 3, "failing_seconds": 12.4}
    ]
    app.timeline = timeline([100_000.0 * (n % 50 == 9 or n > 177) for n in range(180)], PARTS, others=30)
    browser.resize(width, 800)
    browser.open(app.url)
    wait_until("two answers", lambda: first_rate(browser) == "12,345,678")
    wait_until("the chart", lambda: shown(browser, ".mark") >= 4)
    assert browser.js("document.scrollingElement.scrollWidth") <= width
    beyond = """[...document.querySelectorAll('main *')]
        .filter((n) => !n.closest('svg') && n.getBoundingClientRect().right > arguments[0] + 0.5)
        .map((n) => n.outerHTML.slice(0, 80))"""
    assert browser.js(beyond, width) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark_mode(browser: Browser, app: FakeApp, scheme: str) -> None:
    browser.prefer(prefers_color_scheme=scheme)
    browser.open(app.url)
    color = "getComputedStyle(document.documentElement).getPropertyValue(arguments[0]).trim()"
    backgrounds = [luminance(browser.js(color, name)) for name in ("--page", "--card")]
    for name in ("--text", "--muted", "--bad", "--slow", "--accent"):
        for background in backgrounds:
            lighter, darker = sorted((luminance(browser.js(color, name)), background), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, name
    assert (max(backgrounds) < 0.1) == (scheme == "dark")


def test_nothing_moves_by_itself(page: Browser) -> None:
    assert page.js("document.getAnimations().length") == 0


# --- the operator's key ---


def visible_sections(page: Browser) -> list[str]:
    shown = "[...document.querySelectorAll('section')].filter((one) => one.checkVisibility())"
    found: list[str] = page.js(f"{shown}.map((one) => one.id || one.className || 'other')")
    return found


def test_the_page_asks_for_the_operators_key_and_says_when_it_is_wrong(browser: Browser, app: FakeApp) -> None:
    app.operator_key = "let me in"
    browser.open(app.url)
    wait_until("the question", lambda: "needs the operator's key" in browser.text("#sentence"))
    assert visible_sections(browser) == ["verdict", "key-needed"]
    field = browser.find_element(By.ID, "key")
    field.send_keys("guess", Keys.ENTER)
    wait_until("the refusal", lambda: browser.text("#key-note") == "This is not the key.")
    field.clear()
    field.send_keys("let me in", Keys.ENTER)
    wait_until("the numbers", lambda: first_rate(browser) == "500")
    assert "key-needed" not in visible_sections(browser)
    assert len(visible_sections(browser)) > 4
    assert browser.js("document.cookie") == ""
    browser.open(app.url)
    wait_until("the numbers again", lambda: first_rate(browser) == "500")


def test_a_browser_that_may_not_see_the_numbers_is_told_why(browser: Browser, app: FakeApp) -> None:
    app.status, app.error = 421, "Host: expected a name in ALLOWED_HOSTS, got 'evil.example'"
    browser.open(app.url)
    wait_until("the reason", lambda: browser.text("#sentence") == app.error)
    assert visible_sections(browser) == ["verdict"]


def test_a_process_that_is_not_ready_says_why(page: Browser, app: FakeApp) -> None:
    not_ready(app.numbers)
    wait_until("the reason", lambda: "no micro-batch for 31 s" in page.text("#processes"))
    assert page.text("#sentence") == "Broken: main_publisher is not ready: no micro-batch for 31 s."
