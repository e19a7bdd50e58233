"""emostream.operate.dashboard.scrape: which metrics it keeps, and how often it asks whom."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from emostream import roles
from emostream.discovery import SubscriberStatus, by_formula
from emostream.operate.dashboard import scrape
from emostream.operate.dashboard.scrape import MAX_NAMED_CLIENTS, Scraper, fetch, metrics_urls, parse
from emostream.operate.supervisor import SupervisedProcess
from emostream.roles import Place, Role
from emostream.settings import Settings
from testkit.doubles import FakeDirectory
from testkit.http_servers import Answer, http_server
from testkit.settings import settings_with

HOSTILE = 'http://10.0.0.7:8001/"\\\n<script>'


def page() -> bytes:
    """A subscriber's page, written by Prometheus' own library."""
    registry = CollectorRegistry()
    Counter("emostream_deliver_delivered", "Pushes", registry=registry).inc(41)
    refused = Counter("emostream_ingest_refused", "Taps", ["reason"], registry=registry)
    refused.labels("full").inc(3)
    stage = Histogram("emostream_deliver_stage_seconds", "Way", ["stage"], buckets=(0.5, 1), registry=registry)
    for seconds in (0.25, 0.75, 7):
        stage.labels("batch").observe(seconds)
    behind = Gauge("emostream_deliver_client_behind_records", "Behind", ["client_url"], registry=registry)
    failing = Gauge("emostream_deliver_client_failing_seconds", "Failing", ["client_url"], registry=registry)
    for url, records, seconds in ((HOSTILE, 120, 0), ("http://a/", 0, 0), ("http://b/", 1, 9.5)):
        behind.labels(url).set(records)
        failing.labels(url).set(seconds)
    Gauge("emostream_deliver_clients", "Clients", registry=registry).set(float("nan"))
    Gauge("somebody_elses", "Series", registry=registry).set(1)
    return generate_latest(registry)


def test_counters_gauges_and_histograms_are_kept_under_their_prometheus_names() -> None:
    found = parse(page())
    assert found.series == {
        "emostream_deliver_delivered_total": 41,
        'emostream_ingest_refused_total{reason="full"}': 3,
    }
    batch = found.histograms['emostream_deliver_stage_seconds{stage="batch"}']
    assert (batch.le, batch.at_most, batch.count, batch.sum) == ([0.5, 1.0], [1, 2], 3, 8.0)


def test_clients_that_are_behind_are_named_the_worst_first() -> None:
    found = [(client.client_url, client.behind_records, client.failing_seconds) for client in parse(page()).clients]
    assert found == [("http://b/", 1, 9.5), (HOSTILE, 120, 0)]


def test_of_very_many_clients_only_the_worst_are_named() -> None:
    lines = [f'emostream_deliver_client_behind_records{{client_url="http://{n}/"}} {n}\n' for n in range(200)]
    found = parse("".join(lines).encode()).clients
    assert len(found) == MAX_NAMED_CLIENTS
    assert found[0].client_url == "http://199/"


@pytest.mark.parametrize(
    "body", [b"\xff", b'emostream_x{a="', b"emostream_x 1 2 3 4 {", b"emostream_x abc", b"<html>", b"{" * 1000]
)
def test_a_body_that_is_not_a_page_of_metrics_is_no_answer(body: bytes) -> None:
    with http_server(lambda _: Answer(200, body)) as server:
        found = fetch(server.url, "s3cret")
        assert found is None or not found.series


def test_a_page_that_never_ends_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "MAX_PAGE_BYTES", 97)  # a byte less than seven lines
    with http_server(lambda _: Answer(200, b"emostream_x 1\n" * 8)) as server:
        assert fetch(server.url) is None
    with http_server(lambda _: Answer(200, b"emostream_x 1\n" * 6)) as server:
        assert fetch(server.url) == scrape.ScrapedPage({"emostream_x": 1})


def test_a_process_that_refuses_or_is_down_gives_no_answer() -> None:
    with http_server(lambda _: Answer(500)) as server:
        assert fetch(server.url) is None
    assert fetch("http://127.0.0.1:1/") is None


@pytest.mark.parametrize("key", ["", "k", "ключ🔑"])
def test_the_operators_key_is_shown_to_the_process_when_there_is_one(key: str) -> None:
    with http_server(lambda _: Answer(200, b"emostream_x 1\n")) as server:
        assert fetch(server.url, key) == scrape.ScrapedPage({"emostream_x": 1})
    shown = server.asked[0].headers.get("Authorization", "").encode("latin-1").decode()
    assert shown == (f"Bearer {key}" if key else "")


def test_each_process_is_asked_where_it_listens() -> None:
    settings = settings_with(SUBSCRIBER_BASE_PORT=9000)
    urls = metrics_urls(settings, by_formula(settings))
    assert len(urls) == 13
    assert urls["subscriber_2_3"] == "http://127.0.0.1:9013/metrics"
    settings = settings_with(BIND_HOST="::")
    assert metrics_urls(settings, by_formula(settings))["subscriber_1_1"] == "http://[::1]:7001/metrics"
    elsewhere = Place(1, 9, "http://192.0.2.7:7001", "/s/1-9/stream")
    assert metrics_urls(settings, [elsewhere])["subscriber_1_9"] == "http://192.0.2.7:7001/metrics"


class Operated:
    """A system whose answers a test decides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.supervised: dict[str, SupervisedProcess] = {}
        self.hold = threading.Event()
        self.hold.set()
        monkeypatch.setattr(scrape, "fetch", self._fetch)
        monkeypatch.setattr(scrape, "supervised", self._supervised)
        monkeypatch.setattr(scrape, "TOTAL_SECONDS", 0.2)
        evicted = [{"client_url": "http://gone/", "reason": "it answered 410 Gone", "at_ms": 1}]
        known = dict[Role, SubscriberStatus | None].fromkeys(roles.subscribers(settings_with()))
        known[roles.subscriber(settings_with(), 1, 2)] = SubscriberStatus(0, evicted=evicted)
        directory = FakeDirectory(known)
        self.scraper = Scraper(settings_with(), directory, lambda: b"emostream_ingest_received_total 7\n")

    def _fetch(self, url: str, _operator_key: str) -> scrape.ScrapedPage | None:
        self.asked.append(url)
        if ":7001/" in url:
            raise OSError("an unexpected error")
        if ":7002/" in url:
            self.hold.wait(10)
        return None if ":7003/" in url else scrape.ScrapedPage({"emostream_x": 1})

    def _supervised(self, _settings: Settings) -> dict[str, SupervisedProcess]:
        return self.supervised

    def now(self) -> dict[str, Any]:
        answer: dict[str, Any] = msgspec.json.decode(self.scraper.now())
        return answer | {"processes": {process["name"]: process for process in answer["processes"]}}


def test_every_process_is_asked_and_one_without_an_answer_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = Operated(monkeypatch)
    system.hold.clear()
    found = system.now()
    system.hold.set()
    assert not found["supervised"]
    assert found["processes"]["app"]["page"]["series"] == {"emostream_ingest_received_total": 7}
    silent = {name for name, process in found["processes"].items() if process["page"] is None}
    assert silent == {"subscriber_1_1", "subscriber_1_2", "subscriber_1_3"}
    assert found["processes"]["subscriber_1_2"]["evicted"] == [
        {"client_url": "http://gone/", "reason": "it answered 410 Gone", "at_ms": 1}
    ]


def test_what_supervisor_knows_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    system = Operated(monkeypatch)
    system.supervised = {
        "kafka_1": SupervisedProcess("kafka_1", "RUNNING", 1, 60, 0, True),
        "app": SupervisedProcess("app", "RUNNING", 1, 60, 0, True),
        "subscriber_1_1": SupervisedProcess("subscriber_1_1", "BACKOFF", 0, 0, 4, False, "it has no heartbeat"),
    }
    found = system.now()
    assert found["supervised"]
    assert list(found["processes"])[:3] == ["kafka_1", "app", "main_publisher"]
    dead = found["processes"]["subscriber_1_1"]
    assert (dead["state"], dead["ready"], dead["restarts"], dead["page"]) == ("BACKOFF", False, 4, None)
    assert (dead["reason"], found["processes"]["app"]["reason"]) == ("it has no heartbeat", None)


def test_a_process_that_was_started_by_hand_is_not_reported_as_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = Operated(monkeypatch)
    names = ("app", "main_publisher", "subscriber_1_1")
    system.supervised = {name: SupervisedProcess(name, "STOPPED", 0, 0, 0, False) for name in names}
    system.supervised["kafka_1"] = SupervisedProcess("kafka_1", "RUNNING", 1, 60, 0, True)
    found = system.now()
    assert not found["supervised"]
    assert {name: found["processes"][name]["state"] for name in names} == dict.fromkeys(names)
    assert found["processes"]["kafka_1"]["state"] == "RUNNING"


def test_everybody_who_looks_at_the_same_time_gets_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "OVERVIEW_SECONDS", 1000.0)
    system = Operated(monkeypatch)
    first = system.scraper.now()
    assert system.scraper.now() == first
    assert len(system.asked) == 13
