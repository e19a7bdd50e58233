"""The whole system, run by ./start.sh: how to call it, clients of it, and what its processes use."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from emostream import roles
from emostream.operate.supervisor import Supervisor
from emostream.settings import Settings
from testkit.http_calls import call
from testkit.http_servers import HttpClient, http_client
from testkit.processes import cpu_seconds_of, number_in_proc, tree
from testkit.settings import PROJECT_DIR

CLUSTERS, SUBSCRIBERS = 3, 3
Sample = dict[str, Any]


class System:
    """A system that ./start.sh runs."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def start_sh(self, *arguments: str, timeout_seconds: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["./start.sh", *arguments], cwd=PROJECT_DIR, env=self.environment, timeout=timeout_seconds,
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def status(self) -> dict[str, dict[str, Any]]:
        """The table of `./start.sh status`, by process."""
        lines = self.start_sh("status").stdout.splitlines()
        if not lines or not lines[0].startswith("process"):
            return {}
        columns = lines[0].split()[1:]
        return {line.split()[0]: dict(zip(columns, line.split()[1:], strict=False)) for line in lines[1:]}

    def pid(self, name: str) -> int:
        return int(self.status()[name]["pid"])

    def all_ready(self) -> bool:
        return self.start_sh("status").returncode == 0

    def tap(self, emoji: str) -> None:
        body = {"user_id": "u", "emoji_type": emoji, "timestamp": "2026-01-31T20:15:00Z"}
        answer = call(f"http://127.0.0.1:{self.environment['APP_PORT']}/send-emoji", body)
        assert answer == (200, {"status": "success", "message": "Emoji sent to Kafka"})

    def subscriber_url(self, cluster: int, subscriber: int) -> str:
        return f"http://127.0.0.1:{int(self.environment['SUBSCRIBER_BASE_PORT']) + 10 * (cluster - 1) + subscriber}"

    def call(self, cluster: int, subscriber: int, path: str, client: HttpClient) -> Any:
        status, answer = call(self.subscriber_url(cluster, subscriber) + path, {"client_url": client.url})
        assert status == 200, answer
        return answer["status"]


@contextmanager
def running_system(environment: dict[str, str]) -> Iterator[None]:
    """`./start.sh up`, and `./start.sh down` at the end of the block."""

    def start_sh(command: str, timeout_seconds: float) -> None:
        subprocess.run(
            ["./start.sh", command], cwd=PROJECT_DIR, env=environment, check=True, timeout=timeout_seconds,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    try:
        start_sh("up", 300)
        yield
    finally:
        start_sh("down", 120)


@contextmanager
def registered_clients(
    settings: Settings, rooms: Sequence[str] = ("",)
) -> Iterator[dict[tuple[str, str], HttpClient]]:
    """By cluster topic and room, a client of the first subscriber of each cluster."""
    with ExitStack() as stack:
        clients = {}
        for cluster, topic in enumerate(settings.cluster_topics, 1):
            url = f"http://{settings.client_host}:{roles.subscriber(settings, cluster, 1).port}"
            for room in rooms:
                client = clients[topic, room] = stack.enter_context(http_client())
                request = {"client_url": client.url} | ({"room": room} if room else {})
                status, body = call(f"{url}/register", request)
                assert status == 200, f"{url}/register: {body}"
                stack.callback(call, f"{url}/deregister", {"client_url": client.url})
        yield clients


def look_at(settings: Settings, supervisor: Supervisor) -> Sample:
    """Memory, threads, descriptors and CPU so far by process, its children included, and what is in DATA_DIR."""
    processes = {}
    pids = {process.name: tree(process.pid) for process in supervisor.processes()}
    pids["supervisord"] = [int((settings.data_path / "run" / "supervisord.pid").read_text())]
    for name, those in pids.items():
        found = {"memory_mb": 0.0, "threads": 0, "descriptors": 0, "cpu_seconds": 0.0}
        for pid in those:
            try:
                found["memory_mb"] += number_in_proc(pid, "status", "VmRSS:") / 1024
                found["threads"] += number_in_proc(pid, "status", "Threads:")
                found["descriptors"] += len(os.listdir(f"/proc/{pid}/fd"))
                found["cpu_seconds"] += cpu_seconds_of(pid)
            except (OSError, StopIteration):  # it has just ended
                continue
        processes[name] = {what: round(value, 2) for what, value in found.items()}
    data = settings.data_path
    kafka_mb = megabytes(data / "kafka")
    return {
        "seconds": time.monotonic(),
        "processes": processes,
        "checkpoint_files": sum(len(names) for _, _, names in os.walk(data / "spark" / "checkpoint")),
        "kafka_mb": round(kafka_mb, 1),
        "other_mb": round(megabytes(data) - kafka_mb, 1),
    }


def megabytes(directory: Path) -> float:
    """What the files below a directory take on the disk; links are not followed."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total / 2**20
