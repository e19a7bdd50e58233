"""emostream.discovery: what is known about the subscribers, without waiting for any of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import requests

from emostream import discovery
from emostream.discovery import (
    Directory,
    SubscriberEntry,
    SubscriberStatus,
    ask_app,
    ask_each,
    entry,
    least_loaded_first,
)
from emostream.roles import Place
from emostream.settings import Settings
from testkit.http_servers import Answer, Asked, HttpServer, http_server
from testkit.ports import free_port_block
from testkit.settings import settings_with
from testkit.waiting import wait_until


class FakeSubscriber:
    def __init__(self, **status: object) -> None:
        self.status: dict[str, object] = {"available_slots": 1} | status
        self.body: bytes | None = None
        self.hangs_seconds = 0.0

    def answer(self, asked: Asked) -> Answer:
        time.sleep(self.hangs_seconds)
        return Answer(200, self.body or json.dumps(self.status).encode())


@contextmanager
def running(*subscribers: FakeSubscriber) -> Iterator[tuple[Settings, list[HttpServer]]]:
    """Settings under which these are the subscribers 1-1, 1-2, ...; the others are not running."""
    base_port = free_port_block(30)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(http_server(subscriber.answer, base_port + number))
            for number, subscriber in enumerate(subscribers, start=1)
        ]
        yield settings_with(SUBSCRIBER_BASE_PORT=base_port), servers


@contextmanager
def kept(settings: Settings) -> Iterator[Directory]:
    found = Directory(settings)
    try:
        yield found
    finally:
        found.close()


def alive(found: list[SubscriberEntry]) -> list[tuple[int | None, int | None]]:
    return [(one.cluster, one.subscriber) for one in found if one.alive]


def test_every_subscriber_is_listed_the_least_loaded_first_and_the_dead_last() -> None:
    with (
        running(FakeSubscriber(streams=9), FakeSubscriber(streams=2), FakeSubscriber()) as (settings, _),
        kept(settings) as found,
    ):
        wait_until("all are known", lambda: len(alive(found.now("http://h"))) == 3)
        assert alive(found.now("http://h")[:3]) == [(1, 3), (1, 2), (1, 1)]
        assert len(found.now("http://h")) == 9


def test_with_equal_streams_the_most_free_slots_come_first() -> None:
    one, other = (SubscriberEntry(f"http://h:{slots}", available_slots=slots, streams=1) for slots in (0, 2))
    assert least_loaded_first([one, other]) == [other, one]


def test_a_change_is_known_within_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "ASK_AGAIN_SECONDS", 0.05)
    subscriber = FakeSubscriber(streams=1)
    with running(subscriber) as (settings, servers), kept(settings) as found:
        wait_until("it is known", lambda: found.now("http://h")[0].streams == 1)
        subscriber.status["streams"] = 5
        wait_until("it is known", lambda: found.now("http://h")[0].streams == 5)
        servers[0].gone = True
        wait_until("it is known to be dead", lambda: not alive(found.now("http://h")))


def test_nobody_waits_for_a_subscriber_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "ASK_AGAIN_SECONDS", 0.05)
    hanging = FakeSubscriber()
    with running(hanging, FakeSubscriber(streams=1)) as (settings, _), kept(settings) as found:
        wait_until("both are known", lambda: len(alive(found.now("http://h"))) == 2)
        hanging.hangs_seconds = 10.0
        monkeypatch.setattr(discovery, "TIMEOUT_SECONDS", (5.0, 5.0))
        slowest = 0.0
        deadline = time.monotonic() + 60
        known: list[SubscriberEntry] = []
        while alive(known) != [(1, 2)]:
            assert time.monotonic() < deadline, "the subscriber that hangs is not marked as dead"
            began = time.monotonic()
            known = found.now("http://h")
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.02)
        assert slowest < 4  # whoever had waited for it would have taken 5 s


@pytest.mark.parametrize(
    "body",
    [
        b"junk",
        b"\xff",
        b"[]",
        b"{}",
        b'{"available_slots": "9"}',
        b'{"available_slots": -1}',
        b'{"available_slots": null}',
        b'{"available_slots": 1, "stream_port": 0}',
        b'{"available_slots": 1, "streams": "x"}',
    ],
)
def test_a_subscriber_that_answers_junk_counts_as_dead(body: bytes) -> None:
    odd = FakeSubscriber()
    odd.body = body
    with running(odd, FakeSubscriber()) as (settings, _):
        found = ask_each(settings, requests.Session())
        assert [one.alive for one in found] == [True] + [False] * 8


def test_a_foreign_subscriber_has_slots_and_no_stream() -> None:
    with running(FakeSubscriber(extra=1)) as (settings, _):
        first = ask_each(settings, requests.Session())[0]
        assert (first.alive, first.available_slots, first.stream_url) == (True, 1, None)


def test_the_list_of_the_app_is_read_back() -> None:
    body = b'{"subscribers": [{"url": "http://h:7001", "available_slots": 2, "new": 1}, {"url": "http://h:7002"}]}'
    with http_server(lambda _: Answer(200, body)) as app:
        expected = [SubscriberEntry("http://h:7001", available_slots=2), SubscriberEntry("http://h:7002")]
        assert ask_app(app.url.rstrip("/"), requests.Session()) == expected


@pytest.mark.parametrize("answer", [Answer(404), Answer(200, b"<html>"), Answer(200, b"[]"), Answer(500)], ids=repr)
def test_an_app_without_a_list_gives_an_empty_one(answer: Answer) -> None:
    with http_server(lambda _: answer) as app:
        assert ask_app(app.url.rstrip("/"), requests.Session()) == []


ROOT = "https://fans.example.org/match"
STATUS = SubscriberStatus(2, stream_port=7109)


@pytest.mark.parametrize(
    ("url", "stream_url", "told", "told_stream"),
    [
        # At the app's own host, by the name and the scheme by which the caller reached it; any port.
        ("http://127.0.0.1:7001", "http://127.0.0.1:7101/stream",
         "https://fans.example.org:7001", "https://fans.example.org:7109/stream"),
        ("http://192.0.2.7:7001", "http://192.0.2.7:7101/stream", None, None),
        ("http://127.0.0.10:7001", "https://s.example.org/s/1-2/stream", None, None),
        ("http://192.0.2.7:7001", "/s/1-2/stream", None, "https://fans.example.org/match/s/1-2/stream"),
    ],
)  # fmt: skip
def test_an_address_is_told_as_it_was_advertised_except_on_the_apps_own_host(
    url: str, stream_url: str, told: str | None, told_stream: str | None
) -> None:
    found = entry(Place(1, 2, url, stream_url), STATUS, ROOT, "http://127.0.0.1")
    assert (found.url, found.stream_url) == (told or url, told_stream or stream_url)


def test_a_subscriber_without_a_stream_has_none_whatever_the_settings_advertise() -> None:
    found = entry(Place(1, 2, "http://h:1", "/s/1-2/stream"), SubscriberStatus(2), ROOT, "http://127.0.0.1")
    assert (found.alive, found.stream_url) == (True, None)


def test_an_announced_subscriber_is_asked_where_it_is_and_one_that_has_gone_leaves_the_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery, "ASK_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(discovery, "LOOK_SECONDS", 0.05)
    announced: list[Place] = []
    elsewhere = FakeSubscriber(streams=4, stream_port=7109)
    with (
        running(FakeSubscriber()) as (settings, _),
        http_server(elsewhere.answer) as first,
        http_server(elsewhere.answer) as second,
    ):
        directory = Directory(settings, lambda: announced)
        wait_until("it is found by the formula", lambda: alive(directory.now("http://h")) == [(1, 1)])
        announced[:] = [Place(4, 7, first.url.rstrip("/"), "https://s.example.org/stream")]
        wait_until("the new one is known", lambda: alive(directory.now("http://h")) == [(1, 1), (4, 7)])
        assert directory.now("http://h")[1].stream_url == "https://s.example.org/stream"
        assert "https://s.example.org" in directory.stream_origins("http://h:5000")
        announced[:] = [Place(4, 7, second.url.rstrip("/"), "/s/4-7/stream")]
        wait_until("it has moved", lambda: len(second.asked) > 1)
        wait_until("it is alive there", lambda: alive(directory.now("http://h")) == [(1, 1), (4, 7)])
        asked = len(first.asked)
        announced[:] = [Place(1, 1, second.url.rstrip("/"), "/s/1-1/stream")]
        wait_until("4-7 has gone", lambda: alive(directory.now("http://h")) == [(1, 1)])
        assert directory.now("http://h")[0].url == second.url.rstrip("/").replace("127.0.0.1", "h")
        wait_until("no thread asks for what has gone", lambda: len(directory._status) == 9)
        assert len(first.asked) - asked <= 1  # one may have been on its way
        directory.close()


def test_origins_of_streams_are_the_advertised_ones_and_any_port_of_the_own_host() -> None:
    def origins(**settings: object) -> list[str]:
        found = Directory(settings_with(**settings))
        found.close()
        return found.stream_origins("https://fans.example.org/match")

    assert origins() == ["https://fans.example.org:*"]
    assert origins(ADVERTISED_STREAM_URL="/s/{cluster}-{subscriber}") == ["https://fans.example.org"]
    assert origins(CLUSTERS=2, ADVERTISED_STREAM_URL="http://s{cluster}.example.org:81/x") == [
        "http://s1.example.org:81", "http://s2.example.org:81"
    ]  # fmt: skip
