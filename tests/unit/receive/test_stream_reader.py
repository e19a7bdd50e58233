"""The terminal client reads a stream: bytes to events, and on with another stream where the last one ended."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emostream.process import StopFlag
from emostream.receive import stream_reader as watch
from emostream.receive.stream_reader import ServerSentEvent, Watcher, events
from testkit.http_servers import Answer, Asked, HttpServer, http_server
from testkit.ports import free_port_block
from testkit.settings import settings_with
from testkit.waiting import wait_until


def parsed(text: str, last_event_id: str = "") -> list[tuple[str, str, str]]:
    found = events((line for line in text.encode().split(b"\n")[:-1]), last_event_id)
    return [(event.type, event.data, event.last_event_id) for event in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("retry: 1000\nid: 7\ndata: x\n\n", [("message", "x", "7")]),
        ("id: 7\n\ndata: x\n\n", [("message", "", "7"), ("message", "x", "7")]),
        (":\n\ndata: x\n\n", [("message", "x", "")]),
        ("event: gap\ndata: x\n\ndata:y\n\n", [("gap", "x", ""), ("message", "y", "")]),
        ("data: a\ndata: b\n\n", [("message", "a\nb", "")]),
        ("data: x\n", []),
        ("data: x", []),
        ("id: 1\0\ndata: x\n\n", [("message", "x", "")]),
    ],
)
def test_events_are_what_the_standard_says(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert parsed(text) == expected


def test_an_id_holds_until_there_is_another() -> None:
    assert parsed("event: gap\ndata: x\n\nid: 8\ndata: y\n\n", "7") == [("gap", "x", "7"), ("message", "y", "8")]


@given(st.lists(st.binary(max_size=30)))
def test_no_bytes_make_the_reader_fail(lines: list[bytes]) -> None:
    assert all(isinstance(event, ServerSentEvent) for event in events(lines))


# --- who goes on where ---


class FakeStreams:
    """A subscriber whose stream sends a text, whatever is asked, and ends."""

    def __init__(self, text: str = "", streams: int = 0) -> None:
        self.text = text
        self.streams = streams
        self.content_type = "text/event-stream; charset=utf-8"
        self.status_code = 200
        self.resumed_with: list[str | None] = []
        self.port = 0
        self.available_streams = 10

    def answer(self, asked: Asked) -> Answer:
        if asked.path == "/status":
            status = {"available_slots": 0, "stream_port": self.port, "streams": self.streams}
            return Answer(200, json.dumps(status | {"available_streams": self.available_streams}).encode())
        self.resumed_with.append(asked.headers.get("Last-Event-ID"))
        return Answer(self.status_code, self.text.encode(), {"Content-Type": self.content_type})


class Terminal:
    """What a watcher shows and says."""

    def __init__(self) -> None:
        self.shown: list[tuple[str | None, str]] = []
        self.said: list[str] = []

    def show(self, key: str | None, value: bytes) -> None:
        record = json.loads(value)
        self.shown.append((key, record["emoji"] * record["count"]))


@contextmanager
def watching(*fakes: FakeStreams, ports: tuple[int, ...] = (1, 2, 11)) -> Iterator[tuple[Watcher, Terminal, StopFlag]]:
    """A watcher before these subscribers, 1-1, 1-2 and 2-1 unless told otherwise, and no app."""
    base_port = free_port_block(30)
    stop, terminal = StopFlag(), Terminal()
    servers: list[HttpServer] = []
    with ExitStack() as stack:
        for fake, port in zip(fakes, ports, strict=False):
            fake.port = base_port + port
            servers.append(stack.enter_context(http_server(fake.answer, fake.port)))
        settings = settings_with(SUBSCRIBER_BASE_PORT=base_port)
        try:
            yield Watcher(settings, "http://127.0.0.1:9", terminal.show, terminal.said.append, stop), terminal, stop
        finally:
            stop.requested = True


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "RETRY_SECONDS", 0.05)


def event(event_id: str, **counts: int) -> str:
    data = {"batch_id": 1, "counts": [{"emoji": emoji, "count": count} for emoji, count in counts.items()]}
    return f"id: {event_id}\ndata: {json.dumps(data)}\n\n"


@contextmanager
def kept(watcher: Watcher, stop: StopFlag) -> Iterator[None]:
    keeper = threading.Thread(target=watcher.keep, daemon=True)
    keeper.start()
    yield
    stop.requested = True
    keeper.join(10)
    assert not keeper.is_alive()
    # Nor may its reader go on, which would be taken for the next test's, on the same ports.
    wait_until("its reader has ended", lambda: all(thread.name != "stream" for thread in threading.enumerate()), 10)


def test_each_emoji_of_each_batch_is_shown_with_the_id_of_its_event() -> None:
    fake = FakeStreams("id: 1-0-0\n\n" + event("1-1-1", a=2, b=1) + ":\n\n" + event("1-2-2", a=1))
    with watching(fake) as (watcher, terminal, stop):
        assert watcher.find(wait=False)
        with kept(watcher, stop):
            wait_until("all are shown", lambda: len(terminal.shown) >= 3, timeout_seconds=10)
            assert terminal.shown[:3] == [("1-1-1", "aa"), ("1-1-1", "b"), ("1-2-2", "a")]


@pytest.mark.parametrize(("text", "expected"), [(event("1-2-2", a=1), "1-2-2"), ("id: 1-0-0\n\n", "1-0-0")])
def test_it_goes_on_in_the_same_cluster_after_what_it_has_had(text: str, expected: str) -> None:
    first, near, far = FakeStreams(text), FakeStreams(streams=5), FakeStreams(streams=1)
    with watching(first, near, far) as (watcher, terminal, stop):
        assert watcher.find(wait=False)
        with kept(watcher, stop):
            wait_until("it has gone on", lambda: near.resumed_with, timeout_seconds=10)
        assert (first.resumed_with[0], near.resumed_with[0]) == (None, expected)
        assert "looking for another" in terminal.said[1]


def test_it_begins_where_there_are_the_fewest_streams() -> None:
    busy, idle = FakeStreams(streams=9), FakeStreams(streams=3)
    with watching(busy, idle) as (watcher, _, _stop):
        assert watcher.find(wait=False)
        assert (len(busy.resumed_with), len(idle.resumed_with)) == (0, 1)


def refuse(fake: FakeStreams) -> None:
    fake.status_code = 503


def answer_something_else(fake: FakeStreams) -> None:
    fake.content_type = "application/json"


def be_full(fake: FakeStreams) -> None:
    fake.available_streams = 0


@pytest.mark.parametrize("fail", [refuse, answer_something_else, be_full])
def test_one_that_gives_no_stream_is_passed_over(fail: Callable[[FakeStreams], None]) -> None:
    odd, good = FakeStreams(), FakeStreams(streams=5)
    fail(odd)
    with watching(odd, good) as (watcher, terminal, _):
        assert watcher.find(wait=False)
        assert terminal.said == [f"reading http://127.0.0.1:{good.port}/stream"]
    with watching(odd) as (watcher, terminal, _):
        assert not watcher.find(wait=False)


def test_a_waiting_watcher_ends_at_a_stop() -> None:
    full = FakeStreams()
    full.available_streams = 0
    with watching(full) as (watcher, terminal, stop):
        waiting = threading.Thread(target=watcher.find, args=(True,), daemon=True)
        waiting.start()
        wait_until("it waits", lambda: terminal.said, timeout_seconds=10)
        stop.requested = True
        waiting.join(10)
        assert not waiting.is_alive()


def test_a_batch_that_is_none_is_skipped_and_said() -> None:
    fake = FakeStreams('id: 1-1-1\ndata: {"counts": [{"emoji": "\\u001b[31m", "count": 1}]}\n\n' + event("1-2-2", a=1))
    with watching(fake) as (watcher, terminal, stop):
        assert watcher.find(wait=False)
        with kept(watcher, stop):
            wait_until("the next is shown", lambda: terminal.shown, timeout_seconds=10)
        assert terminal.shown[0] == ("1-2-2", "a")
        assert any("skipped" in sentence for sentence in terminal.said)
