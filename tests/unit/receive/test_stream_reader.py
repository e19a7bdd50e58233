"""emostream.receive.stream_reader: which stream the client reads, and where it goes on when that one ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ClassVar

import pytest

from emostream.process import StopFlag
from emostream.receive import stream_reader, subscription
from emostream.receive.stream_reader import StreamReader
from testkit.http_servers import Answer, Asked, HttpServer, http_server
from testkit.ports import free_port_block
from testkit.settings import settings_with
from testkit.waiting import wait_until


class FakeStreams:
    """A subscriber whose stream always sends the same text, and ends."""

    def __init__(self, text: str = "", streams: int = 0) -> None:
        self.text = text
        self.streams = streams
        self.content_type = "text/event-stream; charset=utf-8"
        self.status_code = 200
        self.resumed_with: list[str | None] = []
        self.paths: list[str] = []
        self.port = 0
        self.available_streams = 10

    def answer(self, asked: Asked) -> Answer:
        if asked.path == "/status":
            status = {"available_slots": 0, "stream_port": self.port, "streams": self.streams}
            return Answer(200, json.dumps(status | {"available_streams": self.available_streams}).encode())
        self.paths.append(asked.path)
        self.resumed_with.append(asked.headers.get("Last-Event-ID"))
        return Answer(self.status_code, self.text.encode(), {"Content-Type": self.content_type})


class Terminal:
    """What a reader shows and says."""

    said: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.shown: list[tuple[str | None, str]] = []

    def show(self, key: str | None, emoji: str, count: int) -> None:
        self.shown.append((key, emoji * count))


@contextmanager
def reading(*fakes: FakeStreams, room: str = "") -> Iterator[tuple[StreamReader, Terminal, StopFlag]]:
    """A reader, no app, and these subscribers: 1-1, 1-2 and 2-1."""
    base_port = free_port_block(30)
    stop, terminal = StopFlag(), Terminal()
    servers: list[HttpServer] = []
    with ExitStack() as stack:
        for fake, port in zip(fakes, (1, 2, 11), strict=False):
            fake.port = base_port + port
            servers.append(stack.enter_context(http_server(fake.answer, fake.port)))
        settings = settings_with(SUBSCRIBER_BASE_PORT=base_port, ROOM=room)
        try:
            reader = StreamReader(settings, "http://127.0.0.1:9", stop, terminal.show)
            yield reader, terminal, stop
        finally:
            stop.requested = True


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    Terminal.said = []
    for module in (stream_reader, subscription):
        monkeypatch.setattr(module, "say", Terminal.said.append)
    monkeypatch.setattr(subscription, "FIND_AGAIN_SECONDS", 0.05)


def event(event_id: str, **counts: int) -> str:
    data = {"batch_id": 1, "counts": [{"emoji": emoji, "count": count} for emoji, count in counts.items()]}
    return f"id: {event_id}\ndata: {json.dumps(data)}\n\n"


@contextmanager
def kept(reader: StreamReader, stop: StopFlag) -> Iterator[None]:
    keeper = threading.Thread(target=reader.keep, daemon=True)
    keeper.start()
    yield
    stop.requested = True
    keeper.join(10)
    assert not keeper.is_alive()
    # The next test may use the same ports, and must not meet this reader's thread there.
    wait_until("its thread has ended", lambda: all(thread.name != "stream" for thread in threading.enumerate()), 10)


def test_each_emoji_of_each_batch_is_shown_with_the_id_of_its_event() -> None:
    fake = FakeStreams("id: 1-0-0\n\n" + event("1-1-1", a=2, b=1) + ":\n\n" + event("1-2-2", a=1))
    with reading(fake) as (reader, terminal, stop):
        assert reader.find(wait=False)
        with kept(reader, stop):
            wait_until("all are shown", lambda: len(terminal.shown) >= 3)
            assert terminal.shown[:3] == [("1-1-1", "aa"), ("1-1-1", "b"), ("1-2-2", "a")]


@pytest.mark.parametrize(("room", "path"), [("", "/stream"), ("final", "/stream?room=final")])
def test_it_reads_the_stream_of_its_room(room: str, path: str) -> None:
    fake = FakeStreams()
    with reading(fake, room=room) as (reader, _, _):
        assert reader.find(wait=False)
    assert fake.paths == [path]


@pytest.mark.parametrize(("text", "expected"), [(event("1-2-2", a=1), "1-2-2"), ("id: 1-0-0\n\n", "1-0-0")])
def test_it_resumes_in_the_same_cluster_after_the_last_event(text: str, expected: str) -> None:
    first, near, far = FakeStreams(text), FakeStreams(streams=5), FakeStreams(streams=1)
    with reading(first, near, far) as (reader, terminal, stop):
        assert reader.find(wait=False)
        with kept(reader, stop):
            wait_until("it has resumed", lambda: near.resumed_with)
        assert (first.resumed_with[0], near.resumed_with[0]) == (None, expected)
        assert "looking for another" in terminal.said[1]


def test_it_starts_where_there_are_the_fewest_streams() -> None:
    busy, idle = FakeStreams(streams=9), FakeStreams(streams=3)
    with reading(busy, idle) as (reader, _, _stop):
        assert reader.find(wait=False)
        assert (len(busy.resumed_with), len(idle.resumed_with)) == (0, 1)


def refuse(fake: FakeStreams) -> None:
    fake.status_code = 503


def answer_something_else(fake: FakeStreams) -> None:
    fake.content_type = "application/json"


def be_full(fake: FakeStreams) -> None:
    fake.available_streams = 0


@pytest.mark.parametrize("fail", [refuse, answer_something_else, be_full])
def test_a_subscriber_that_gives_no_stream_is_skipped(fail: Callable[[FakeStreams], None]) -> None:
    odd, good = FakeStreams(), FakeStreams(streams=5)
    fail(odd)
    with reading(odd, good) as (reader, terminal, _):
        assert reader.find(wait=False)
        assert terminal.said == [f"reading http://127.0.0.1:{good.port}/stream"]
    with reading(odd) as (reader, terminal, _):
        assert not reader.find(wait=False)


def test_a_waiting_reader_ends_at_a_stop() -> None:
    full = FakeStreams()
    full.available_streams = 0
    with reading(full) as (reader, terminal, stop):
        waiting = threading.Thread(target=reader.find, args=(True,), daemon=True)
        waiting.start()
        wait_until("it waits", lambda: terminal.said)
        stop.requested = True
        waiting.join(10)
        assert not waiting.is_alive()


def test_a_batch_that_cannot_be_read_is_skipped_and_reported() -> None:
    fake = FakeStreams('id: 1-1-1\ndata: {"counts": [{"emoji": "\\u001b[31m", "count": 1}]}\n\n' + event("1-2-2", a=1))
    with reading(fake) as (reader, terminal, stop):
        assert reader.find(wait=False)
        with kept(reader, stop):
            wait_until("the next is shown", lambda: terminal.shown)
        assert terminal.shown[0] == ("1-2-2", "a")
        assert any("skipped" in sentence for sentence in terminal.said)
