"""emostream.receive.sender: what the client sends, and what it counts."""

from __future__ import annotations

from emostream.process import StopFlag
from emostream.receive.sender import TapSender
from emostream.records import parse_request
from testkit.http_servers import Answer, http_server


def test_the_client_sends_what_the_app_accepts() -> None:
    with http_server(lambda _: Answer()) as app:
        sender = TapSender(app.url.rstrip("/"), "client-8001", 5, 0, StopFlag())
        sender.run()
    assert [(asked.path, parse_request(asked.body).user_id) for asked in app.asked] == [
        ("/send-emoji", "client-8001")
    ] * 5
    assert (sender.sent, sender.failed) == (5, 0)


def test_the_taps_of_a_client_in_a_room_carry_it() -> None:
    with http_server(lambda _: Answer()) as app:
        TapSender(app.url.rstrip("/"), "client-8001", 1, 0, StopFlag(), "final").run()
        TapSender(app.url.rstrip("/"), "client-8001", 1, 0, StopFlag()).run()
    assert [parse_request(asked.body).room for asked in app.asked] == ["final", ""]
    assert b"room" not in app.asked[1].body


def test_refused_taps_are_counted_apart() -> None:
    with http_server(lambda _: Answer(503)) as app:
        sender = TapSender(app.url.rstrip("/"), "client-8001", 2, 0, StopFlag())
        sender.run()
    assert (sender.sent, sender.failed) == (0, 2)
