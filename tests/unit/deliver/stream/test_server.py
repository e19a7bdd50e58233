"""emostream.deliver.stream.server: a StreamServer with real sockets and a history without Kafka."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from emostream.deliver.history import History, Record
from emostream.deliver.rooms import DEFAULT_ROOM, Rooms
from emostream.deliver.stream import event_stream, room_streams
from emostream.deliver.stream import server as stream
from emostream.deliver.stream.event_stream import EventStream
from emostream.deliver.stream.server import StreamServer
from emostream.http.cors import Cors
from emostream.http.head import HostCheck, any_host
from emostream.http.protocol import MAX_HEAD_BYTES
from emostream.metrics.catalogue import DELIVER
from emostream.metrics.counters import Metrics
from emostream.process import Log, bound_socket
from emostream.records import Count, parse_count
from testkit.consumed import consumed
from testkit.waiting import wait_until

LONG_SECONDS = 3600.0
GET = b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Serving:
    """A StreamServer, the port it listens on, the rooms it serves, and the history of the default room."""

    history: History
    rooms: Rooms
    counters: Metrics
    port: int
    server: StreamServer = field(init=False)
    published: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/stream"

    def publish(self, number: int = 1, padding: int = 0) -> None:
        """So many micro-batches of one record."""
        for _ in range(number):
            count = {"emoji": "🔥", "count": 1, "events": 2}
            value = count | {"batch_id": self.published, "batch_emojis": 1, "x": "x" * padding}
            self.append(0, self.published, value)
            self.published += 1

    def append(self, partition: int, offset: int, value: dict[str, Any]) -> None:
        """One record, published now."""
        now_ms, data = round(time.time() * 1000), json.dumps(value).encode()
        self.history.append([Record(partition, offset, now_ms, data, parse_count(data))], now_ms)

    def count(self, name: str) -> int:
        return self.counters.snapshot().get(name, 0)

    def wait_for_streams(self, number: int) -> None:
        wait_until(f"{number} streams", lambda: self.server.streams == number)


@contextmanager
def serving(
    max_streams: int = 100, origins: str = "*", cluster: int = 1, records: int = 0,
    max_age_seconds: float = LONG_SECONDS, check_host: HostCheck = any_host,
) -> Iterator[Serving]:  # fmt: skip
    listener = bound_socket("127.0.0.1", 0, setting="test")
    log = Log("test")
    counters = Metrics(log, DELIVER)
    rooms = Rooms(max_age_seconds, 10_000, counters, log)
    rooms.begin({0: 0, 1: 0, 2: 0}, {})
    found = Serving(rooms.open(DEFAULT_ROOM).history, rooms, counters, listener.getsockname()[1])
    found.publish(records)
    found.server = StreamServer(listener, rooms, cluster, Cors(origins), max_streams, counters, log, check_host)
    try:
        yield found
    finally:
        found.server.close(10)
        assert not found.server.running


@dataclass
class Viewer:
    """Someone who reads a stream line by line, as EventSource does."""

    connection: socket.socket
    headers: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    last_event_id: str = ""
    ended: bool = False

    def read(self) -> None:
        fields: dict[str, str] = {}
        text = self.connection.makefile(encoding="utf-8", newline="\n")
        assert next(text) == "HTTP/1.1 200 OK\r\n"
        while line := next(text).strip():
            name, _, value = line.partition(": ")
            self.headers[name.title()] = value  # case makes no difference
        for line in text:
            self.lines.append(line.removesuffix("\n"))
            if line != "\n":
                name, _, value = line.removesuffix("\n").partition(": ")
                fields[name] = value
                continue
            self.last_event_id = fields.get("id", self.last_event_id)
            if "data" in fields:
                self.events.append(json.loads(fields["data"]) | {"event": fields.get("event")})
            fields = {}
        self.ended = True

    def wait_for_batches(self, *batch_ids: int) -> None:
        wait_until(f"batches {batch_ids}", lambda: self.batch_ids() == list(batch_ids))

    def batch_ids(self) -> list[int]:
        return [event["batch_id"] for event in self.events if "batch_id" in event]


@contextmanager
def viewer(ours: Serving, query: str = "", **headers: str) -> Iterator[Viewer]:
    given = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    asked = f"GET /stream{query} HTTP/1.1\r\nHost: x\r\n{given}\r\n".encode("latin-1")
    with raw(ours.port, asked) as connection:
        found = Viewer(connection)
        reader = threading.Thread(target=found.read, daemon=True)
        reader.start()
        wait_until("the greeting", lambda: "" in found.lines)
        yield found
        connection.shutdown(socket.SHUT_RDWR)
        reader.join(10)


def raw(port: int, data: bytes, receive_buffer: int = 0) -> socket.socket:
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", port))
    connection.sendall(data)
    return connection


def slow_streams(ours: Serving) -> list[EventStream]:
    return [stream for stream in ours.server._all() if stream.slow]


def all_of(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    while data := connection.recv(65536):
        found += data
    return found


def test_a_viewer_gets_every_new_batch_as_an_event_of_the_type_message() -> None:
    with serving(records=2) as ours, viewer(ours) as seen:
        assert seen.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert "no-store" in seen.headers["Cache-Control"]
        assert (seen.lines[0], seen.last_event_id) == ("retry: 1000", "1-1-2.0.0")
        ours.publish(2)
        seen.wait_for_batches(2, 3)
        event = seen.events[0]
        assert 0 <= event.pop("pushed_ms") - event.pop("routed_ms") < 30_000
        assert event == {
            "batch_id": 2, "counts": [{"emoji": "🔥", "count": 1, "events": 2}], "merged": 1, "event": None,
        }  # fmt: skip
        wait_until("both batches measured", lambda: ours.counters.histograms["stream"].count == 2)
        assert seen.last_event_id == "1-3-4.0.0"


def test_a_new_viewer_may_ask_for_the_recent_past_and_gets_nothing_twice() -> None:
    with serving(records=2) as ours, viewer(ours, "?recent=60") as seen:
        ours.publish()
        seen.wait_for_batches(2)
        [recent, live] = seen.events
        assert (recent["event"], live["event"]) == ("recent", None)
        assert [batch["batch_id"] for batch in recent["batches"]] == [0, 1]
        assert seen.lines[:2] == ["retry: 1000", "id: 1-1-2.0.0"]
    with serving(records=2) as ours, viewer(ours, "?recent=60&last_event_id=1-0-1.0.0") as seen:
        seen.wait_for_batches(1)
        assert [event["event"] for event in seen.events] == [None]


HERE = "1-2-3.0.0"


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", {"Last-Event-ID": HERE}),
        ("", {"last-event-id": HERE}),
        ("", {"Last-Event-Id": f" {HERE} "}),
        (f"?last_event_id={HERE}", {}),
        (f"?lastEventId={HERE}", {}),  # Yaffle's EventSource
        (f"?r=0.5&lastEventId={HERE}&x", {}),
        (f"?lastEventID={HERE}", {}),  # Mercure
        (f"?Last-Event-ID={HERE}", {}),
        (f"?last-event-id={HERE}", {}),
        (f"?evs_preamble&evs_last_event_id={HERE}", {}),  # amvtek's EventSource
        ("?last%5Fevent%5fid=1%2D2%2D3%2E0%2e0", {}),
        (f"?last_event_id={HERE}", {"Last-Event-ID": ""}),
        ("?last_event_id=1-0-1.0.0", {"Last-Event-ID": HERE}),  # the page opened it so; the browser has come further
        (f"?last_event_id=1-0-1.0.0&lastEventId={HERE}", {}),
        (f"?last_event_id=1-0-1.0.0&last_event_id={HERE}", {}),
        (f"?last_event_id={HERE}&lastEventId=", {}),
    ],
)
def test_a_viewer_goes_on_after_the_last_event_it_got(query: str, headers: dict[str, str]) -> None:
    with serving(records=5) as ours, viewer(ours, query, **headers) as seen:
        ours.publish()
        seen.wait_for_batches(3, 4, 5)
        assert [event["merged"] for event in seen.events] == [1, 1, 1]


def test_a_viewer_from_another_cluster_goes_on_by_batch_id() -> None:
    with serving(records=5, cluster=2) as ours, viewer(ours, **{"Last-Event-ID": "1-3-77.0.0"}) as seen:
        seen.wait_for_batches(4)


def test_a_viewer_that_is_ahead_of_this_subscriber_gets_nothing_twice() -> None:
    with serving(records=1) as ours, viewer(ours, **{"Last-Event-ID": "1-2-3.0.0"}) as seen:
        ours.publish(3)
        seen.wait_for_batches(3)
        ours.publish()
        seen.wait_for_batches(3, 4)


def test_a_viewer_of_a_topic_that_was_replaced_is_told_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_streams, "AHEAD_SECONDS", 0.2)
    with serving(records=1) as ours, viewer(ours, **{"Last-Event-ID": "1-900-900.0.0"}) as seen:
        ours.publish()
        seen.wait_for_batches(1)
        assert [event["event"] for event in seen.events] == ["gap", None]


def test_a_viewer_of_another_cluster_does_not_wait_for_ever_for_a_batch_that_does_not_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room_streams, "AHEAD_SECONDS", 0.2)
    with serving() as ours:
        ours.published = 1  # as if micro-batch 0 had had bad records only
        ours.publish(2)
        with viewer(ours, **{"Last-Event-ID": "2-1-900.0.0"}) as seen:
            seen.wait_for_batches(2)
            ours.publish()
            seen.wait_for_batches(2, 3)
            assert [event["event"] for event in seen.events] == [None, None]


def test_a_viewer_gets_nothing_until_the_batch_that_it_has_seen_in_another_cluster_has_come_whole() -> None:
    with serving(records=1) as ours, viewer(ours, **{"Last-Event-ID": "2-1-900.2.0"}) as seen:
        both = {"count": 1, "batch_id": 1, "batch_emojis": 2}
        ours.append(0, 1, {"emoji": "🔥"} | both)
        wait_until("it was taken", lambda: ours.server._rooms_open[DEFAULT_ROOM].end == 2)
        assert seen.events == []
        ours.append(1, 0, {"emoji": "👏"} | both)
        ours.published = 2
        ours.publish()
        seen.wait_for_batches(2)
        assert [event["event"] for event in seen.events] == [None]


def test_a_viewer_that_has_seen_a_part_of_a_batch_in_another_cluster_is_told_and_goes_on_after_that_batch() -> None:
    with serving(records=1) as ours, viewer(ours, **{"Last-Event-ID": "2-01-900.2.0"}) as seen:
        ours.publish(2)
        seen.wait_for_batches(2)
        assert [event["event"] for event in seen.events] == ["gap", None]
        assert "a part of its last micro-batch" in seen.events[0]["reason"]
        assert ours.count("stream_gaps") == 1


@pytest.mark.parametrize("odd", ["nonsense", "1-2", "9" * 500, "\u00ff", "2-0-3.0.0-0.1__"])
def test_a_viewer_with_an_id_that_is_not_ours_is_told_and_gets_what_comes(odd: str) -> None:
    with serving(records=1) as ours, viewer(ours, **{"Last-Event-ID": odd}) as seen:
        ours.publish()
        wait_until("the batch", lambda: 1 in seen.batch_ids())
        assert seen.events[0]["event"] == "gap"
        assert seen.last_event_id == "1-1-2.0.0"


def test_a_viewer_that_was_away_for_too_long_is_told_and_gets_what_is_left() -> None:
    # Long enough for both viewers to come while what is left is kept.
    with serving(max_age_seconds=4, records=3) as ours:
        with viewer(ours) as seen:
            pass
        time.sleep(4.1)  # the clock has to pass what is kept
        ours.publish(2)
        with viewer(ours, **{"Last-Event-ID": "1-0-1.0.0"}) as late:
            wait_until("what is left", lambda: len(late.events) == 3)
            assert [event["event"] for event in late.events] == ["gap", None, None]
        with viewer(ours, **{"Last-Event-ID": seen.last_event_id}) as in_time:
            in_time.wait_for_batches(3, 4)
            assert [event["event"] for event in in_time.events] == [None, None]


def test_comments_show_that_a_quiet_stream_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "COMMENT_SECONDS", 0.05)
    monkeypatch.setattr(stream, "TURN_SECONDS", 0.05)
    with serving() as ours, viewer(ours) as seen:
        wait_until("two comments", lambda: seen.lines.count(":") >= 2)


def test_no_more_streams_than_max_streams_and_a_slot_is_free_again_when_one_leaves() -> None:
    with serving(max_streams=2) as ours, viewer(ours):
        with viewer(ours):
            refused = requests.get(ours.url, timeout=10)
            assert (refused.status_code, list(refused.json())) == (503, ["error"])
            assert int(refused.headers["Retry-After"]) > 0
            assert ours.server.streams == 2
        ours.wait_for_streams(1)
        with viewer(ours):
            assert ours.count("streams_refused") == 1


def test_a_viewer_that_does_not_read_gets_the_sum_of_what_it_missed_and_delays_nobody() -> None:
    with serving() as ours, viewer(ours) as healthy:
        with raw(ours.port, GET, receive_buffer=4096) as slow:
            ours.wait_for_streams(2)

            def somebody_is_behind() -> bool:
                return any(stream.cursor <= ours.published - 50 for stream in slow_streams(ours))

            while not somebody_is_behind():
                ours.publish(50)
                healthy.wait_for_batches(*range(ours.published))
            for _ in range(10):
                ours.publish(50)
                healthy.wait_for_batches(*range(ours.published))
            # Now it reads, to the end of what there is.
            text, last = b"", b'"batch_id":%d,' % (ours.published - 1)
            while last not in text or not text.endswith(b"\n\n"):
                text += slow.recv(65536)
        events = [json.loads(line[6:]) for line in text.split(b"\n") if line.startswith(b"data: ")]
        assert sum(event["counts"][0]["events"] for event in events) == 2 * ours.published
        assert sum(event["merged"] for event in events) == ours.published
        assert max(event["merged"] for event in events) >= 500
        assert all(event["merged"] == 1 for event in healthy.events)
        wait_until("it is counted", lambda: ours.count("stream_merged") >= 499)


def test_a_viewer_that_stalls_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "STALLED_SECONDS", 0.3)
    with serving() as ours, raw(ours.port, GET, receive_buffer=4096):
        ours.wait_for_streams(1)
        default = ours.server._rooms_open[DEFAULT_ROOM]
        while not slow_streams(ours) and ours.server.streams:
            ours.publish(50)
            wait_until("they were taken", lambda: default.end == ours.published)
        ours.wait_for_streams(0)
        assert ours.count("streams_stalled") == 1


def test_a_connection_that_never_finishes_its_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "REQUEST_SECONDS", 0.2)
    with serving() as ours, raw(ours.port, b"GET /stream HTTP/1.1\r\nHost:") as slow:
        assert all_of(slow).startswith(b"HTTP/1.1 408 ")
        assert ours.count("stream_requests_timed_out") == 1


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET /stream\r\n\r\n", 400),
        (b"GET /stream?recent=a%20minute HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /stream?recent=-1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /stream?room=a&room=b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /stream HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET /stream HTTP/1.1\r\nHost: " + b"x" * MAX_HEAD_BYTES, 431),
    ],
)
def test_any_other_request_is_refused_in_json(asked: bytes, status: int) -> None:
    with serving() as ours:
        with raw(ours.port, asked) as connection:
            connection.shutdown(socket.SHUT_WR)
            head, _, body = all_of(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert "expected" in json.loads(body)["error"]
        with viewer(ours):
            pass


def test_an_offer_to_upgrade_the_protocol_is_ignored() -> None:
    asked = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    with serving() as ours, raw(ours.port, asked) as connection:
        assert connection.recv(20).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("cut", [1, 5, 20, len(GET) - 1])
def test_a_request_may_come_in_pieces(cut: int) -> None:
    with serving() as ours, raw(ours.port, GET[:cut]) as connection:
        wait_until("the first piece", lambda: ours.server._http.open)
        connection.sendall(GET[cut:])
        assert connection.recv(20).startswith(b"HTTP/1.1 200 OK\r\n")


def test_only_pages_of_the_allowed_origins_may_read() -> None:
    with serving() as ours, viewer(ours, Origin="https://a.example") as seen:
        assert seen.headers["Access-Control-Allow-Origin"] == "*"
    with serving(origins="https://a.example,https://b.example") as ours:
        with viewer(ours, Origin="https://b.example") as seen:
            assert seen.headers["Access-Control-Allow-Origin"] == "https://b.example"
            assert seen.headers["Vary"] == "Origin"
        with viewer(ours, Origin="https://c.example") as seen:
            assert "Access-Control-Allow-Origin" not in seen.headers
        asked = requests.options(ours.url, headers={"Origin": "https://a.example"}, timeout=10)
        assert (asked.status_code, asked.headers["Access-Control-Allow-Origin"]) == (204, "https://a.example")
        assert "Last-Event-ID" in asked.headers["Access-Control-Allow-Headers"]


def test_when_hundreds_come_and_leave_nothing_is_left_behind_and_the_others_miss_nothing() -> None:
    with serving(max_streams=400) as ours, viewer(ours) as stays:
        for _ in range(3):
            with ExitStack() as crowd:
                for _ in range(300):
                    crowd.enter_context(raw(ours.port, GET))
                ours.publish(2)
                ours.wait_for_streams(301)
                ours.publish(2)
            ours.wait_for_streams(1)
        stays.wait_for_batches(*range(12))
        wait_until("no connection is left", lambda: not ours.server._http.open)


def test_on_close_viewers_get_what_has_come_and_their_streams_end() -> None:
    with serving() as ours, viewer(ours) as seen:
        ours.publish(3)
        ours.server.close(10)
        wait_until("its end", lambda: seen.ended)
        assert seen.batch_ids() == [0, 1, 2]


def test_a_stream_has_the_counts_of_its_room_alone() -> None:
    with (
        serving() as ours, viewer(ours, "?room=final") as final, viewer(ours, "?room=semi") as semi,
        viewer(ours) as seen,
    ):  # fmt: skip
        ours.publish()
        for number, room in enumerate(["final", "semi", "final"]):
            count = Count("x", 1, batch_id=10 + number, batch_emojis=1, room=room)
            ours.rooms.append([consumed(count, 1, number)], caught_up=True)
        final.wait_for_batches(10, 12)
        semi.wait_for_batches(11)
        seen.wait_for_batches(0)


def test_the_last_stream_of_a_room_closes_it_and_a_new_one_goes_on() -> None:
    with serving() as ours:
        with viewer(ours, "?room=final") as first:
            ours.rooms.append([consumed(Count("x", 1, batch_id=1, batch_emojis=1, room="final"))], caught_up=True)
            first.wait_for_batches(1)
        ours.wait_for_streams(0)
        assert list(ours.server._rooms_open) == [DEFAULT_ROOM]
        ours.rooms.append([consumed(Count("x", 1, batch_id=2, batch_emojis=1, room="final"), 0, 1)], caught_up=True)
        with viewer(ours, "?room=final", **{"Last-Event-ID": first.last_event_id}) as again:
            again.wait_for_batches(2)
        with viewer(ours, "?room=final&recent=60") as late:
            [recent] = late.events
            assert [batch["batch_id"] for batch in recent["batches"]] == [1, 2]


@pytest.mark.parametrize("room", ["a/b", "a%20b", "%F0%9F%8F%9F", "x" * 65])
def test_a_stream_of_what_is_no_room_is_refused(room: str) -> None:
    with serving() as ours:
        answer = requests.get(f"http://127.0.0.1:{ours.port}/stream?room={room}", timeout=10)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("room: expected 1 to 64 characters of A-Z a-z 0-9 . _ ~ -, got ")
