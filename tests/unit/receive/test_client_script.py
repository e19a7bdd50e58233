"""client.py as a process: with a fake subscriber, and a pipe in place of the terminal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from testkit.http_servers import Answer, Asked, http_server
from testkit.ports import free_port_block
from testkit.scripts import Script
from testkit.settings import PROJECT_DIR, bare_environment
from testkit.waiting import wait_until


@dataclass
class FakeSubscriber:
    slots: int = 1
    clients: list[str] = field(default_factory=list)

    def answer(self, asked: Asked) -> Answer:
        if asked.path == "/status":
            return Answer(200, json.dumps({"available_slots": self.slots}).encode())
        change = self.clients.append if asked.path == "/register" else self.clients.remove
        change(json.loads(asked.body)["client_url"])
        return Answer(200, b"{}")


@contextmanager
def running_client(subscriber: FakeSubscriber, log_path: Path, *options: str) -> Iterator[Script]:
    base_port = free_port_block(30)
    environment = bare_environment(SUBSCRIBER_BASE_PORT=base_port, PORT=base_port + 29, APP_PORT=base_port)
    with http_server(subscriber.answer, base_port + 1), log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "client.py", "--receive-only", *options], cwd=PROJECT_DIR, env=environment,
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield Script(process, log_path)
        finally:
            process.kill()
            process.wait(10)


def type_unsub(client: Script) -> None:
    assert client.process.stdin
    client.process.stdin.write(b"hello\n unsub \n")
    client.process.stdin.flush()


def interrupt(client: Script) -> None:
    client.process.send_signal(signal.SIGINT)


ENDINGS = pytest.mark.parametrize("end", [type_unsub, interrupt])


@ENDINGS
def test_the_client_shows_what_is_pushed_and_deregisters_when_it_ends(
    end: Callable[[Script], None], tmp_path: Path
) -> None:
    subscriber = FakeSubscriber()
    with running_client(subscriber, tmp_path / "log") as client:
        client.wait_for("registered with")
        [url] = subscriber.clients
        push = urllib.request.Request(url, data='{"emoji": "🔥", "count": 3}'.encode())
        with urllib.request.urlopen(push, timeout=10) as answer:
            assert answer.status == 204
        client.wait_for("🔥🔥🔥")
        end(client)
        assert client.process.wait(30) == 0
    assert subscriber.clients == []


@ENDINGS
def test_a_client_that_waits_for_a_slot_can_be_ended(end: Callable[[Script], None], tmp_path: Path) -> None:
    with running_client(FakeSubscriber(slots=0), tmp_path / "log") as client:
        client.wait_for("waiting for one")
        end(client)
        wait_until("its end", lambda: client.process.poll() is not None)


def test_a_client_that_reads_a_stream_needs_no_port(tmp_path: Path) -> None:
    data = '{"counts": [{"emoji": "🔥", "count": 3}]}'

    def answer(asked: Asked) -> Answer:
        if asked.path == "/subscribers":
            stream_url = f"{app.url}stream"
            listed = {"subscribers": [{"url": app.url, "stream_url": stream_url, "available_streams": 1}]}
            return Answer(200, json.dumps(listed).encode())
        return Answer(200, f"id: 1\ndata: {data}\n\n".encode(), {"Content-Type": "text/event-stream"})

    with (
        http_server(answer) as app,
        running_client(FakeSubscriber(), tmp_path / "log", "--stream", "--app", app.url, f"PORT={app.port}") as client,
    ):
        client.wait_for("🔥🔥🔥")
        type_unsub(client)
        assert client.process.wait(30) == 0


def test_a_client_that_may_not_wait_says_that_all_are_full_and_ends_with_1(tmp_path: Path) -> None:
    with running_client(FakeSubscriber(slots=0), tmp_path / "log", "--no-wait") as client:
        assert client.process.wait(30) == 1
        assert "no subscriber has a free slot" in client.log


def test_a_client_whose_port_is_taken_says_so_and_ends_with_2(tmp_path: Path) -> None:
    with (
        http_server(lambda _: Answer()) as other,
        running_client(FakeSubscriber(), tmp_path / "log", f"PORT={other.port}") as client,
    ):
        assert client.process.wait(30) == 2
        assert client.log.startswith(f"PORT: cannot listen on 127.0.0.1:{other.port}")
