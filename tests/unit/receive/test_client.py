"""emostream.receive.client: what the viewer sees, with whom the client registers, which pushes it takes."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from emostream.metrics.page import MetricsPage
from emostream.process import StopFlag
from emostream.receive import client as receive
from emostream.receive.client import MAX_PRINTED, Membership, Sender, Stream, create_app, flow, metrics_of
from emostream.records import InvalidRecord, parse_request
from testkit.http_servers import Answer, Asked, HttpServer, http_server
from testkit.ports import free_port_block
from testkit.settings import settings_with
from testkit.strategies import any_text
from testkit.waiting import is_waiting, wait_until

CLIENT_URL = "http://127.0.0.1:8001/"
NO_PAGE = MetricsPage()
NO_APP = "http://127.0.0.1:9"  # the port of RFC 863, where nobody listens
COUNT = b'{"emoji": "\xf0\x9f\x98\x8a", "count": 3}'


@pytest.mark.parametrize(
    ("count", "printed"), [(1, "😊"), (3, "😊😊😊"), (50, "😊" * 50), (51, " 😊×51 "), (10**9, " 😊×1000000000 ")]
)
def test_an_emoji_flows_as_often_as_it_counts_until_that_would_flood(count: int, printed: str) -> None:
    assert flow("😊", count) == printed


def shown(*pushes: tuple[str | None, bytes]) -> str:
    out = io.StringIO()
    stream = Stream(out)
    for key, value in pushes:
        stream.show(key, value)
    return out.getvalue()


def test_a_repeat_is_shown_once() -> None:
    assert shown(("t/0/1", COUNT), ("t/0/2", COUNT), ("t/0/1", COUNT), ("t/0/2", COUNT)) == "😊" * 6


def test_a_record_without_a_key_is_always_new() -> None:
    assert shown((None, COUNT), (None, COUNT)) == "😊" * 6


def test_a_known_key_with_another_value_is_new() -> None:
    assert shown(("t/0/1", COUNT), ("t/0/1", b'{"emoji": "x", "count": 1}')) == "😊😊😊x"


def test_only_so_many_records_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "REMEMBERED_RECORDS", 2)
    one, two, three = ((f"t/0/{number}", b'{"emoji": "%d", "count": 1}' % number) for number in (1, 2, 3))
    assert shown(one, two, three, two, three, one) == "1231"


@given(any_text, st.integers())
def test_nothing_that_steers_a_terminal_is_printed(emoji: str, count: int) -> None:
    try:
        printed = shown((None, json.dumps({"emoji": emoji, "count": count}).encode()))
    except InvalidRecord:
        return
    assert not [c for c in printed if c < " " or "\x7f" <= c <= "\x9f" or c in "\u2028\u2029\u202e\u2066"]
    assert len(printed) <= 64 * MAX_PRINTED


# --- the client's own HTTP server ---


def client_app(identity: str | None = None) -> tuple[FlaskClient, io.StringIO]:
    out = io.StringIO()
    membership = Membership(settings_with(), CLIENT_URL, StopFlag(), NO_APP)
    membership.identity = identity
    return create_app(Stream(out), membership, NO_PAGE).test_client(), out


def test_a_push_and_its_repeat_are_both_taken_and_shown_once() -> None:
    client, out = client_app()
    taken = [client.post("/", data=COUNT, headers={"Idempotency-Key": "t/0/1"}).status_code for _ in range(2)]
    assert (taken, out.getvalue()) == ([204, 204], "😊😊😊")


def test_a_push_of_someone_elses_subscriber_needs_only_a_body() -> None:
    client, out = client_app(identity="cluster1-emoji-topic/1")
    assert client.post("/", data=COUNT).status_code == 204
    assert out.getvalue() == "😊😊😊"


def test_a_push_that_is_no_count_is_a_400() -> None:
    client, out = client_app()
    assert client.post("/", data=b'{"emoji": "\\u001b[31m", "count": 1}').status_code == 400
    assert out.getvalue() == ""


def test_a_challenge_is_echoed_and_not_shown() -> None:
    client, out = client_app()
    assert client.post("/", data=b'{"challenge": "abc"}').json == {"challenge": "abc"}
    assert client.post("/", data=b'{"challenge": 5}').status_code == 400
    assert out.getvalue() == ""


def test_a_stranger_is_told_that_it_may_go() -> None:
    client, out = client_app(identity="cluster1-emoji-topic/1")
    assert client.post("/", data=COUNT, headers={"Subscriber": "cluster2-emoji-topic/1"}).status_code == 410
    assert client.post("/", data=COUNT, headers={"Subscriber": "cluster1-emoji-topic/1"}).status_code == 204
    assert out.getvalue() == "😊😊😊"


# --- with whom it registers ---


class FakeSubscriber:
    """A subscriber as the contract has it, whose slots a test decides."""

    def __init__(self, slots: int, number: int = 1) -> None:
        self.slots = slots
        self.number = number
        self.clients: list[str] = []
        self.status: bytes | None = None
        self.refuses = False
        self.on_register: Callable[[], object] = lambda: None

    def answer(self, asked: Asked) -> Answer:
        if asked.path == "/status":
            status = {"available_slots": self.slots, "cluster_topic": "t", "subscriber": self.number}
            return Answer(200, self.status or json.dumps(status).encode())
        client_url = json.loads(asked.body)["client_url"]
        if asked.path == "/deregister":
            self.clients.remove(client_url)
        elif self.refuses:
            return Answer(503, b'{"error": "no slot is free"}')
        elif client_url not in self.clients:
            self.clients.append(client_url)
            self.on_register()
        return Answer(200, b"{}")


class Cluster:
    """Fake subscribers on the ports where a client looks for them; most ports have none."""

    def __init__(self, *subscribers: FakeSubscriber) -> None:
        self._base_port = free_port_block(30)
        self._subscribers = subscribers
        self.app_url = NO_APP
        self.servers: list[HttpServer] = []
        self.stop = StopFlag()

    @contextmanager
    def member(self) -> Iterator[Membership]:
        with ExitStack() as stack:
            for port, subscriber in zip((1, 13, 22), self._subscribers, strict=False):
                self.servers.append(stack.enter_context(http_server(subscriber.answer, self._base_port + port)))
            try:
                yield Membership(
                    settings_with(SUBSCRIBER_BASE_PORT=self._base_port), CLIENT_URL, self.stop, self.app_url
                )
            finally:
                self.stop.requested = True


def found(*subscribers: FakeSubscriber) -> bool:
    with Cluster(*subscribers).member() as membership:
        return membership.find(wait=False)


@contextmanager
def kept(cluster: Cluster) -> Iterator[None]:
    """A client that has registered and goes on keeping that up, in another thread."""
    with cluster.member() as membership:
        assert membership.find(wait=False)
        keeper = threading.Thread(target=membership.keep, daemon=True)
        keeper.start()
        yield
        cluster.stop.requested = True
        keeper.join(30)
        assert not keeper.is_alive()


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "CONFIRM_SECONDS", 0.02)
    monkeypatch.setattr(receive, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(receive, "RETRY_SECONDS", 0.02)


def test_a_client_registers_where_most_slots_are_free() -> None:
    full, scarce, roomy = FakeSubscriber(0), FakeSubscriber(1), FakeSubscriber(2)
    assert found(full, scarce, roomy)
    assert (full.clients, scarce.clients, roomy.clients) == ([], [], [CLIENT_URL])


def test_a_client_that_does_not_wait_goes_when_all_are_full() -> None:
    assert not found(FakeSubscriber(0), FakeSubscriber(0))


def test_a_client_whose_slot_was_taken_a_moment_before_tries_the_next_subscriber() -> None:
    tempting, other = FakeSubscriber(5), FakeSubscriber(1)
    tempting.refuses = True
    assert found(tempting, other)
    assert other.clients == [CLIENT_URL]


@pytest.mark.parametrize(
    "status",
    [
        b"junk",
        b"\xff",
        b"[]",
        b"null",
        b"5",
        b'"text"',
        b"{}",
        b'{"available_slots": "9"}',
        b'{"available_slots": null}',
    ],
)
def test_a_subscriber_that_answers_junk_is_passed_over(status: bytes) -> None:
    odd, good = FakeSubscriber(9), FakeSubscriber(1)
    odd.status = status
    assert found(odd, good)
    assert (odd.clients, good.clients) == ([], [CLIENT_URL])


def listing(*slots: tuple[str, int]) -> Answer:
    listed = [{"url": url, "alive": True, "available_slots": free} for url, free in slots]
    return Answer(200, json.dumps({"subscribers": listed}).encode())


def test_a_client_asks_the_app_alone_for_all_subscribers() -> None:
    elsewhere = FakeSubscriber(1)
    cluster = Cluster(FakeSubscriber(1))
    with http_server(elsewhere.answer) as server, http_server(lambda _: listing((server.url[:-1], 1))) as app:
        cluster.app_url = app.url[:-1]
        with cluster.member() as membership:
            assert membership.find(wait=False)
    assert elsewhere.clients == [CLIENT_URL]
    assert cluster.servers[0].asked == []


@pytest.mark.parametrize("answer", [Answer(404), listing(), listing(("http://127.0.0.1:9", 2))], ids=repr)
def test_a_client_asks_each_subscriber_where_the_app_is_of_no_help(answer: Answer) -> None:
    subscriber = FakeSubscriber(1)
    cluster = Cluster(subscriber)
    with http_server(lambda _: answer) as app:
        cluster.app_url = app.url[:-1]
        with cluster.member() as membership:
            assert membership.find(wait=False)
    assert subscriber.clients == [CLIENT_URL]


@pytest.mark.usefixtures("_impatient")
def test_a_client_waits_until_a_slot_is_free() -> None:
    subscriber = FakeSubscriber(0)
    cluster = Cluster(subscriber)
    with cluster.member() as membership:
        waiting = threading.Thread(target=membership.find, args=(True,), daemon=True)
        waiting.start()
        wait_until("it has asked twice", lambda: len(cluster.servers[0].asked) > 1, timeout_seconds=10)
        subscriber.slots = 1
        wait_until("it has registered", lambda: subscriber.clients, timeout_seconds=10)
        waiting.join(10)
        assert not waiting.is_alive()


@pytest.mark.usefixtures("_impatient")
def test_a_waiting_client_ends_at_a_stop() -> None:
    cluster = Cluster(FakeSubscriber(0))
    with cluster.member() as membership:
        waiting = threading.Thread(target=membership.find, args=(True,), daemon=True)
        waiting.start()
        wait_until("it waits", lambda: is_waiting(waiting), timeout_seconds=10)
        cluster.stop.requested = True
        waiting.join(10)
        assert not waiting.is_alive()


@pytest.mark.usefixtures("_impatient")
def test_a_client_moves_on_when_its_subscriber_goes_away() -> None:
    first, second = FakeSubscriber(2), FakeSubscriber(1)
    cluster = Cluster(first, second)
    with kept(cluster):
        assert first.clients == [CLIENT_URL]
        cluster.servers[0].gone = True
        wait_until("it has moved on", lambda: second.clients, timeout_seconds=10)


@pytest.mark.usefixtures("_impatient")
def test_a_client_registers_again_where_it_was_forgotten() -> None:
    subscriber = FakeSubscriber(1)
    with kept(Cluster(subscriber)):
        subscriber.clients.clear()
        wait_until("it is back", lambda: subscriber.clients, timeout_seconds=10)


def test_a_client_that_leaves_deregisters() -> None:
    subscriber = FakeSubscriber(1)
    with Cluster(subscriber).member() as membership:
        membership.find(wait=False)
        membership.leave()
    assert subscriber.clients == []


def test_a_client_tells_what_it_has_shown_and_sent() -> None:
    out, stop = Stream(io.StringIO()), StopFlag()
    sender = Sender(NO_APP, "u", stop)
    sender.sent, sender.failed = 3, 1
    client = create_app(
        out, Membership(settings_with(), CLIENT_URL, stop, NO_APP), MetricsPage(metrics_of(out, sender))
    )
    for _ in range(2):
        client.test_client().post("/", json={"emoji": "x", "count": 1}, headers={"Idempotency-Key": "k"})
    page = client.test_client().get("/metrics").text
    told = dict(line.split(" ") for line in page.splitlines() if line.startswith("emostream_"))
    assert {name.removeprefix("emostream_receive_"): float(number) for name, number in told.items()} == {
        "shown_total": 1, "repeats_total": 1, "sent_total": 3, "failed_total": 1,
    }  # fmt: skip


@pytest.mark.usefixtures("_impatient")
def test_a_new_subscriber_may_push_before_it_has_answered_the_registration() -> None:
    first, second = FakeSubscriber(2, number=1), FakeSubscriber(1, number=2)
    cluster = Cluster(first, second)
    with cluster.member() as membership:
        client = create_app(Stream(io.StringIO()), membership, NO_PAGE).test_client()
        pushed: list[int] = []

        def push() -> None:
            pushed.append(client.post("/", data=COUNT, headers={"Subscriber": "t/2"}).status_code)

        second.on_register = push
        assert membership.find(wait=False)
        assert membership.identity == "t/1"
        cluster.servers[0].gone = True
        assert membership.find(wait=False)
    assert pushed == [204]


# --- what it sends ---


def test_what_a_client_sends_is_what_the_app_takes() -> None:
    with http_server(lambda _: Answer()) as app:
        sender = Sender(app.url.rstrip("/"), "client-8001", StopFlag())
        sender.run(events=5, interval_seconds=0)
    assert [(asked.path, parse_request(asked.body).user_id) for asked in app.asked] == [
        ("/send-emoji", "client-8001")
    ] * 5
    assert (sender.sent, sender.failed) == (5, 0)


def test_taps_that_are_refused_are_counted_apart() -> None:
    with http_server(lambda _: Answer(503)) as app:
        sender = Sender(app.url.rstrip("/"), "client-8001", StopFlag())
        sender.run(events=2, interval_seconds=0)
    assert (sender.sent, sender.failed) == (0, 2)
