"""client.py on terminals that cannot print emojis, and without a terminal: it goes on, and nothing is a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from testkit.http_servers import Answer, Asked, http_server
from testkit.ports import free_port_block
from testkit.settings import PROJECT_DIR, bare_environment
from testkit.waiting import wait_until

RECORDS = [{"emoji": "🔥", "count": 3}, {"emoji": "❤️", "count": 60}, {"emoji": "x", "count": 1}]
# Python's own way out for LC_ALL=C, to take UTF-8 instead, is off: an older locale is like that.
PLAIN_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
UTF_8 = "🔥🔥🔥 ❤️×60 x"
REPLACED = "??? ?x60 x"
TERMINALS: list[tuple[dict[str, str], str, str]] = [
    ({"PYTHONIOENCODING": "utf-8"}, "utf-8", UTF_8),
    ({"PYTHONIOENCODING": "utf-16-le"}, "utf-16-le", UTF_8),
    ({"PYTHONIOENCODING": "gb18030"}, "gb18030", UTF_8),
    ({"PYTHONIOENCODING": "latin-1"}, "latin-1", REPLACED),
    ({"PYTHONIOENCODING": "latin-1:strict"}, "latin-1", REPLACED),
    ({"PYTHONIOENCODING": "cp1252"}, "cp1252", REPLACED),
    ({"PYTHONIOENCODING": "ascii"}, "ascii", REPLACED),
    ({"PYTHONIOENCODING": "cp437"}, "cp437", REPLACED),
    (PLAIN_C, "ascii", REPLACED),
    ({"LC_ALL": "C"}, "utf-8", UTF_8),
]


@dataclass
class Client:
    """A client.py that receives RECORDS, pushed to it or on a stream, when it is told to."""

    process: subprocess.Popen[bytes]
    streams: bool
    port: int
    out_path: Path
    said_path: Path
    release: Path

    def receive(self, number: int = len(RECORDS)) -> None:
        self.release.touch()  # which lets the stream go on
        if not self.streams:
            wait_until("its registration", lambda: "registered" in self.said() or self.answers())
            for record in RECORDS[:number]:
                push = urllib.request.Request(f"http://127.0.0.1:{self.port}/", data=json.dumps(record).encode())
                with urllib.request.urlopen(push, timeout=10) as answer:
                    assert answer.status == 204

    def answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def said(self) -> str:
        return self.said_path.read_bytes().decode(errors="replace")

    def printed(self) -> bytes:
        return self.out_path.read_bytes()

    def end(self) -> int:
        assert self.process.stdin
        self.process.stdin.write(b"unsub\n")
        self.process.stdin.flush()
        return self.process.wait(30)


@contextmanager
def client(
    directory: Path,
    environment: dict[str, str],
    streams: bool,
    redirections: str = '>"$OUT" 2>"$SAID"',
    stdout: int | None = None,
) -> Iterator[Client]:
    """A shell starts it, because only a shell closes a descriptor that Python would open again."""
    first = free_port_block(30)
    release = directory / "release"

    def events() -> Iterator[bytes]:
        wait_until("the test", release.exists, timeout_seconds=60)
        for number, record in enumerate(RECORDS):
            yield f"id: {number}\ndata: {json.dumps({'counts': [record]})}\n\n".encode()
        while process.poll() is None:
            time.sleep(0.05)
            yield b":\n\n"

    def answer(asked: Asked) -> Answer:
        if asked.path == "/stream":
            return Answer(200, headers={"Content-Type": "text/event-stream"}, stream=events())
        status = {"available_slots": 1, "available_streams": 1, "stream_port": first + 1}
        return Answer(200, json.dumps(status).encode())

    out, said = directory / "out", directory / "said"
    out.touch()
    said.touch()
    ours = bare_environment(SUBSCRIBER_BASE_PORT=first, PORT=first + 29, APP_PORT=first, OUT=out, SAID=said)
    command = f'exec "$@" {redirections}'
    arguments = [sys.executable, "client.py", "--receive-only", *(["--stream"] if streams else [])]
    with http_server(answer, first + 1):
        process = subprocess.Popen(
            ["/bin/sh", "-c", command, "sh", *arguments], cwd=PROJECT_DIR, env=ours | environment,
            stdin=subprocess.PIPE, stdout=stdout,
        )  # fmt: skip
        try:
            yield Client(process, streams, first + 29, out, said, release)
        finally:
            process.kill()
            process.wait(10)


RECEIVES = pytest.mark.parametrize("streams", [False, True], ids=["pushed", "stream"])


@RECEIVES
@pytest.mark.parametrize(("environment", "encoding", "expected"), TERMINALS, ids=lambda value: str(value)[:60])
def test_what_a_terminal_cannot_print_is_replaced(
    tmp_path: Path, streams: bool, environment: dict[str, str], encoding: str, expected: str
) -> None:
    with client(tmp_path, environment, streams) as ours:
        ours.receive()
        wait_until("the last record", lambda: ours.printed().decode(encoding).endswith("x"))
        assert ours.printed().decode(encoding) == expected
        assert ours.end() == 0
        assert "Traceback" not in ours.said()
        assert ours.said().count("cannot print emojis") == ("?" in expected)


@RECEIVES
@pytest.mark.parametrize("redirections", ['>&- 2>"$SAID"', '>"$OUT" 2>&-', ">&- 2>&-", '>/dev/full 2>"$SAID"'])
def test_without_a_place_to_print_to_the_client_goes_on(tmp_path: Path, streams: bool, redirections: str) -> None:
    with client(tmp_path, {"PYTHONIOENCODING": "utf-8"}, streams, redirections) as ours:
        ours.receive()
        if "$OUT" in redirections:
            wait_until("the records", lambda: ours.printed().decode() == UTF_8)
        elif not streams:
            ours.receive()
        assert ours.end() == 0
        assert "Traceback" not in ours.said()
        assert "Exception" not in ours.said()


@RECEIVES
def test_a_client_whose_reader_has_gone_says_so_and_ends(tmp_path: Path, streams: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with client(tmp_path, {}, streams, '2>"$SAID"', stdout=writer) as ours:
            ours.receive(1)
            assert ours.process.wait(30) == 0
            assert "Traceback" not in ours.said()
            assert "Exception" not in ours.said()
            assert "nobody reads" in ours.said()
            assert ("deregistered" in ours.said()) != streams
    finally:
        os.close(writer)
