"""The push engine against real HTTP servers: in order, nothing skipped, no client waits for another."""

from __future__ import annotations

import base64
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network

import pytest
from kafka.errors import KafkaError
from standardwebhooks import Webhook

from emostream.deliver.history import History, Record
from emostream.deliver.push import client as push
from emostream.deliver.push import engine as push_engine
from emostream.deliver.push import slow_clients
from emostream.deliver.push.allowed_networks import AllowedNetworks
from emostream.deliver.push.client import PushClient
from emostream.deliver.push.engine import PushEngine
from emostream.deliver.push.sender import PushPolicy
from emostream.deliver.registry import Registration
from emostream.http import client as push_http
from emostream.http.client import PushError, Target
from emostream.metrics.catalogue import DELIVER
from emostream.metrics.counters import Metrics
from emostream.process import Log
from emostream.records import Count, parse_count
from testkit.http_servers import Answer, Asked, HttpServer, http_server
from testkit.waiting import wait_until

LONG_SECONDS = 3600.0
# A client is behind after this long; well above the time that a busy machine takes to make the first attempt.
BEHIND_SECONDS = 1.0
TOPIC = "cluster1-emoji-topic"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(push, "LONGEST_PAUSE_SECONDS", 0.02)


@dataclass
class Pushing:
    """A PushClient, and what became of it."""

    history: History
    counters: Metrics
    engine: PushEngine
    client: PushClient = field(init=False)
    evictions: list[tuple[str, str]] = field(default_factory=list)
    kept: list[Registration] = field(default_factory=list)

    def next_offsets(self) -> Mapping[int, int]:
        return self.client.registration.next_offsets

    def wait_for_end(self) -> None:
        wait_until("all is dealt with", self.client.drained)


@contextmanager
def pushing(
    url: str, history: History, next_offsets: dict[int, int] | None = None,
    max_age_seconds: float = LONG_SECONDS, evict_after_seconds: float = LONG_SECONDS,
    merge_after_seconds: float = LONG_SECONDS, merging: dict[int, int] | None = None, secret: bytes = b"",
    keep_error: KafkaError | None = None, repeats_until: int = 0,
) -> Iterator[Pushing]:  # fmt: skip
    log = Log("test")
    counters = Metrics(log, DELIVER)

    def evict(client: PushClient, reason: str) -> None:
        found.evictions.append((client.client_url, reason))
        client.close()

    def keep(client: PushClient) -> None:
        found.kept.append(client.registration)
        if keep_error and len(found.kept) == 1:
            raise keep_error

    networks = AllowedNetworks([ip_network("127.0.0.0/8")])
    policy = PushPolicy(TOPIC, 2, merge_after_seconds, max_age_seconds, evict_after_seconds, networks, secret)
    engine = PushEngine(policy, counters, log, evict, keep)
    found = Pushing(history, counters, engine)
    history.on_append(engine.wake)
    found.client = engine.add(history, Registration(url, next_offsets or {}, merging), 0, 0, repeats_until)
    try:
        yield found
    finally:
        engine.close()
        assert not engine.running


def history_of(*records: Record, max_records: int = 10_000) -> History:
    history = History(max_age_seconds=10 * LONG_SECONDS, max_records=max_records)
    history.append(list(records), now_ms=time.time() * 1000)
    return history


def record(partition: int, offset: int, age_seconds: float = 0) -> Record:
    published_ms = round((time.time() - age_seconds) * 1000)
    return Record(partition, offset, published_ms, b'{"at": "%d/%d"}' % (partition, offset), Count("x", 1))


RECORDS = [record(number % 3, number // 3) for number in range(250)]  # more than one RECORDS_AT_ONCE


def answers(*first: int | Answer) -> Callable[[Asked], Answer]:
    """These answers, one after another, and 200 for whatever is asked after them."""
    left = list(first)

    def answer(_: Asked) -> Answer:
        given = left.pop(0) if left else 200
        return given if isinstance(given, Answer) else Answer(given)

    return answer


def bodies(server: HttpServer) -> list[bytes]:
    return [asked.body for asked in server.asked]


def keys(server: HttpServer) -> list[str]:
    return [asked.headers["Idempotency-Key"] for asked in server.asked]


def test_records_arrive_unchanged_and_in_order() -> None:
    with http_server(answers()) as server, pushing(server.url, history_of(*RECORDS)) as ours:
        ours.wait_for_end()
        assert bodies(server) == [record.value for record in RECORDS]
        assert ours.counters.snapshot() == {"delivered": len(RECORDS)}


def test_a_push_is_json_and_its_headers_name_the_subscriber_the_record_and_its_times() -> None:
    pushed = record(2, 41)
    with http_server(answers()) as server, pushing(server.url, history_of(pushed)) as ours:
        ours.wait_for_end()
    [asked] = server.asked
    expected = {
        "Content-Type": "application/json", "Idempotency-Key": f"{TOPIC}/2/41", "Subscriber": f"{TOPIC}/2",
        "Routed-Ms": str(pushed.timestamp_ms),
    }  # fmt: skip
    assert (asked.method, asked.headers | expected) == ("POST", asked.headers)
    assert 0 <= int(asked.headers["Pushed-Ms"]) - pushed.timestamp_ms < 60_000


def test_the_latency_of_one_tap_is_measured_for_each_count_that_a_client_took() -> None:
    now_ms = round(time.time() * 1000)
    count = Count(
        "x", 1, first_accepted_ms=now_ms - 3_000, last_accepted_ms=now_ms - 2_000, batched_ms=now_ms - 1_000
    )
    timed = [Record(0, offset, now_ms - 500, b"{}", count) for offset in range(3)]
    with http_server(answers(500)) as server, pushing(server.url, history_of(*timed, record(1, 0))) as ours:
        ours.wait_for_end()
        measured = ours.counters.histograms
        assert [measured[key].count for key in ("stage_batch", "stage_route", "stage_push", "tap_to_screen")] == [3] * 4
        assert measured["tap_to_screen"].sum >= 3 * 2.0
        assert measured["stage_route"].sum == pytest.approx(3 * 0.5)


def test_a_failed_push_is_repeated_with_the_same_key_before_the_next_one() -> None:
    failing = answers(500, 503, 200, 400, 429, 200)
    with http_server(failing) as server, pushing(server.url, history_of(*RECORDS[:4])) as ours:
        ours.wait_for_end()
        expected = [f"{TOPIC}/{r.partition}/{r.offset}" for r in RECORDS[:4]]
        assert keys(server) == [expected[0]] * 3 + [expected[1]] * 3 + expected[2:]
        assert ours.counters.snapshot() == {"delivered": 4, "failed_attempts": 4}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(status: int) -> None:
    redirect = Answer(status, headers={"Location": "/elsewhere"})
    with http_server(answers(redirect)) as server, pushing(server.url, history_of(record(0, 0))) as ours:
        ours.wait_for_end()
    assert [asked.path for asked in server.asked] == ["/", "/"]


class JunkServer(socketserver.ThreadingTCPServer):
    """Answers the first request with junk and every later one as it should."""

    daemon_threads = True

    def __init__(self, junk: bytes) -> None:
        super().__init__(("127.0.0.1", 0), JunkHandler)
        self.junk = junk
        self.asked = 0


class JunkHandler(socketserver.BaseRequestHandler):
    server: JunkServer

    def handle(self) -> None:
        self.request.recv(65536)
        self.server.asked += 1
        self.request.sendall(
            self.server.junk
            if self.server.asked == 1
            else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )


@contextmanager
def pushing_to_junk(junk: bytes) -> Iterator[Pushing]:
    """One record, dealt with by a client that begins with junk."""
    with JunkServer(junk) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        with pushing(f"http://127.0.0.1:{server.server_address[1]}/", history_of(record(0, 0))) as ours:
            ours.wait_for_end()
            yield ours
        server.shutdown()


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\x00\xff\r\n\r\n",
        b"HTTP/1.1 9999999 \x1b[31m\r\n\r\n",
        b"HTTP/1.1 500 " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 500 x\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 500 x\r\nContent-Length: abc\r\n\r\n",
        b"HTTP/1.1 500 x\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 500 x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 302 x\r\nLocation: http://[\r\nContent-Length: 0\r\nSet-Cookie: \xff=\x00\r\n\r\n",
    ],
    ids=lambda junk: repr(junk[:40]),
)
def test_an_answer_that_is_junk_is_one_failed_attempt(junk: bytes) -> None:
    with pushing_to_junk(junk) as ours:
        assert ours.counters.snapshot() == {"delivered": 1, "failed_attempts": 1}


def test_the_status_decides_even_when_the_body_would_be_long() -> None:
    with pushing_to_junk(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nx") as ours:
        assert ours.counters.snapshot() == {"delivered": 1}


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 x\r\nContent-Length: 9\r\nContent-Encoding: gzip\r\n\r\nnot gzip!",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 202 x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 299 x\r\nContent-Length: 5\r\n\r\nhello and more than was announced",
    ],
    ids=lambda answer: repr(answer[:40]),
)
def test_an_answer_that_begins_with_a_2xx_is_a_delivery(answer: bytes) -> None:
    with pushing_to_junk(answer) as ours:
        assert ours.counters.snapshot() == {"delivered": 1}


def test_an_answer_that_comes_byte_by_byte_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_http, "READ_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pushing(f"http://127.0.0.1:{port}/", history_of(record(0, 0)), evict_after_seconds=0.5) as ours:

            def trickle() -> None:
                while not ours.evictions:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        for byte in b"HTTP/1.1 200 " + b"x" * 1000:
                            connection.sendall(bytes([byte]))
                            time.sleep(0.05)

            threading.Thread(target=trickle, daemon=True).start()
            wait_until("the eviction", lambda: ours.evictions)
            assert "no answer within 0.3 s" in ours.evictions[0][1]


def test_only_the_beginning_of_an_endless_body_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_http, "READ_SECONDS", 3600.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pushing(f"http://127.0.0.1:{listener.getsockname()[1]}/", history_of(record(0, 0))) as ours:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 2000)
                ours.wait_for_end()
        assert ours.counters.snapshot() == {"delivered": 1}


def test_a_410_ends_a_registration_at_once() -> None:
    with http_server(answers(410)) as server, pushing(server.url, history_of(*RECORDS)) as ours:
        wait_until("the eviction", lambda: ours.evictions)
        assert ours.evictions == [(server.url, "it answered 410 Gone")]
        assert len(server.asked) == 1


def test_a_client_that_fails_for_too_long_is_evicted_with_the_reason() -> None:
    failing = http_server(lambda _: Answer(500))
    with failing as server, pushing(server.url, history_of(*RECORDS), evict_after_seconds=0.2) as ours:
        wait_until("the eviction", lambda: ours.evictions)
        [(url, reason)] = ours.evictions
        assert (url, "0.2 s" in reason, "500" in reason) == (server.url, True, True)
        assert set(bodies(server)) == {RECORDS[0].value}
        counted = ours.counters.snapshot()
        assert (counted["lost"], counted["dropped"]) == (1, len(RECORDS) - 1)
        assert len(server.asked) > 1


def test_a_refused_connection_is_a_failed_attempt() -> None:
    with http_server(answers()) as closed:
        pass
    with pushing(closed.url, history_of(record(0, 0)), evict_after_seconds=0.2) as ours:
        wait_until("the eviction", lambda: ours.evictions)
        assert "ConnectionRefusedError" in ours.evictions[0][1]


def test_a_success_restarts_the_time_to_eviction() -> None:
    history = history_of(record(0, 0))
    with (
        http_server(answers(500, 200, 500, 200)) as server,
        pushing(server.url, history, evict_after_seconds=2.0) as ours,
    ):
        ours.wait_for_end()
        time.sleep(2.0)  # the clock has to pass what may be failed for
        history.append([record(0, 1)], now_ms=time.time() * 1000)
        ours.wait_for_end()
        assert (ours.evictions, len(server.asked)) == ([], 4)


def test_a_record_that_is_too_old_is_counted_as_expired_and_not_sent() -> None:
    history = history_of(record(0, 0, age_seconds=100), record(0, 1))
    with http_server(answers()) as server, pushing(server.url, history, max_age_seconds=50) as ours:
        ours.wait_for_end()
        assert keys(server) == [f"{TOPIC}/0/1"]
        assert ours.counters.snapshot() == {"expired": 1, "delivered": 1}
        assert ours.next_offsets() == {0: 2}


def test_a_record_that_gets_too_old_while_it_fails_is_lost_and_the_next_one_is_sent() -> None:
    served = http_server(lambda asked: Answer(500 if asked.headers["Idempotency-Key"].endswith("/0") else 200))
    history = history_of(record(0, 0, age_seconds=9.5), record(0, 1))
    with served as server, pushing(server.url, history, max_age_seconds=10) as ours:
        ours.wait_for_end()
        assert (ours.counters.snapshot()["lost"], keys(server)[-1]) == (1, f"{TOPIC}/0/1")


def test_records_that_the_history_had_no_room_for_are_counted_as_dropped() -> None:
    history = history_of(*RECORDS[:5], max_records=2)
    with http_server(answers()) as server, pushing(server.url, history) as ours:
        ours.wait_for_end()
        assert ours.counters.snapshot() == {"dropped": 3, "delivered": 2}


def test_a_client_that_hangs_delays_no_other() -> None:
    done = threading.Event()

    def hang(_: Asked) -> Answer:
        done.wait(60)
        return Answer()

    history = history_of(*RECORDS)
    with http_server(hang) as stuck, http_server(answers()) as server:
        with pushing(stuck.url, history) as theirs:
            wait_until("the stuck client was asked", lambda: stuck.asked)
            with pushing(server.url, history) as ours:
                ours.wait_for_end()
                assert len(server.asked) == len(RECORDS)
            assert theirs.next_offsets() == {}
        done.set()


def test_a_client_goes_on_after_the_saved_offsets() -> None:
    before = {0: 2, 1: 0}
    with http_server(answers()) as server, pushing(server.url, history_of(*RECORDS[:9]), before) as ours:
        ours.wait_for_end()
        assert keys(server) == [f"{TOPIC}/{at}" for at in ("1/0", "2/0", "1/1", "2/1", "0/2", "1/2", "2/2")]
        assert ours.next_offsets() == {0: 3, 1: 3, 2: 3}


def test_a_saved_offset_never_goes_back() -> None:
    with http_server(answers()) as server, pushing(server.url, history_of(record(0, 1)), {0: 7}) as ours:
        ours.wait_for_end()
        assert (ours.next_offsets(), server.asked) == ({0: 7}, [])


def test_a_removed_client_is_not_tried_again() -> None:
    with http_server(lambda _: Answer(500)) as server, pushing(server.url, history_of(*RECORDS)) as ours:
        wait_until("a first attempt", lambda: server.asked)
        ours.client.close()
        wait_until("it has ended", lambda: not ours.engine.clients)
        before = len(server.asked)
        time.sleep(0.1)  # several pauses long; nothing is waited for
        assert (len(server.asked), ours.evictions) == (before, [])


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server(answers()) as proxy, http_server(answers()) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        with pushing(server.url, history_of(record(0, 0))) as ours:
            ours.wait_for_end()
        assert (len(proxy.asked), len(server.asked)) == (0, 1)


def test_a_dead_client_is_evicted_even_when_there_is_nothing_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "IDLE_SECONDS", 0.02)
    with http_server(answers()) as closed:
        pass
    with pushing(closed.url, history_of(), evict_after_seconds=0.2) as ours:
        wait_until("the eviction", lambda: ours.evictions)


def test_a_client_that_listens_keeps_its_slot_while_there_is_nothing_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "IDLE_SECONDS", 0.02)
    history = history_of()
    with http_server(answers()) as server, pushing(server.url, history, evict_after_seconds=0.1) as ours:
        time.sleep(0.5)  # many probes long; nothing is waited for
        history.append([record(0, 0)], now_ms=time.time() * 1000)
        ours.wait_for_end()
        assert not ours.evictions


def test_a_connection_is_kept_open_and_one_that_the_client_closed_is_not_a_failure() -> None:
    history = history_of(record(0, 0))
    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answered in (2, 1, 9):  # and then it ends the connection, just as it is used again
                connection, _ = listener.accept()
                accepted.append(answered)
                with connection:
                    for _ in range(answered):
                        if not connection.recv(65536):
                            return
                        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
                    connection.recv(65536)

        threading.Thread(target=serve, daemon=True).start()
        with pushing(f"http://127.0.0.1:{listener.getsockname()[1]}/", history) as ours:
            for number in range(1, 6):
                ours.wait_for_end()
                history.append([record(0, number)], now_ms=time.time() * 1000)
            ours.wait_for_end()
            assert (ours.counters.snapshot(), accepted) == ({"delivered": 6}, [2, 1, 9])


def test_retry_after_is_waited_for() -> None:
    busy, times = answers(Answer(503, headers={"Retry-After": "1"})), list[float]()

    def answer(asked: Asked) -> Answer:
        times.append(time.monotonic())
        return busy(asked)

    with http_server(answer) as server, pushing(server.url, history_of(record(0, 0))) as ours:
        ours.wait_for_end()
    first, second = times
    assert second - first > 0.9


@pytest.mark.parametrize("odd", ["x", "-1", "1e9", "\u0661", "Thu, 99 Foo", "9" * 400])
def test_an_invalid_retry_after_does_no_harm(odd: str) -> None:
    assert (push_http._seconds(odd) or 0.0) >= 0.0


def test_a_retry_after_may_be_a_date() -> None:
    assert push_http._seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert (push_http._seconds("Wed, 21 Oct 2999 07:28:00 GMT") or 0.0) > 1e9


def failing_for(seconds: float, *then: int) -> Callable[[Asked], Answer]:
    """500 until the first question is so old, and then these and 200."""
    began: list[float] = []
    later = answers(*then)

    def answer(asked: Asked) -> Answer:
        began.append(time.monotonic())
        return Answer(500) if began[-1] < began[0] + seconds else later(asked)

    return answer


def counted(offset: int, emoji: str, **more: int) -> Record:
    value = json.dumps({"emoji": emoji, "count": 1, "batch_id": offset} | more).encode()
    return Record(0, offset, round(time.time() * 1000) - 1000 + offset, value, parse_count(value))


def test_a_slow_client_gets_one_sum_per_emoji_and_loses_nothing() -> None:
    history = history_of(*(counted(n, "🔥👏"[n % 2], events=10, first_accepted_ms=n) for n in range(101)))
    failing = failing_for(1.5 * BEHIND_SECONDS)
    with http_server(failing) as server, pushing(server.url, history, merge_after_seconds=BEHIND_SECONDS) as ours:
        ours.wait_for_end()
        history.append([counted(101, "🔥")], now_ms=time.time() * 1000)
        ours.wait_for_end()
        single, *sums, later = [json.loads(asked.body) for asked in server.asked[-4:]]
        assert single == {"emoji": "🔥", "count": 1, "batch_id": 0, "events": 10, "first_accepted_ms": 0}
        assert sums == [
            {"emoji": "👏", "count": 50, "events": 500, "merged": 50, "batch_id": 99, "first_accepted_ms": 1},
            {"emoji": "🔥", "count": 50, "events": 500, "merged": 50, "batch_id": 100, "first_accepted_ms": 2},
        ]
        newest = [history.after(offset, 1)[1][0].timestamp_ms for offset in (99, 100)]
        assert [int(asked.headers["Routed-Ms"]) for asked in server.asked[-3:-1]] == newest
        assert later == {"emoji": "🔥", "count": 1, "batch_id": 101}
        failed = len(server.asked) - 4
        assert ours.counters.snapshot() == {"delivered": 4, "merged": 98, "failed_attempts": failed}
        # What is in the sums was noted before the first of them was tried.
        assert ours.kept == [Registration(server.url, {0: 1}, {0: 101})]
        assert ours.client.registration == Registration(server.url, {0: 102})


def test_a_sum_has_no_events_when_one_of_its_counts_lacks_them() -> None:
    history = history_of(record(0, 0), counted(1, "x", events=5), counted(2, "x"))
    served = http_server(failing_for(1.5 * BEHIND_SECONDS))
    with served as server, pushing(server.url, history, merge_after_seconds=BEHIND_SECONDS) as ours:
        ours.wait_for_end()
        assert json.loads(server.asked[-1].body) == {"emoji": "x", "count": 2, "merged": 2, "batch_id": 2}


def test_emojis_for_which_the_sums_have_no_room_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "MAX_EMOJIS", 2)
    history = history_of(*(counted(n, "abc"[n % 3]) for n in range(9)))
    with http_server(answers()) as server, pushing(server.url, history, merge_after_seconds=0.0) as ours:
        ours.wait_for_end()
        assert ours.counters.snapshot() == {"delivered": 2, "merged": 4, "dropped": 3}


def test_after_a_restart_a_merged_count_that_may_have_arrived_is_sent_again_unchanged() -> None:
    records = [counted(n, "🔥👏"[n % 2]) for n in range(40)]
    tried: list[Asked] = []
    failing = failing_for(1.5 * BEHIND_SECONDS)

    def die_at_the_second_sum(asked: Asked) -> Answer:
        answer = failing(asked)
        if answer.status == 200:
            tried.append(asked)
        return Answer(200 if len(tried) <= 2 else 500) if answer.status == 200 else answer

    served, earlier = http_server(die_at_the_second_sum), history_of(*records[:30])
    with served as server, pushing(server.url, earlier, merge_after_seconds=BEHIND_SECONDS) as ours:
        wait_until("the second sum was tried", lambda: len(tried) > 2)
        kept = ours.kept[0]
    before = {(asked.headers["Idempotency-Key"], asked.body) for asked in tried[1:]}
    served, history = http_server(answers()), history_of(*records)
    with served as server, pushing(server.url, history, kept.next_offsets, merging=kept.merging) as ours:
        ours.wait_for_end()
        again = [(asked.headers["Idempotency-Key"], asked.body) for asked in server.asked]
        assert before == set(again[:2])
        assert len(again) == 12
        assert sum(json.loads(body)["count"] for _, body in again) == 39
        assert ours.client.registration == Registration(server.url, {0: 40})


def test_after_a_restart_records_that_may_have_arrived_are_sent_again_one_by_one_and_never_in_a_sum() -> None:
    records = [counted(n, "🔥") for n in range(5)]
    history = history_of(*records)
    with (
        http_server(answers()) as server,
        pushing(server.url, history, {0: 2}, merge_after_seconds=0.0, repeats_until=history.end) as ours,
    ):
        ours.wait_for_end()
        assert keys(server) == [f"{TOPIC}/0/{offset}" for offset in (2, 3, 4)]
        history.append([counted(n, "🔥") for n in (5, 6)], now_ms=time.time() * 1000)
        ours.wait_for_end()
        assert json.loads(server.asked[-1].body)["count"] == 2


def test_merged_counts_wait_until_the_list_of_their_records_is_saved() -> None:
    history = history_of(*(counted(n, "x") for n in range(5)))
    served, away = http_server(failing_for(1.5 * BEHIND_SECONDS)), KafkaError("away")
    with served as server, pushing(server.url, history, merge_after_seconds=BEHIND_SECONDS, keep_error=away) as ours:
        ours.wait_for_end()
        assert len(ours.kept) == 2
        assert json.loads(server.asked[-1].body)["count"] == 4


def test_pushes_are_signed_by_standard_webhooks() -> None:
    secret = b"s" * 32
    with http_server(answers()) as server, pushing(server.url, history_of(counted(0, "🔥")), secret=secret) as ours:
        ours.wait_for_end()
    [asked] = server.asked
    assert Webhook(base64.b64encode(secret).decode()).verify(asked.body, asked.headers)["emoji"] == "🔥"
    with pytest.raises(Exception, match="signature"):
        Webhook(base64.b64encode(b"x" * 32).decode()).verify(asked.body, asked.headers)


def test_no_connection_is_made_to_a_network_that_is_not_allowed() -> None:
    with http_server(answers()) as server:
        url = server.url.replace("127.0.0.1", "[::ffff:169.254.169.254]")
        with pushing(url, history_of(record(0, 0)), evict_after_seconds=0.1) as ours:
            wait_until("the eviction", lambda: ours.evictions)
            assert "Forbidden" in ours.evictions[0][1]


def test_a_challenge_that_is_not_echoed_in_time_is_a_push_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_engine, "VERIFY_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pushing(url, history_of()) as ours, pytest.raises(PushError, match=r"expected .* within 0\.1 s, got no"):
            ours.engine.verify(url, "abc")


def test_a_client_must_echo_the_challenge() -> None:
    with http_server(lambda asked: Answer(200, asked.body)) as echo, http_server(answers()) as deaf:
        with pushing(echo.url, history_of()) as ours:
            ours.engine.verify(echo.url, "abc")
            with pytest.raises(PushError, match="abc"):
                ours.engine.verify(deaf.url, "abc")
        assert json.loads(echo.asked[0].body) == {"challenge": "abc"}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h", b"POST / HTTP/1.1\r\nHost: h\r\n"),
        ("http://h:8001/a b?q=\u00e9#f", b"POST /a%20b?q=%C3%A9 HTTP/1.1\r\nHost: h:8001\r\n"),
        ("https://[::1]:1/%41", b"POST /%41 HTTP/1.1\r\nHost: [::1]:1\r\n"),
        ("http://b\u00fccher.example/", b"POST / HTTP/1.1\r\nHost: xn--bcher-kva.example\r\n"),
    ],
)
def test_a_request_has_the_path_and_host_of_the_url(url: str, expected: bytes) -> None:
    assert Target.parse(url).head.startswith(expected)
