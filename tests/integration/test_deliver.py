"""Hop 4: one cluster's topic → subscriber.py → the clients that registered with it."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import requests
from kafka import KafkaProducer

from emostream.process import why_not_ready
from emostream.settings import load
from testkit.broker import Broker
from testkit.http_calls import JSON, call
from testkit.http_servers import HttpClient, http_client
from testkit.ports import free_port_block, listening
from testkit.scripts import Script, script
from testkit.waiting import wait_until

CLUSTER = "cluster3-emoji-topic"
MAX_CLIENTS = 5
LONG_BATCH_SECONDS = 30


def count(number: int) -> bytes:
    """A count that no other is equal to."""
    return json.dumps({"emoji": "🔥", "count": 1, "batch_id": number}).encode()


def numbers(client: HttpClient) -> list[int]:
    """What distinguishes the counts that a client got."""
    return [received["batch_id"] for received in client.received]


def got(client: HttpClient, wanted: list[int]) -> None:
    """Return when a client has at least these counts."""
    wait_until(f"the client has {len(wanted)} counts", lambda: set(wanted) <= set(numbers(client)))


def gets_more(client: HttpClient, more: int) -> None:
    """Return when a client has this many counts more than now."""
    before = len(client.received)
    wait_until(f"the client has {more} counts more", lambda: len(client.received) >= before + more)


def closed_url() -> str:
    return f"http://127.0.0.1:{free_port_block(1)}/"


class Subscriber:
    """A running subscriber.py as its clients see it."""

    def __init__(self, port: int, process: Script) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.process = process

    def status(self) -> dict[str, Any]:
        status, body = call(f"{self.url}/status")
        assert status == 200
        assert isinstance(body, dict)
        return body

    def counter(self, name: str) -> int:
        return int(self.status()["counts"].get(name, 0))

    def post(self, what: str, client_url: str) -> tuple[int, Any]:
        return call(f"{self.url}/{what}", {"client_url": client_url})

    @contextmanager
    def registered(self, client_url: str) -> Iterator[None]:
        """A registration that ends with the block."""
        assert self.post("register", client_url) == (200, {"status": "registered", "client_url": client_url})
        try:
            yield
        finally:
            self.post("deregister", client_url)


@contextmanager
def running(broker: Broker, **settings: object) -> Iterator[Subscriber]:
    """A subscriber that takes clients."""
    # Its registrations are kept by number, its port comes from it: a port of its own lets several run.
    base = free_port_block(2) - 21
    # Counts that wait for a few batches are merged. A stall of the machine is to merge none.
    settings = {"BATCH_SECONDS": LONG_BATCH_SECONDS} | settings
    with script(
        broker.environment, "subscriber.py", CLUSTER_TOPIC=CLUSTER, SUBSCRIBER=1,
        SUBSCRIBER_BASE_PORT=base, STREAM_BASE_PORT=base + 1, **settings,
    ) as process:  # fmt: skip
        process.wait_for("msg=listening")
        wait_until("the subscriber listens", lambda: listening(base + 21))
        yield Subscriber(base + 21, process)


@pytest.fixture(scope="module")
def shared(broker: Broker) -> Iterator[Subscriber]:
    """One subscriber of five slots, from which nobody is evicted, for the tests that only use it."""
    broker.replace_topics()
    with running(broker, MAX_CLIENTS=MAX_CLIENTS, EVICT_AFTER_SECONDS=600) as subscriber:
        yield subscriber


@pytest.fixture
def subscriber(shared: Subscriber) -> Iterator[Subscriber]:
    """The shared subscriber with all slots free, which they have to be again after the test."""
    assert shared.status()["available_slots"] == MAX_CLIENTS
    yield shared
    assert shared.status()["available_slots"] == MAX_CLIENTS


def test_110_idle_connections_do_not_silence_a_subscriber(subscriber: Subscriber) -> None:
    port = int(subscriber.url.rpartition(":")[2])
    with ExitStack() as stack:
        for _ in range(110):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        assert requests.get(f"{subscriber.url}/status", timeout=5).status_code == 200


def test_a_client_registers_once_and_deregisters_once(subscriber: Subscriber) -> None:
    url = closed_url()
    assert subscriber.post("register", url) == (200, {"status": "registered", "client_url": url})
    assert subscriber.status()["available_slots"] == MAX_CLIENTS - 1
    assert subscriber.post("register", url) == (200, {"status": "already_registered", "client_url": url})
    assert subscriber.status()["available_slots"] == MAX_CLIENTS - 1
    assert subscriber.post("deregister", url) == (200, {"status": "deregistered", "client_url": url})
    assert subscriber.status()["available_slots"] == MAX_CLIENTS
    assert subscriber.post("deregister", url) == (404, {"status": "not_found", "client_url": url})


def test_when_20_clients_register_at_once_exactly_as_many_as_there_are_slots_get_one(subscriber: Subscriber) -> None:
    urls = [f"http://127.0.0.1:9/{number}" for number in range(20)]
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda url: subscriber.post("register", url), urls))
    taken = [url for url, (status, _) in zip(urls, answers, strict=True) if status == 200]
    refused = [body for status, body in answers if status == 503]
    assert len(taken) == MAX_CLIENTS
    assert len(refused) == 20 - MAX_CLIENTS
    assert all(list(body) == ["error"] for body in refused)
    assert subscriber.status()["available_slots"] == 0
    assert subscriber.post("register", taken[0])[1]["status"] == "already_registered"
    for url in taken:
        subscriber.post("deregister", url)


@pytest.mark.parametrize("path", ["/register", "/deregister"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"[]",
        b"{}",
        b'{"client_url": 5}',
        b'{"client_url": ""}',
        b'{"client_url": "localhost:8001"}',
        b'{"client_url": "ftp://localhost/"}',
        b'{"client_url": "http://"}',
        b'{"client_url": "http://localhost:99999/"}',
        b'{"client_url": "http://local host/"}',
        b'{"client_url": "http://[::1/"}',
        b'{"client_url": "http://localhost/\\n"}',
        b'{"client_url": "http://localhost/\\ud83d"}',
    ],
)
def test_an_invalid_client_url_is_refused_with_400(subscriber: Subscriber, path: str, body: bytes) -> None:
    answer = requests.post(subscriber.url + path, data=body, headers=JSON, timeout=30)
    assert answer.status_code == 400, answer.text
    assert "expected" in answer.json()["error"]


def test_a_body_that_is_too_large_is_refused_in_json(subscriber: Subscriber) -> None:
    body = json.dumps({"client_url": "http://localhost/" + "x" * 10_000})
    answer = requests.post(f"{subscriber.url}/register", data=body, headers=JSON, timeout=30)
    assert answer.status_code == 413
    assert "error" in answer.json()


def test_a_client_gets_every_count_published_after_it_registered_and_none_from_before(
    broker: Broker, subscriber: Subscriber
) -> None:
    before = subscriber.counter("consumed")
    broker.produce(CLUSTER, [count(number) for number in range(10)])
    wait_until("the first ten are consumed", lambda: subscriber.counter("consumed") == before + 10)
    with http_client() as client, subscriber.registered(client.url):
        wanted = list(range(10, 100))
        broker.produce(CLUSTER, [count(number) for number in wanted])
        got(client, wanted)
        assert sorted(numbers(client)) == wanted


def test_a_client_gets_nothing_from_before_it_registered_even_when_the_subscriber_is_behind(
    broker: Broker, subscriber: Subscriber
) -> None:
    os.kill(subscriber.process.process.pid, signal.SIGSTOP)
    broker.produce(CLUSTER, [count(number) for number in range(5_000)])
    os.kill(subscriber.process.process.pid, signal.SIGCONT)
    with http_client() as client, subscriber.registered(client.url):
        broker.produce(CLUSTER, [count(5_000)])
        got(client, [5_000])
        assert numbers(client) == [5_000]


def test_a_client_gets_the_value_unchanged_with_keys_that_the_subscriber_does_not_know(
    broker: Broker, subscriber: Subscriber
) -> None:
    with http_client() as client, subscriber.registered(client.url):
        broker.produce(CLUSTER, [b'{"later": [1, null], "count": 3, "emoji": "x"}'])
        wait_until("the count", lambda: client.received)
        assert client.received == [{"later": [1, None], "count": 3, "emoji": "x"}]
        assert client.headers[0]["Content-Type"] == "application/json"


def test_a_client_that_deregistered_gets_nothing_more(broker: Broker, subscriber: Subscriber) -> None:
    with http_client() as stays, http_client() as leaves, subscriber.registered(stays.url):
        with subscriber.registered(leaves.url):
            broker.produce(CLUSTER, [count(1)])
            got(leaves, [1])
        broker.produce(CLUSTER, [count(2)])
        got(stays, [1, 2])
        assert numbers(leaves) == [1]


def test_clients_that_fail_or_hang_delay_no_other(broker: Broker, subscriber: Subscriber) -> None:
    wanted = list(range(100))
    with (
        socket.create_server(("127.0.0.1", 0)) as hanging,  # takes connections and never answers
        http_client(status=500) as failing,
        http_client() as good,
        subscriber.registered(f"http://127.0.0.1:{hanging.getsockname()[1]}/"),
        subscriber.registered(failing.url),
        subscriber.registered(good.url),
    ):
        broker.produce(CLUSTER, [count(number) for number in wanted])
        got(good, wanted)
        assert len(subscriber.status()["clients"]) == 3  # both still hold their slots, so they were in the way


def test_a_client_that_failed_for_a_while_gets_what_it_missed(broker: Broker, subscriber: Subscriber) -> None:
    with http_client(status=503) as client, subscriber.registered(client.url):
        before = subscriber.counter("failed_attempts")
        broker.produce_at_once(CLUSTER, [count(number) for number in range(20)])
        wait_until("an attempt failed", lambda: subscriber.counter("failed_attempts") > before)
        client.status = 200
        got(client, list(range(20)))
        assert numbers(client) == list(range(20))


def test_while_10_clients_come_and_go_the_one_that_stays_misses_no_count_and_sees_none_twice(
    broker: Broker, subscriber: Subscriber
) -> None:
    with http_client() as stays, subscriber.registered(stays.url):
        with broker.stream(CLUSTER, count) as written:
            for _ in range(10):
                with http_client() as guest, subscriber.registered(guest.url):
                    gets_more(guest, 5)
        wanted = list(range(len(written)))
        got(stays, wanted)
        assert sorted(numbers(stays)) == wanted


def test_a_client_that_answers_410_is_evicted_at_once(broker: Broker, subscriber: Subscriber) -> None:
    with http_client(status=410) as gone:
        subscriber.post("register", gone.url)
        broker.produce(CLUSTER, [count(1)])
        wait_until("its slot is free", lambda: subscriber.status()["available_slots"] == MAX_CLIENTS)


def test_bad_records_are_skipped_by_topic_partition_and_offset_and_the_good_between_them_arrive(
    empty_topics: Broker,
) -> None:
    bad = [None, b"", b"no JSON", b"[]", b'{"emoji": "x"}', b'{"emoji": 5, "count": 1}', b'{"emoji": "x", "count": 0}']
    mixed = [value for number, value in enumerate(bad) for value in (value, count(number))]
    with running(empty_topics) as subscriber, http_client() as client, subscriber.registered(client.url):
        empty_topics.produce(CLUSTER, mixed, partition=1)
        got(client, list(range(len(bad))))
        assert numbers(client) == list(range(len(bad)))
        for offset in range(0, len(mixed), 2):
            assert f"topic={CLUSTER} partition=1 offset={offset} " in subscriber.process.log


def test_a_client_still_gets_counts_after_the_topics_are_replaced(empty_topics: Broker) -> None:
    with running(empty_topics) as subscriber, http_client() as client, subscriber.registered(client.url):
        empty_topics.produce(CLUSTER, [count(number) for number in range(100)])
        got(client, list(range(100)))
        empty_topics.replace_topics()
        empty_topics.produce(CLUSTER, [count(100)])
        got(client, [100])


@pytest.mark.parametrize("topic", [CLUSTER, "subscriber-registry"])
def test_a_subscriber_is_not_ready_while_a_topic_of_its_own_is_gone_and_says_so(
    empty_topics: Broker, topic: str
) -> None:
    with running(empty_topics) as subscriber, http_client() as client, subscriber.registered(client.url):
        wait_until("it is ready", lambda: call(f"{subscriber.url}/readyz") == (200, {"status": "ready"}))
        empty_topics.delete(topic)
        why = f"missing topics {topic}; ./topic.sh creates them"
        refused = (503, {"error": f"not ready: {why}"})
        wait_until("it is not ready", lambda: call(f"{subscriber.url}/readyz") == refused)
        wait_until("status knows why", lambda: not_ready(empty_topics, subscriber) == why)
        subscriber.process.wait_for(f'msg="not ready" reason="{why}"')
        empty_topics.replace_topics()
        wait_until("it is ready again", lambda: call(f"{subscriber.url}/readyz")[0] == 200)
        empty_topics.produce(CLUSTER, [count(1)])
        got(client, [1])


def not_ready(broker: Broker, subscriber: Subscriber) -> str | None:
    return why_not_ready(load([], broker.environment), "subscriber_3_1", subscriber.process.process.pid)


def test_after_kill_9_clients_are_still_registered_miss_nothing_and_recognise_repeats_by_key(
    empty_topics: Broker,
) -> None:
    with http_client() as client:
        with empty_topics.stream(CLUSTER, count) as written:
            with running(empty_topics) as subscriber:
                subscriber.post("register", client.url)
                first = len(written) + 10  # ten at a time are on their way, maybe from before
                gets_more(client, 20)
                subscriber.process.kill()
            for _ in range(2):
                with running(empty_topics) as subscriber:
                    assert subscriber.status()["clients"] == [client.url]
                    gets_more(client, 20)
                    subscriber.process.kill()
        with running(empty_topics):
            got(client, list(range(first, len(written))))
    by_key = dict(zip((headers["Idempotency-Key"] for headers in client.headers), numbers(client), strict=True))
    assert len(by_key) == len(set(numbers(client)))
    assert sorted(by_key.values()) == list(range(min(numbers(client)), len(written)))


def test_registrations_of_earlier_versions_are_restored_and_two_spellings_are_one_client(empty_topics: Broker) -> None:
    with http_client() as client:
        other = client.url.replace("http", "HTTP").rstrip("/")
        producer = KafkaProducer(bootstrap_servers=empty_topics.servers)
        for url in (client.url, other, "http://[no-url/", "http://user:secret@127.0.0.1/"):
            value = json.dumps({"client_url": url, "next_offsets": {"0": 0, "1": 0, "2": 0}}).encode()
            producer.send("subscriber-registry", key=f"{CLUSTER}/1/{url}".encode(), value=value, partition=0)
        producer.close()
        with running(empty_topics) as subscriber:
            assert subscriber.status()["clients"] == [client.url]
            assert "cannot be one" in subscriber.process.log
            empty_topics.produce(CLUSTER, [count(1)])
            got(client, [1])
            assert subscriber.post("register", other)[1] == {"status": "already_registered", "client_url": other}
            assert subscriber.post("deregister", other) == (200, {"status": "deregistered", "client_url": other})
            wait_until(
                "the broker has noted it",
                lambda: [record.value for record in empty_topics.registrations()][-1:] == [None],
            )
            subscriber.process.kill()
        with running(empty_topics) as subscriber:
            assert subscriber.status()["clients"] == []
        assert numbers(client) == [1]


def test_a_client_that_deregistered_stays_away_after_kill_9(empty_topics: Broker) -> None:
    with http_client() as client:
        with running(empty_topics) as subscriber:
            with subscriber.registered(client.url):
                pass
            wait_until(
                "the broker has noted it",
                lambda: [record.value for record in empty_topics.registrations()][-1:] == [None],
            )
            subscriber.process.kill()
        with running(empty_topics) as subscriber:
            assert subscriber.status()["clients"] == []


def test_at_sigterm_it_delivers_what_is_there_and_ends_with_status_0(empty_topics: Broker) -> None:
    wanted = list(range(200))
    with running(empty_topics) as subscriber, http_client() as client:
        subscriber.post("register", client.url)
        process = subscriber.process.process
        os.kill(process.pid, signal.SIGSTOP)
        empty_topics.produce(CLUSTER, [count(number) for number in wanted])
        os.kill(process.pid, signal.SIGTERM)
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(60) == 0
        assert sorted(numbers(client)) == wanted


def test_a_client_that_was_killed_is_evicted_and_its_slot_is_free(empty_topics: Broker) -> None:
    with running(empty_topics, MAX_CLIENTS=1, EVICT_AFTER_SECONDS=2) as subscriber:
        killed = closed_url()
        subscriber.post("register", killed)
        assert subscriber.post("register", closed_url() + "other")[0] == 503
        empty_topics.produce(CLUSTER, [count(1)])
        wait_until("its slot is free", lambda: subscriber.status()["available_slots"] == 1)
        subscriber.process.wait_for(f"msg=evicted client_url={killed}")
        with http_client() as other, subscriber.registered(other.url):
            empty_topics.produce(CLUSTER, [count(2)])
            got(other, [2])


def test_a_client_at_a_forbidden_address_is_refused(subscriber: Subscriber) -> None:
    for host in ("169.254.169.254", "2852039166", "[::ffff:169.254.169.254]", "8.8.8.8", "0", "nobody.invalid"):
        status, body = subscriber.post("register", f"http://{host}/latest/meta-data/")
        assert (status, "client_url" in body["error"]) == (400, True), host


def test_a_registration_with_a_token_ends_only_with_it_also_after_kill_9(empty_topics: Broker) -> None:
    with http_client() as client:
        ours = {"client_url": client.url, "token": "ours"}
        with running(empty_topics) as subscriber:
            assert call(f"{subscriber.url}/register", ours)[0] == 200
            subscriber.process.kill()
        with running(empty_topics) as subscriber:
            assert subscriber.post("deregister", client.url)[0] == 403
            assert call(f"{subscriber.url}/deregister", ours | {"token": "theirs"})[0] == 403
            assert subscriber.status()["clients"] == [client.url]
            assert call(f"{subscriber.url}/deregister", ours)[0] == 200


def test_with_verify_clients_only_a_client_that_echoes_is_registered(empty_topics: Broker) -> None:
    with running(empty_topics, VERIFY_CLIENTS=1) as subscriber, http_client() as deaf:
        status, body = subscriber.post("register", deaf.url)
        assert (status, "challenge" in body["error"]) == (400, True)
        assert subscriber.post("register", closed_url())[0] == 400
        assert subscriber.status()["clients"] == []
        ours = empty_topics.environment | {"SUBSCRIBER_BASE_PORT": str(int(subscriber.url.rsplit(":", 1)[1]) - 21)}
        with script(ours, "client.py", "--receive-only") as client:
            client.wait_for("registered with")
            assert len(subscriber.status()["clients"]) == 1


def test_a_slow_client_gets_fewer_and_larger_counts_with_the_exact_sum_also_after_kill_9(
    empty_topics: Broker,
) -> None:
    with http_client(status=503) as slow:
        with running(empty_topics, BATCH_SECONDS=0.2) as subscriber:
            subscriber.post("register", slow.url)
            with empty_topics.stream(CLUSTER, count) as written:
                wait_until("more than a hundred wait", lambda: len(written) > 200)
            slow.status = 200
            wait_until("some of it has arrived merged", lambda: any("merged" in got for got in slow.received))
            subscriber.process.kill()
        with running(empty_topics, BATCH_SECONDS=0.2) as subscriber:
            total = len(written)

            def unrepeated() -> int:
                keys = [headers["Idempotency-Key"] for headers in slow.headers]
                return sum({key: got["count"] for key, got in zip(keys, slow.received, strict=False)}.values())

            wait_until("the sum is exact", lambda: unrepeated() == total)
            empty_topics.produce(CLUSTER, [count(-1)])
            wait_until("and one more", lambda: unrepeated() == total + 1)
            assert len(slow.received) < total / 2


def test_a_taken_port_is_one_sentence_and_exit_2(broker: Broker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = {"CLUSTER_TOPIC": CLUSTER, "SUBSCRIBER_BASE_PORT": port - 21}
        with script(broker.environment, "subscriber.py", **settings) as process:
            assert process.process.wait(60) == 2
            assert process.log.count("\n") == 1
            assert f"cannot listen on 127.0.0.1:{port}" in process.log
