"""What the app makes of requests that nobody should send; tests/fuzz has the long run."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import requests

from testkit.broker import Broker
from testkit.http_calls import JSON
from testkit.ports import free_port_block, listening
from testkit.scripts import script
from testkit.waiting import wait_until
from tests.fuzz import delivery, ingest
from tests.fuzz.cases import Case, good_request, request
from tests.fuzz.ingest import canary, examples, exchange, judge, run, slow_clients

CASES = 4_000
DELIVERY_CASES = 3_000


@pytest.fixture(scope="module")
def port(broker: Broker) -> Iterator[int]:
    """One running app: its port."""
    broker.replace_topics()
    found = free_port_block(1)
    with script(broker.environment, "app.py", APP_PORT=found):
        wait_until("the app listens", lambda: listening(found))
        yield found


def test_no_request_stops_the_app_reveals_its_inside_or_loses_a_tap(empty_topics: Broker) -> None:
    total = run(empty_topics, free_port_block(1), seed=1, numbers=range(CASES))
    assert total.cases == CASES
    assert len(total.taken) > CASES // 10, f"most cases are refused; answers {total.statuses}"
    assert not total.findings, examples(total.findings)


def test_no_request_stops_a_subscriber_its_streams_or_a_client(empty_topics: Broker) -> None:
    total = delivery.run(empty_topics, seed=1, numbers=range(DELIVERY_CASES))
    assert total.cases == DELIVERY_CASES
    assert total.statuses[200] > DELIVERY_CASES // 10, f"most cases are refused; answers {total.statuses}"
    assert not total.findings, examples(total.findings)


def test_clients_that_never_finish_their_request_keep_nobody_waiting(port: int) -> None:
    with slow_clients(port, ingest.SLOW):
        assert not canary(port, "beside-slow-ones").findings


def test_a_header_that_is_not_ascii_is_refused_or_ignored(port: int) -> None:
    for header in (
        b"Content-Type: \xa6pplication/json",
        b"Host: \xff",
        b"Authorization: \xe9",
        b"X-Anything: \x80\xff",
    ):
        wire = good_request("u").replace(b"Host: localhost", b"Host: localhost\r\n" + header)
        found = judge(0, Case("a header that is no ASCII", [wire]), exchange(port, [wire], 1))
        assert not found.findings
        assert found.statuses, f"no answer to {header!r}"


def test_bytes_that_are_not_utf8_are_refused_without_words_of_python(port: int) -> None:
    url = f"http://127.0.0.1:{port}/send-emoji"
    answer = requests.post(url, b'{"user_id":"\xff"}', headers=JSON, timeout=10)
    assert answer.status_code == 400
    assert answer.json() == {"error": "expected a JSON object in UTF-8, got an invalid byte at position 12"}


def test_a_request_hidden_in_another_is_not_accepted(port: int) -> None:
    """Request smuggling: where a proxy and the app disagree about where a request ends, the one in between rules."""
    inner = good_request("smuggled")
    for headers in (("Transfer-Encoding: chunked", f"Content-Length: {len(inner) + 5}"), ("Content-Length: 4",)):
        wire = request(b"0\r\n\r\n" + inner, *headers)
        taken = exchange(port, [wire], None).count(b" 200 OK")
        assert taken == 0, f"{taken} taken of {wire!r}"


def test_an_unfinished_request_is_ended_by_the_app(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(good_request("u")[:-5])
        while connection.recv(4096):
            pass  # an answer may come before the end, and the end within the time-out


def test_the_fuzzer_notices_what_it_is_there_for() -> None:
    """The judge itself, so that its silence means something."""
    whole = [200]

    def findings(answer: bytes) -> list[str]:
        return judge(0, Case("good", [good_request("u")], ["u"], whole), answer).findings

    taken = b'{"status":"success","message":"Emoji sent to Kafka"}'
    good = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(taken), taken)
    assert not findings(good)
    assert "status 500" in findings(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n")[0]
    assert "Retry-After" in findings(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")[0]
    assert "internals" in findings(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nTraceback")[0]
    assert "without a reason" in findings(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno")[0]
    assert "no answer" in " ".join(findings(good + b"rubbish"))
    assert "expected [200]" in findings(b"")[0]
