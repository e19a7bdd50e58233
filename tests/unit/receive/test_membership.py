"""emostream.receive.membership: with which subscriber the client registers, and how it stays registered."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from emostream.process import StopFlag
from emostream.receive import membership as membership_module
from emostream.receive import subscription
from emostream.receive.membership import Membership
from emostream.receive.routes import create_app
from emostream.receive.screen import Screen
from testkit.http_servers import Answer, Asked, HttpServer, http_server
from testkit.ports import free_port_block
from testkit.settings import settings_with
from testkit.waiting import is_waiting, wait_until

CLIENT_URL = "http://127.0.0.1:8001/"
NO_APP = "http://127.0.0.1:9"  # the port of RFC 863, where nobody listens
COUNT = b'{"emoji": "x", "count": 3}'


class FakeSubscriber:
    """A subscriber that follows the contract. A test decides how many slots it has."""

    def __init__(self, slots: int, number: int = 1) -> None:
        self.slots = slots
        self.number = number
        self.clients: list[str] = []
        self.rooms: list[str | None] = []  # of each call
        self.status: bytes | None = None
        self.refuses = False
        self.on_register: Callable[[], object] = lambda: None

    def answer(self, asked: Asked) -> Answer:
        if asked.path == "/status":
            status = {"available_slots": self.slots, "cluster_topic": "t", "subscriber": self.number}
            return Answer(200, self.status or json.dumps(status).encode())
        body = json.loads(asked.body)
        client_url = body["client_url"]
        self.rooms.append(body.get("room"))
        if asked.path == "/deregister":
            self.clients.remove(client_url)
        elif self.refuses:
            return Answer(503, b'{"error": "no slot is free"}')
        elif client_url not in self.clients:
            self.clients.append(client_url)
            self.on_register()
        return Answer(200, b"{}")


class Cluster:
    """Fake subscribers on some of the ports where a client looks for subscribers."""

    def __init__(self, *subscribers: FakeSubscriber) -> None:
        self._base_port = free_port_block(30)
        self._subscribers = subscribers
        self.app_url = NO_APP
        self.servers: list[HttpServer] = []
        self.stop = StopFlag()

    @contextmanager
    def member(self, **settings: object) -> Iterator[Membership]:
        with ExitStack() as stack:
            for port, subscriber in zip((1, 13, 22), self._subscribers, strict=False):
                self.servers.append(stack.enter_context(http_server(subscriber.answer, self._base_port + port)))
            try:
                known = settings_with(SUBSCRIBER_BASE_PORT=self._base_port, **settings)
                yield Membership(known, self.app_url, self.stop)
            finally:
                self.stop.requested = True


def found(*subscribers: FakeSubscriber) -> bool:
    with Cluster(*subscribers).member() as membership:
        return membership.find(wait=False)


@contextmanager
def kept(cluster: Cluster) -> Iterator[None]:
    """A client that has registered, and that keeps its registration in another thread."""
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
    monkeypatch.setattr(membership_module, "CONFIRM_SECONDS", 0.02)
    monkeypatch.setattr(membership_module, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(subscription, "FIND_AGAIN_SECONDS", 0.02)


def test_the_client_registers_where_most_slots_are_free() -> None:
    full, scarce, roomy = FakeSubscriber(0), FakeSubscriber(1), FakeSubscriber(2)
    assert found(full, scarce, roomy)
    assert (full.clients, scarce.clients, roomy.clients) == ([], [], [CLIENT_URL])


@pytest.mark.parametrize(("room", "asked"), [("", None), ("final", "final")])
def test_a_client_registers_in_its_room_and_names_none_if_it_is_the_default_room(room: str, asked: str | None) -> None:
    subscriber = FakeSubscriber(1)
    with Cluster(subscriber).member(ROOM=room) as membership:
        assert membership.find(wait=False)
        membership.leave()
    assert subscriber.rooms == [asked, None]


def test_a_client_that_does_not_wait_gives_up_when_all_are_full() -> None:
    assert not found(FakeSubscriber(0), FakeSubscriber(0))


def test_a_client_whose_slot_was_just_taken_tries_the_next_subscriber() -> None:
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
def test_a_subscriber_that_answers_junk_is_skipped(status: bytes) -> None:
    odd, good = FakeSubscriber(9), FakeSubscriber(1)
    odd.status = status
    assert found(odd, good)
    assert (odd.clients, good.clients) == ([], [CLIENT_URL])


def listing(*slots: tuple[str, int]) -> Answer:
    listed = [{"url": url, "alive": True, "available_slots": free} for url, free in slots]
    return Answer(200, json.dumps({"subscribers": listed}).encode())


def test_the_client_asks_only_the_app_when_it_lists_a_free_slot() -> None:
    elsewhere = FakeSubscriber(1)
    cluster = Cluster(FakeSubscriber(1))
    with http_server(elsewhere.answer) as server, http_server(lambda _: listing((server.url[:-1], 1))) as app:
        cluster.app_url = app.url[:-1]
        with cluster.member() as membership:
            assert membership.find(wait=False)
    assert elsewhere.clients == [CLIENT_URL]
    assert cluster.servers[0].asked == []


@pytest.mark.parametrize("answer", [Answer(404), listing(), listing(("http://127.0.0.1:9", 2))], ids=repr)
def test_the_client_asks_each_subscriber_when_the_app_is_of_no_help(answer: Answer) -> None:
    subscriber = FakeSubscriber(1)
    cluster = Cluster(subscriber)
    with http_server(lambda _: answer) as app:
        cluster.app_url = app.url[:-1]
        with cluster.member() as membership:
            assert membership.find(wait=False)
    assert subscriber.clients == [CLIENT_URL]


@pytest.mark.usefixtures("_impatient")
def test_the_client_waits_until_a_slot_is_free() -> None:
    subscriber = FakeSubscriber(0)
    cluster = Cluster(subscriber)
    with cluster.member() as membership:
        waiting = threading.Thread(target=membership.find, args=(True,), daemon=True)
        waiting.start()
        wait_until("it has asked twice", lambda: len(cluster.servers[0].asked) > 1)
        subscriber.slots = 1
        wait_until("it has registered", lambda: subscriber.clients)
        waiting.join(10)
        assert not waiting.is_alive()


@pytest.mark.usefixtures("_impatient")
def test_a_waiting_client_ends_at_a_stop() -> None:
    cluster = Cluster(FakeSubscriber(0))
    with cluster.member() as membership:
        waiting = threading.Thread(target=membership.find, args=(True,), daemon=True)
        waiting.start()
        wait_until("it waits", lambda: is_waiting(waiting))
        cluster.stop.requested = True
        waiting.join(10)
        assert not waiting.is_alive()


@pytest.mark.usefixtures("_impatient")
def test_the_client_moves_on_when_its_subscriber_goes_away() -> None:
    first, second = FakeSubscriber(2), FakeSubscriber(1)
    cluster = Cluster(first, second)
    with kept(cluster):
        assert first.clients == [CLIENT_URL]
        cluster.servers[0].gone = True
        wait_until("it has moved on", lambda: second.clients)


@pytest.mark.usefixtures("_impatient")
def test_the_client_registers_again_with_a_subscriber_that_forgot_it() -> None:
    subscriber = FakeSubscriber(1)
    with kept(Cluster(subscriber)):
        subscriber.clients.clear()
        wait_until("it is back", lambda: subscriber.clients)


def test_a_client_that_leaves_deregisters() -> None:
    subscriber = FakeSubscriber(1)
    with Cluster(subscriber).member() as membership:
        membership.find(wait=False)
        membership.leave()
    assert subscriber.clients == []


@pytest.mark.usefixtures("_impatient")
def test_a_new_subscriber_may_push_before_it_has_answered_the_registration() -> None:
    first, second = FakeSubscriber(2, number=1), FakeSubscriber(1, number=2)
    cluster = Cluster(first, second)
    with cluster.member() as membership:
        client = create_app(Screen(io.StringIO(), StopFlag()), membership).test_client()
        pushed: list[int] = []

        def push() -> None:
            pushed.append(client.post("/", data=COUNT, headers={"Subscriber": "t/2"}).status_code)

        second.on_register = push
        assert membership.find(wait=False)
        assert membership.subscriber_name == "t/1"
        cluster.servers[0].gone = True
        assert membership.find(wait=False)
    assert pushed == [204]
