"""The whole system, run by ./start.sh."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from typing import Any

from testkit.http_calls import JSON
from testkit.http_servers import HttpClient
from testkit.settings import PROJECT_DIR

CLUSTERS, SUBSCRIBERS = 3, 3


class System:
    """A system that ./start.sh runs."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def start_sh(self, *arguments: str, timeout_seconds: float = 200) -> subprocess.CompletedProcess[str]:
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
        return {line.split()[0]: dict(zip(columns, line.split()[1:], strict=True)) for line in lines[1:]}

    def pid(self, name: str) -> int:
        return int(self.status()[name]["pid"])

    def all_ready(self) -> bool:
        return self.start_sh("status").returncode == 0

    def tap(self, emoji: str) -> None:
        body = json.dumps({"user_id": "u", "emoji_type": emoji, "timestamp": "2026-01-31T20:15:00Z"}).encode()
        url = f"http://127.0.0.1:{self.environment['APP_PORT']}/send-emoji"
        with urllib.request.urlopen(urllib.request.Request(url, body, JSON), timeout=10) as answer:
            assert json.load(answer) == {"status": "success", "message": "Emoji sent to Kafka"}

    def subscriber_url(self, cluster: int, subscriber: int) -> str:
        return f"http://127.0.0.1:{int(self.environment['SUBSCRIBER_BASE_PORT']) + 10 * (cluster - 1) + subscriber}"

    def call(self, cluster: int, subscriber: int, path: str, client: HttpClient) -> Any:
        body = json.dumps({"client_url": client.url}).encode()
        request = urllib.request.Request(self.subscriber_url(cluster, subscriber) + path, body, JSON)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["status"]


def start_system(environment: dict[str, str]) -> None:
    """./start.sh up; nothing is left of it where it fails."""
    try:
        subprocess.run(
            ["./start.sh", "up"], cwd=PROJECT_DIR, env=environment, check=True, timeout=300, stdin=subprocess.DEVNULL
        )
    except subprocess.SubprocessError:
        stop_system(environment)
        raise


def stop_system(environment: dict[str, str]) -> None:
    """./start.sh down."""
    subprocess.run(["./start.sh", "down"], cwd=PROJECT_DIR, env=environment, check=True, timeout=120)
