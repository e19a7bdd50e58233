"""emostream.push.PushClient against real HTTP servers: in order, nothing skipped, nobody waits for another."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from emostream import push
from emostream.history import History, Record
from emostream.push import PushClient, PushPolicy
from emostream.runtime import Counters, Log
from tests.harness import wait_until
from tests.unit.support import Answer, Asked, HttpServer, http_server

LONG_SECONDS = 3600.0
TOPIC = "cluster1-emoji-topic"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(push, "LONGEST_PAUSE_SECONDS", 0.02)


@dataclass
class Pushing:
    """A PushClient, and what became of it."""

    history: History
    counters: Counters
    evictions: list[tuple[str, str]] = field(default_factory=list)
    client: PushClient | None = None

    def next_offsets(self) -> dict[int, int]:
        assert self.client
        return self.client.next_offsets()

    def wait_for_end(self) -> None:
        assert self.client
        wait_until("all is dealt with", self.client.drained, timeout_seconds=30)


@contextmanager
def pushing(
    url: str, history: History, next_offsets: Mapping[int, int] | None = None,
    max_age_seconds: float = LONG_SECONDS, evict_after_seconds: float = LONG_SECONDS,
) -> Iterator[Pushing]:  # fmt: skip
    log = Log("test")
    found = Pushing(history, Counters(log))

    def evict(client_url: str, client: PushClient, reason: str) -> None:
        found.evictions.append((client_url, reason))
        client.close()

    policy = PushPolicy(TOPIC, 2, max_age_seconds, evict_after_seconds)
    found.client = PushClient(url, history, 0, next_offsets or {}, 0, policy, found.counters, log, evict)
    try:
        yield found
    finally:
        found.client.close()


def history_of(*records: Record, max_records: int = 10_000) -> History:
    history = History(max_age_seconds=10 * LONG_SECONDS, max_records=max_records)
    history.append(list(records), now_ms=time.time() * 1000)
    return history


def record(partition: int, offset: int, age_seconds: float = 0) -> Record:
    return Record(
        partition, offset, round((time.time() - age_seconds) * 1000), b'{"at": "%d/%d"}' % (partition, offset)
    )


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


def test_a_push_is_json_and_says_who_sends_which_record() -> None:
    with http_server(answers()) as server, pushing(server.url, history_of(record(2, 41))) as ours:
        ours.wait_for_end()
    [asked] = server.asked
    expected = {
        "Content-Type": "application/json", "Idempotency-Key": f"{TOPIC}/2/41", "Subscriber": f"{TOPIC}/2",
    }  # fmt: skip
    assert (asked.method, asked.headers | expected) == ("POST", asked.headers)


def test_a_record_that_fails_is_repeated_under_the_same_key_before_the_next_one() -> None:
    failing = answers(500, 503, 200, 400, 429, 200)
    with http_server(failing) as server, pushing(server.url, history_of(*RECORDS[:4])) as ours:
        ours.wait_for_end()
        expected = [f"{TOPIC}/{r.partition}/{r.offset}" for r in RECORDS[:4]]
        assert keys(server) == [expected[0]] * 3 + [expected[1]] * 3 + expected[2:]
        assert ours.counters.snapshot() == {"delivered": 4, "failed_attempts": 4}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_that_is_not_followed(status: int) -> None:
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
        b"HTTP/1.1 200 x\r\nContent-Length: 9\r\nContent-Encoding: gzip\r\n\r\nnot gzip!",
        b"HTTP/1.1 500 x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 302 x\r\nLocation: http://[\r\nContent-Length: 0\r\nSet-Cookie: \xff=\x00\r\n\r\n",
    ],
    ids=lambda junk: repr(junk[:40]),
)
def test_junk_for_an_answer_is_one_failure_and_ends_nothing(junk: bytes) -> None:
    with pushing_to_junk(junk) as ours:
        assert ours.counters.snapshot() == {"delivered": 1, "failed_attempts": 1}


def test_an_answer_counts_by_its_status_however_long_its_body_would_be() -> None:
    with pushing_to_junk(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nx") as ours:
        assert ours.counters.snapshot() == {"delivered": 1}


def test_410_ends_a_registration_at_the_first_answer() -> None:
    with http_server(answers(410)) as server, pushing(server.url, history_of(*RECORDS)) as ours:
        wait_until("the eviction", lambda: ours.evictions, timeout_seconds=10)
        assert ours.evictions == [(server.url, "it answered 410 Gone")]
        assert len(server.asked) == 1


def test_a_client_that_fails_for_too_long_is_evicted_with_the_reason() -> None:
    failing = http_server(lambda _: Answer(500))
    with failing as server, pushing(server.url, history_of(*RECORDS), evict_after_seconds=0.2) as ours:
        wait_until("the eviction", lambda: ours.evictions, timeout_seconds=10)
        [(url, reason)] = ours.evictions
        assert (url, "0.2 s" in reason, "500" in reason) == (server.url, True, True)
        assert set(bodies(server)) == {RECORDS[0].value}
        assert len(server.asked) > 1


def test_nobody_listening_is_a_failure_like_any_other() -> None:
    with http_server(answers()) as closed:
        pass
    with pushing(closed.url, history_of(record(0, 0)), evict_after_seconds=0.2) as ours:
        wait_until("the eviction", lambda: ours.evictions, timeout_seconds=10)
        assert "ConnectionError" in ours.evictions[0][1]


def test_a_success_starts_the_time_to_eviction_anew() -> None:
    history = history_of(record(0, 0))
    with (
        http_server(answers(500, 200, 500, 200)) as server,
        pushing(server.url, history, evict_after_seconds=0.3) as ours,
    ):
        ours.wait_for_end()
        time.sleep(0.3)  # the clock has to pass what may be failed for
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


def test_a_record_that_gets_too_old_while_it_fails_makes_way_for_the_next_one() -> None:
    served = http_server(lambda asked: Answer(500 if asked.headers["Idempotency-Key"].endswith("/0") else 200))
    history = history_of(record(0, 0, age_seconds=9.5), record(0, 1))
    with served as server, pushing(server.url, history, max_age_seconds=10) as ours:
        ours.wait_for_end()
        assert (ours.counters.snapshot()["expired"], keys(server)[-1]) == (1, f"{TOPIC}/0/1")


def test_records_that_the_history_forgot_are_counted_as_expired() -> None:
    history = history_of(*RECORDS[:5], max_records=2)
    with http_server(answers()) as server, pushing(server.url, history) as ours:
        ours.wait_for_end()
        assert ours.counters.snapshot() == {"expired": 3, "delivered": 2}


def test_a_client_that_hangs_delays_no_other() -> None:
    done = threading.Event()

    def hang(_: Asked) -> Answer:
        done.wait(60)
        return Answer()

    history = history_of(*RECORDS)
    with http_server(hang) as stuck, http_server(answers()) as server:
        with pushing(stuck.url, history) as theirs:
            wait_until("the stuck client was asked", lambda: stuck.asked, timeout_seconds=10)
            with pushing(server.url, history) as ours:
                ours.wait_for_end()
                assert len(server.asked) == len(RECORDS)
            assert theirs.next_offsets() == {}
        done.set()


def test_a_client_goes_on_after_the_offsets_that_were_kept() -> None:
    before = {0: 2, 1: 0}
    with http_server(answers()) as server, pushing(server.url, history_of(*RECORDS[:9]), before) as ours:
        ours.wait_for_end()
        assert keys(server) == [f"{TOPIC}/{at}" for at in ("1/0", "2/0", "1/1", "2/1", "0/2", "1/2", "2/2")]
        assert ours.next_offsets() == {0: 3, 1: 3, 2: 3}


def test_an_offset_that_was_kept_never_goes_back() -> None:
    with http_server(answers()) as server, pushing(server.url, history_of(record(0, 1)), {0: 7}) as ours:
        ours.wait_for_end()
        assert (ours.next_offsets(), server.asked) == ({0: 7}, [])


def test_a_closed_client_does_not_try_again() -> None:
    with http_server(lambda _: Answer(500)) as server, pushing(server.url, history_of(*RECORDS)) as ours:
        wait_until("a first attempt", lambda: server.asked, timeout_seconds=10)
        assert ours.client
        ours.client.close()
        name = f"push {server.url}"
        wait_until("its thread ends", lambda: all(t.name != name for t in threading.enumerate()), timeout_seconds=10)
        assert ours.evictions == []


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server(answers()) as proxy, http_server(answers()) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        with pushing(server.url, history_of(record(0, 0))) as ours:
            ours.wait_for_end()
        assert (len(proxy.asked), len(server.asked)) == (0, 1)


def test_a_client_that_died_is_evicted_though_there_is_nothing_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "IDLE_SECONDS", 0.02)
    with http_server(answers()) as closed:
        pass
    with pushing(closed.url, history_of(), evict_after_seconds=0.2) as ours:
        wait_until("the eviction", lambda: ours.evictions, timeout_seconds=10)


def test_a_client_that_listens_keeps_its_slot_while_there_is_nothing_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "IDLE_SECONDS", 0.02)
    history = history_of()
    with http_server(answers()) as server, pushing(server.url, history, evict_after_seconds=0.1) as ours:
        time.sleep(0.5)  # many probes long; nothing is waited for
        history.append([record(0, 0)], now_ms=time.time() * 1000)
        ours.wait_for_end()
        assert not ours.evictions
