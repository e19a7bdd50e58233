"""The real ./start.sh, as its users call it, on ports and in a directory of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from testkit.http_servers import HttpClient, http_client
from testkit.processes import tree
from testkit.scripts import running
from testkit.settings import PROJECT_DIR, environment_for
from testkit.system import CLUSTERS, SUBSCRIBERS, System
from testkit.waiting import wait_until


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    found = System(environment_for(tmp_path_factory.mktemp("e2e")))
    up = found.start_sh("up")
    assert up.returncode == 0, up.stderr
    yield found
    found.start_sh("down")


def test_up_returns_when_every_process_is_ready(system: System) -> None:
    status = system.status()
    assert len(status) == 1 + 1 + 1 + CLUSTERS + CLUSTERS * SUBSCRIBERS
    assert {row["ready"] for row in status.values()} == {"yes"}


def test_a_second_up_leaves_everything_as_it_is(system: System) -> None:
    before = {name: row["pid"] for name, row in system.status().items()}
    assert system.start_sh("up").returncode == 0
    assert {name: row["pid"] for name, row in system.status().items()} == before


def test_a_tap_reaches_a_client_of_every_subscriber(system: System) -> None:
    with ExitStack() as stack:
        clients = {
            (cluster, subscriber): stack.enter_context(http_client())
            for cluster in range(1, CLUSTERS + 1)
            for subscriber in range(1, SUBSCRIBERS + 1)
        }
        for where, client in clients.items():
            assert system.call(*where, "/register", client) == "registered"
        for _ in range(3):
            system.tap("🏏")
        for client in clients.values():
            wait_until("all three events at the client", lambda client=client: _events(client, "🏏") == 3)  # type: ignore[misc]
        for where, client in clients.items():
            assert system.call(*where, "/deregister", client) == "deregistered"


def _events(client: HttpClient, emoji: str) -> int:
    return sum(record["events"] for record in client.received if record["emoji"] == emoji)


def test_the_commands_of_two_matches_on_one_evening_do_what_the_page_says(system: System) -> None:
    environment = {**system.environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    text = (PROJECT_DIR / "docs" / "rooms.md").read_text()
    stream_port, client_port = int(environment["STREAM_BASE_PORT"]) + 1, int(environment["PORT"])
    for written, here in ((":5000", f":{environment['APP_PORT']}"), (":7101", f":{stream_port}"),
                          ("PORT=8001", f"PORT={client_port}"), ("PORT=8002", f"PORT={client_port + 1}")):  # fmt: skip
        assert written in text
        text = text.replace(written, here)
    one, other, tap, stream, rooms, csv = re.findall(r"^```sh\n(.+?)^```", text, re.DOTALL | re.MULTILINE)

    def typed(command: str) -> str:
        shell = ["bash", "-c", command]
        return subprocess.run(
            shell, cwd=PROJECT_DIR, env=environment, check=True, timeout=60, capture_output=True, text=True
        ).stdout

    def in_final(log: str) -> int:
        # Only whole lines: what follows the last one may still be written.
        found = [json.loads(line[6:]) for line in log.split("\n")[:-1] if line.startswith("data: ")]
        assert {batch["room"] for batch in found} <= {"final"}
        return sum(count["events"] for batch in found for count in batch["counts"])

    with running(["bash", "-c", stream], environment) as watched:
        watched.wait_for("retry:")
        with running(["bash", "-c", one], environment) as first, running(["bash", "-c", other], environment) as second:
            for client in (first, second):
                client.wait_for("registered with")
            assert json.loads(typed(tap)) == {"status": "success", "message": "Emoji sent to Kafka"}
            wait_until("the taps of the client and of curl on the stream", lambda: in_final(watched.log) == 21)
    # Any worker may answer, and each reads the topic every few seconds only.
    both = {'{"room":"final","events":21}', '{"room":"third-place","events":20}'}
    wait_until("both rooms in one answer", lambda: (answer := typed(rooms)) and all(room in answer for room in both))

    def in_table() -> int:
        head, *rows = typed(csv).splitlines()
        events = head.split(",").index("events")
        return sum(int(row.split(",")[events]) for row in rows)

    wait_until("all events of the room in its table", lambda: in_table() == 21)


def test_every_process_that_is_killed_comes_back_and_the_stream_goes_on(system: System) -> None:
    names = ["app", "main_publisher", "cluster_publisher_1", "subscriber_1_1", "kafka_1"]
    with http_client() as client:
        system.call(1, 1, "/register", client)
        restarts = {name: int(system.status()[name]["restarts"]) for name in names}
        for name in names:
            pid = system.pid(name)
            os.kill(pid, signal.SIGKILL)
            wait_until(f"a successor of {name}", lambda pid=pid, name=name: system.pid(name) not in (0, pid))  # type: ignore[misc]
        wait_until("everything ready again", system.all_ready, timeout_seconds=240)
        for name in names:
            assert int(system.status()[name]["restarts"]) > restarts[name], name
        system.tap("🦉")
        wait_until("the event at the client of before", lambda: _events(client, "🦉") == 1)
        system.call(1, 1, "/deregister", client)


def test_spark_starts_from_the_archive_of_its_classes(system: System) -> None:
    pids = tree(system.pid("main_publisher"))
    assert any("/spark.jsa" in Path(f"/proc/{pid}/maps").read_text() for pid in pids)


def test_the_client_prints_the_stream_and_unsub_ends_it(system: System) -> None:
    command = [sys.executable, "client.py", "--receive-only"]
    with subprocess.Popen(
        command,
        cwd=PROJECT_DIR,
        env=system.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as client:
        assert client.stdin
        assert client.stdout
        assert client.stderr
        for line in client.stderr:
            if b"registered with" in line:
                break
        system.tap("🐙")
        assert client.stdout.read(len("🐙".encode())).decode() == "🐙"
        client.stdin.write(b"unsub\n")
        client.stdin.flush()
        assert client.wait(60) == 0
        assert b"deregistered" in client.stderr.read()


def test_a_port_that_is_taken_is_one_sentence_and_nothing_is_left_running(tmp_path: Path) -> None:
    other = System(environment_for(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(other.environment["APP_PORT"])))
        taken.listen()
        up = other.start_sh("up")
    assert up.returncode == 2
    assert "APP_PORT" in up.stderr
    assert "Traceback" not in up.stderr
    assert other.status() == {}


def test_up_names_the_process_that_fails_and_shows_the_end_of_its_log(tmp_path: Path) -> None:
    other = System(environment_for(tmp_path, SPARK_MASTER="nonsense"))
    try:
        up = other.start_sh("up")
        assert up.returncode == 1
        assert "main_publisher failed" in up.stderr
        assert "nonsense" in up.stderr
    finally:
        other.start_sh("down")


def test_ctrl_c_stops_everything_that_start_sh_has_started(tmp_path: Path) -> None:
    environment = environment_for(tmp_path)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(PROJECT_DIR)
        os.execve("./start.sh", ["./start.sh"], environment)  # noqa: S606 - it is its own shell
    shown = b""

    def read_until(what: bytes) -> None:
        nonlocal shown
        while what not in shown:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # the terminal is gone with the last process on it
                break
        assert what in shown, shown.decode(errors="replace")

    read_until(b"registered with")
    read_until("😊".encode())
    os.write(terminal, b"\x03")
    read_until(b"deregistered")
    read_until(b"Everything is stopped.")
    os.waitpid(pid, 0)
    left = subprocess.run(["pgrep", "-f", re.escape(str(tmp_path))], capture_output=True, text=True).stdout
    assert left == ""
    assert System(environment).status() == {}


def test_down_leaves_no_process_behind_and_may_be_given_twice_at_once(system: System) -> None:
    with ThreadPoolExecutor() as threads:
        downs = list(threads.map(lambda _: system.start_sh("down"), range(2)))
    assert [(down.returncode, "Traceback" in down.stderr) for down in downs] == [(0, False)] * 2
    left = subprocess.run(["pgrep", "-f", system.environment["DATA_DIR"]], capture_output=True, text=True).stdout
    assert left == ""
    assert system.start_sh("status").returncode == 1
