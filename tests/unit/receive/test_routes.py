"""emostream.receive.routes: which pushes the client accepts, and what it answers."""

from __future__ import annotations

import io

import pytest
from flask.testing import FlaskClient

from emostream.process import StopFlag
from emostream.receive.membership import Membership
from emostream.receive.routes import create_app
from emostream.receive.screen import Screen
from testkit.settings import settings_with

NO_APP = "http://127.0.0.1:9"  # the port of RFC 863, where nobody listens
COUNT = b'{"emoji": "\xf0\x9f\x98\x8a", "count": 3}'


def client_app(subscriber_name: str | None = None, room: str = "") -> tuple[FlaskClient, io.StringIO]:
    out = io.StringIO()
    membership = Membership(settings_with(ROOM=room), NO_APP, StopFlag())
    membership.subscriber_name = subscriber_name
    return create_app(Screen(out, StopFlag()), membership).test_client(), out


def test_a_push_and_its_repeat_are_both_accepted_and_shown_once() -> None:
    client, out = client_app()
    answered = [client.post("/", data=COUNT, headers={"Idempotency-Key": "t/0/1"}).status_code for _ in range(2)]
    assert (answered, out.getvalue()) == ([204, 204], "😊😊😊")


def test_a_known_key_with_another_body_is_new_although_it_holds_the_same_count() -> None:
    client, out = client_app()
    for batch_id in (1, 2):
        push = {"emoji": "😊", "count": 3, "batch_id": batch_id}
        assert client.post("/", json=push, headers={"Idempotency-Key": "t/0/1"}).status_code == 204
    assert out.getvalue() == "😊" * 6


@pytest.mark.parametrize("room", ["", "final"])
def test_a_push_of_another_room_is_not_shown_and_ends_that_registration(room: str) -> None:
    client, out = client_app(room=room)
    for pushed in ("", "final", "other"):
        answer = client.post("/", json={"emoji": "x", "count": 1, "room": pushed})
        assert answer.status_code == (204 if pushed == room else 410)
    assert out.getvalue() == "x"


def test_a_push_of_a_foreign_subscriber_needs_only_a_body() -> None:
    client, out = client_app(subscriber_name="cluster1-emoji-topic/1")
    assert client.post("/", data=COUNT).status_code == 204
    assert out.getvalue() == "😊😊😊"


def test_a_push_that_is_not_a_count_gets_400() -> None:
    client, out = client_app()
    assert client.post("/", data=b'{"emoji": "\\u001b[31m", "count": 1}').status_code == 400
    assert out.getvalue() == ""


def test_a_challenge_is_echoed_and_not_shown() -> None:
    client, out = client_app()
    assert client.post("/", data=b'{"challenge": "abc"}').json == {"challenge": "abc"}
    assert client.post("/", data=b'{"challenge": 5}').status_code == 400
    assert out.getvalue() == ""


def test_a_subscriber_that_the_client_has_left_is_told_to_stop() -> None:
    client, out = client_app(subscriber_name="cluster1-emoji-topic/1")
    assert client.post("/", data=COUNT, headers={"Subscriber": "cluster2-emoji-topic/1"}).status_code == 410
    assert client.post("/", data=COUNT, headers={"Subscriber": "cluster1-emoji-topic/1"}).status_code == 204
    assert out.getvalue() == "😊😊😊"
