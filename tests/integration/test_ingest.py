"""Hop 1: HTTP requests → app.py → emoji-topic."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from emostream.operate.supervisor import Supervisor
from emostream.process import why_not_ready
from emostream.settings import load
from testkit.broker import Broker
from testkit.http_calls import JSON, call
from testkit.ports import free_port_block, listening
from testkit.scripts import Script, script
from testkit.settings import environment_for
from testkit.waiting import wait_until

TIMESTAMP = "2026-01-31T20:15:00Z"


def tap(user_id: str = "u", emoji: object = "🔥", timestamp: object = TIMESTAMP) -> dict[str, object]:
    return {"user_id": user_id, "emoji_type": emoji, "timestamp": timestamp}


def url_of(broker: Broker) -> str:
    return f"http://127.0.0.1:{broker.environment['APP_PORT']}/send-emoji"


def serving(broker: Broker, app: Script) -> None:
    """Return when the app takes requests."""
    app.wait_for("listening")
    wait_until("the app listens", lambda: listening(int(broker.environment["APP_PORT"])))


def users_on(broker: Broker, topic: str = "emoji-topic") -> set[str]:
    return {event["user_id"] for event in broker.counts(topic)}


def group_alive(group: int) -> bool:
    """Whether a process of this group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def pid_of(broker: Broker) -> int:
    """The broker's process."""
    processes = Supervisor(load(environ=broker.environment)).processes()
    return next(process.pid for process in processes if process.name == "kafka_1")


def workers_of(app: Script) -> int:
    """How many workers have started their threads."""
    pid = app.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(len(list(Path(f"/proc/{child}/task").glob("*"))) > 3 for child in children)


@pytest.fixture(scope="module")
def app(broker: Broker) -> Iterator[str]:
    """One running app for the tests that only send it requests: its URL."""
    broker.replace_topics()
    port = free_port_block(1)  # the tests that start an app of their own use the broker's APP_PORT
    with script(broker.environment, "app.py", APP_PORT=port):
        wait_until("the app listens", lambda: listening(port))
        yield f"http://127.0.0.1:{port}/send-emoji"


def test_a_tap_is_answered_200_as_the_contract_says(app: str) -> None:
    assert call(app, tap()) == (200, {"status": "success", "message": "Emoji sent to Kafka"})


def test_a_tap_is_on_emoji_topic_as_user_id_emoji_and_timestamp(broker: Broker, app: str) -> None:
    call(app, tap("viewer-1", "👩‍🚀", "2026-01-31T21:15:00+01:00"))

    def found() -> list[dict[str, Any]]:
        return [event for event in broker.counts("emoji-topic") if event["user_id"] == "viewer-1"]

    (event,) = wait_until("the tap on the topic", found)
    assert event == {"user_id": "viewer-1", "emoji": "👩‍🚀", "timestamp": "2026-01-31T20:15:00+00:00"}


BAD_BODIES = {
    "nothing": b"",
    "no JSON": b"emoji=fire",
    "an array": b"[1, 2]",
    "a string": b'"tap"',
    "no UTF-8": b'{"user_id": "bad", "emoji_type": "\xff\xfe", "timestamp": "2026-01-31T20:15:00Z"}',
    "half a surrogate pair": rb'{"user_id": "bad", "emoji_type": "\ud83d", "timestamp": "2026-01-31T20:15:00Z"}',
    "nested very deeply": b'{"user_id": ' + b"[" * 30_000,
    "something after the object": json.dumps(tap("bad")).encode() + b"}",
    "a missing field": b'{"user_id": "bad", "timestamp": "2026-01-31T20:15:00Z"}',
    "null for a field": json.dumps(tap("bad", None)).encode(),
    "a number for an emoji": json.dumps(tap("bad", 5)).encode(),
    "an object for an emoji": json.dumps(tap("bad", {"a": 1})).encode(),
    "an empty emoji": json.dumps(tap("bad", " ")).encode(),
    "an emoji of 65 bytes": json.dumps(tap("bad", "e" * 65)).encode(),
    "a control character": json.dumps(tap("bad", "\x1b[2J")).encode(),
    "an empty user": json.dumps(tap("")).encode(),
    "no date": json.dumps(tap("bad", timestamp="yesterday")).encode(),
    "a number for a date": json.dumps(tap("bad", timestamp=1_769_890_500)).encode(),
    "a date beyond the calendar": json.dumps(tap("bad", timestamp="0001-01-01T00:00:00+23:59")).encode(),
    "more than 64 KB": json.dumps(tap("bad" * 30_000)).encode(),
}


@pytest.mark.parametrize("what", BAD_BODIES)
def test_a_bad_body_is_refused_with_4xx_and_a_reason_in_json(app: str, what: str) -> None:
    answer = requests.post(app, data=BAD_BODIES[what], headers=JSON, timeout=30)
    assert 400 <= answer.status_code < 500, answer.text
    assert list(answer.json()) == ["error"]
    assert "expected" in answer.json()["error"]


def test_a_chunked_body_over_64_kb_is_refused_with_413_in_json(app: str) -> None:
    body = json.dumps(tap("bad")).encode() + b" " * 70_000  # what is within the limit is a good tap
    chunks = (body[start : start + 4096] for start in range(0, len(body), 4096))
    answer = requests.post(app, data=chunks, headers=JSON, timeout=30)
    assert answer.status_code == 413, answer.text
    assert "expected" in answer.json()["error"]


def test_a_chunked_body_within_64_kb_is_taken(broker: Broker, app: str) -> None:
    body = json.dumps(tap("chunked")).encode()
    answer = requests.post(app, data=iter([body[:10], body[10:]]), headers=JSON, timeout=30)
    assert answer.status_code == 200, answer.text
    wait_until("the tap on the topic", lambda: "chunked" in users_on(broker))


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/send-emoji", JSON, 405),
        ("PUT", "/send-emoji", JSON, 405),
        ("POST", "/", JSON, 405),
        ("POST", "/send-emoji/more", JSON, 404),
        ("POST", "/send-emoji", {"Content-Type": "text/plain"}, 415),
    ],
)
def test_a_request_for_something_else_is_refused_in_json(
    app: str, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    url = app.removesuffix("/send-emoji") + path
    answer = requests.request(method, url, data=json.dumps(tap("bad")), headers=headers, timeout=30)
    assert answer.status_code == status
    assert "expected" in answer.json()["error"]


def test_good_taps_between_bad_ones_all_arrive_and_no_bad_one_does(broker: Broker, app: str) -> None:
    wanted = set()
    for number, bad in enumerate(BAD_BODIES.values()):
        requests.post(app, data=bad, headers=JSON, timeout=30)
        assert call(app, tap(f"beside-{number}"))[0] == 200
        wanted.add(f"beside-{number}")
    wait_until("the good ones on the topic", lambda: wanted <= users_on(broker))
    assert users_on(broker) <= wanted | {"u", "viewer-1", "chunked"}


def test_the_events_of_a_batch_are_on_emoji_topic_one_by_one(broker: Broker, app: str) -> None:
    merged = tap("batch-2") | {"count": 7}
    status, answer = call(app.replace("emoji", "emojis"), [tap("batch-1"), merged, tap("batch-3", None)])
    assert (status, answer["accepted"], [rejected["index"] for rejected in answer["rejected"]]) == (200, 2, [2])

    def found() -> list[dict[str, Any]]:
        events = [event for event in broker.counts("emoji-topic") if event["user_id"].startswith("batch-")]
        return sorted(events, key=lambda event: str(event["user_id"])) if len(events) == 2 else []

    one, seven = wait_until("the batch on the topic", found)
    assert "count" not in one
    assert seven["count"] == 7


def raw(url: str, *parts: bytes) -> tuple[socket.socket, bytes]:
    """A connection over which these bytes were sent, and the head that they begin with."""
    head = b"POST /send-emoji HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0])), timeout=30)
    connection.sendall(head + b"".join(parts))
    return connection, head


def test_many_slow_bodies_hold_up_nobody_and_end_with_408(app: str) -> None:
    slow = [raw(app, b"Content-Length: 80\r\n\r\n{")[0] for _ in range(100)]
    assert call(app, tap("u"))[0] == 200
    for connection in slow:
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        connection.close()


@pytest.mark.parametrize(
    "rest",
    [
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Content-Length: x\r\n\r\n",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 80\r\n\r\n{",
    ],
)
def test_a_body_that_cannot_be_read_is_a_4xx(app: str, rest: bytes) -> None:
    connection, _ = raw(app, rest)
    connection.shutdown(socket.SHUT_WR)  # nothing follows, and the client still listens
    assert connection.recv(100).startswith(b"HTTP/1.1 4")
    connection.close()


def test_an_acknowledged_tap_is_on_the_broker_when_it_is_answered(empty_topics: Broker) -> None:
    with script(empty_topics.environment, "app.py", ACK="broker", LINGER_MS=60_000) as app:
        serving(empty_topics, app)
        for number in range(5):
            assert call(url_of(empty_topics), tap(f"user-{number}"))[0] == 200
            assert len(empty_topics.read("emoji-topic")) == number + 1
        batch = [tap("batch")] * 100
        assert call(url_of(empty_topics) + "s", batch) == (200, {"status": "success", "accepted": 100, "rejected": []})
        assert len(empty_topics.read("emoji-topic")) == 105


def test_twenty_thousand_events_do_not_wait_for_the_linger(empty_topics: Broker) -> None:
    with script(empty_topics.environment, "app.py", LINGER_MS=60_000, APP_WORKERS=1) as app:
        serving(empty_topics, app)
        # Not across a multiple of the linger, at which all would leave anyway.
        wait_until("enough of the linger is left", lambda: time.time() % 60 < 40)
        # In many requests: a partition that had most of them would be over librdkafka's 1 MB first.
        for _ in range(200):
            assert call(url_of(empty_topics) + "s", [tap("many")] * 100)[1]["accepted"] == 100
        wait_until("the first of them on the topic", lambda: users_on(empty_topics) == {"many"}, timeout_seconds=15)


def test_without_a_broker_it_is_live_but_not_ready_and_accepts_what_it_has_room_for(tmp_path: Path) -> None:
    away = Broker(environment_for(tmp_path))
    away.operate("emostream", "kafka")
    away.replace_topics()
    with script(away.environment, "app.py", MAX_BUFFERED_EVENTS=10, APP_WORKERS=1) as app:
        serving(away, app)
        url = url_of(away).removesuffix("/send-emoji")
        assert call(f"{url}/readyz") == (200, {"status": "ready"})
        os.kill(pid_of(away), signal.SIGSTOP)
        try:
            answers = [call(f"{url}/send-emoji", tap(f"user-{number}")) for number in range(12)]
            assert [status for status, _ in answers] == [200] * 10 + [503] * 2
            assert "10 events are waiting" in answers[-1][1]["error"]
            wait_until("it is not ready", lambda: call(f"{url}/readyz")[0] == 503)
            assert call(f"{url}/livez") == (200, {"status": "live"})
        finally:
            os.kill(pid_of(away), signal.SIGCONT)
        wait_until("it is ready again", lambda: call(f"{url}/readyz")[0] == 200)
        wait_until("all are on the topic", lambda: users_on(away) == {f"user-{number}" for number in range(10)})
        away.operate("emostream", "down")
        wait_until("it is not ready", lambda: call(f"{url}/readyz")[0] == 503)
        away.operate("emostream", "kafka")
        wait_until("it is ready again", lambda: call(f"{url}/readyz")[0] == 200)
        assert "Traceback" not in app.log
    away.operate("emostream", "down")


def test_it_goes_on_when_its_topic_is_replaced(empty_topics: Broker) -> None:
    with script(empty_topics.environment, "app.py", LINGER_MS=0) as app:
        serving(empty_topics, app)
        assert call(url_of(empty_topics), tap("before"))[0] == 200
        wait_until("the tap on the topic", lambda: users_on(empty_topics) == {"before"})
        empty_topics.replace_topics()

        def arrives() -> bool:
            call(url_of(empty_topics), tap("after"))
            return users_on(empty_topics) == {"after"}

        wait_until("taps on the new topic", arrives)
        assert "Traceback" not in app.log


def test_it_says_that_its_topic_is_missing_and_serves_when_it_comes(broker: Broker) -> None:
    with script(broker.environment, "app.py", EMOJI_TOPIC="late-topic") as app:
        app.wait_for("missing topics late-topic")
        admin = KafkaAdminClient(bootstrap_servers=broker.servers)
        admin.create_topics([NewTopic("late-topic", 3, 1)])
        admin.close()
        serving(broker, app)
        assert call(url_of(broker), tap("late"))[0] == 200
        wait_until("the tap on the late topic", lambda: users_on(broker, "late-topic") == {"late"})
        assert "Traceback" not in app.log


def test_it_says_that_the_broker_is_missing_and_serves_when_it_comes(tmp_path: Path) -> None:
    late = Broker(environment_for(tmp_path))
    with script(late.environment, "app.py") as app:
        app.wait_for(f"no broker at {late.servers}")
        try:
            late.operate("emostream", "kafka")
            late.replace_topics()
            serving(late, app)
            assert call(url_of(late), tap("late"))[0] == 200
            wait_until("the tap on the late broker", lambda: users_on(late) == {"late"})
            assert "Traceback" not in app.log
        finally:
            late.operate("emostream", "down")


def test_it_ends_at_sigterm_while_it_waits_for_a_broker(tmp_path: Path) -> None:
    environment = environment_for(tmp_path)
    with script(environment, "app.py") as app:
        app.wait_for("no broker at")
        assert app.terminate() == 0


@pytest.mark.parametrize("whom", ["the main process", "all processes"])
def test_sigterm_loses_nothing_that_was_answered_200(empty_topics: Broker, whom: str) -> None:
    url = url_of(empty_topics)
    with script(empty_topics.environment, "app.py", LINGER_MS=60_000) as app:
        serving(empty_topics, app)
        with ThreadPoolExecutor(8) as senders:
            answers = list(senders.map(lambda number: call(url, tap(f"user-{number}"))[0], range(500)))
        assert answers == [200] * 500
        if whom == "all processes":
            os.killpg(app.process.pid, signal.SIGINT)  # as the terminal does at Ctrl-C
            assert app.process.wait(60) == 0
        else:
            assert app.terminate() == 0
    assert users_on(empty_topics) == {f"user-{number}" for number in range(500)}
    assert len(empty_topics.read("emoji-topic")) == 500


def test_after_kill_9_of_the_main_process_no_worker_is_left_and_nothing_answered_200_is_lost(
    empty_topics: Broker,
) -> None:
    with script(empty_topics.environment, "app.py", LINGER_MS=5_000) as app:
        serving(empty_topics, app)
        for number in range(50):
            assert call(url_of(empty_topics), tap(f"user-{number}"))[0] == 200
        os.kill(app.process.pid, signal.SIGKILL)
        app.process.wait(60)
        wait_until("every worker has ended", lambda: not group_alive(app.process.pid))
    assert not listening(int(empty_topics.environment["APP_PORT"]))
    assert users_on(empty_topics) == {f"user-{number}" for number in range(50)}


# The app, of which one worker's producer fails once in a thread: at what `broken` names, after a tap.
BREAKING = """
import os, sys
from emostream.ingest import producer, workers
from emostream.process import run_script

name, once = sys.argv[1:3]
method = getattr(producer.BoundedProducer, name)

def broken(self, *args, **named):
    if self.counts()["accepted"]:
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            raise RuntimeError("broken on purpose")
    return method(self, *args, **named)

setattr(producer.BoundedProducer, name, broken)
run_script("", workers.serve, [])
"""


@pytest.mark.parametrize("thread", ["flush", "_on_statistics"], ids=["watch", "poll"])
def test_a_worker_that_lost_a_thread_is_replaced(empty_topics: Broker, thread: str, tmp_path: Path) -> None:
    url = url_of(empty_topics)
    with script(empty_topics.environment, "-c", BREAKING, thread, str(tmp_path / "once")) as app:
        serving(empty_topics, app)
        assert call(url, tap("before"))[0] == 200
        app.wait_for("a worker has ended; a new one is started")
        app.wait_for("msg=drained")

        def answered() -> bool:
            try:
                return call(url, tap("after"))[0] == 200
            except requests.ConnectionError:
                return False  # its worker was just ending

        wait_until("a tap is taken again", answered)
        wait_until("there are two workers again", lambda: workers_of(app) == 2)
        assert app.terminate() == 0
    assert users_on(empty_topics) == {"before", "after"}


def test_the_app_is_ready_while_one_of_its_workers_is(empty_topics: Broker, tmp_path: Path) -> None:
    # Not the DATA_DIR of the other app here, because there is one heartbeat in it.
    environment = empty_topics.environment | {"DATA_DIR": str(tmp_path)}
    settings = load(environ=environment)
    with script(environment, "app.py", APP_WORKERS=2) as app:
        serving(empty_topics, app)
        pid = app.process.pid
        wait_until("the app is ready", lambda: why_not_ready(settings, "app", pid) is None)
        wait_until("both workers run", lambda: workers_of(app) == 2)
        reasons: set[str | None] = set()

        def replaced() -> bool:
            reason = why_not_ready(settings, "app", pid)
            # A stall of the machine is that for both workers.
            if not (reason or "").startswith("it worked before; no sign of life"):
                reasons.add(reason)
            return app.log.count("msg=drained") == 1 and workers_of(app) == 2

        os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]), signal.SIGTERM)
        wait_until("one worker has ended, and a new one runs", replaced)
        assert reasons == {None}
        assert app.terminate() == 0


def test_a_taken_port_is_one_sentence_and_exit_2(broker: Broker) -> None:
    port = int(broker.environment["APP_PORT"])
    with socket.create_server(("127.0.0.1", port)), script(broker.environment, "app.py") as app:
        assert app.process.wait(60) == 2
        assert app.log.count("\n") == 1
        assert f"APP_PORT: cannot listen on 127.0.0.1:{port}" in app.log
