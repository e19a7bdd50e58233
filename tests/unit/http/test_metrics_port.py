"""emostream.http.metrics_port: what a publisher answers about itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from emostream.http.metrics_port import serve_metrics
from emostream.metrics.catalogue import ROUTE
from emostream.metrics.counters import Metrics
from emostream.metrics.page import MetricsPage
from emostream.process import Heartbeat, Log
from emostream.roles import cluster_publisher
from testkit.logs import logged
from testkit.ports import free_port_block, listening
from testkit.settings import settings_with
from testkit.waiting import wait_until


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A publisher's port that another process has at first: its URL, heartbeat, and what was logged meanwhile."""
    base = free_port_block(2)
    settings = settings_with(METRICS_BASE_PORT=base, DATA_DIR=tmp_path_factory.mktemp("data"))
    role = cluster_publisher(settings, 1)
    counts = Metrics(Log("test"), ROUTE)
    counts.add("routed")
    program = f"import http.server; http.server.HTTPServer(('127.0.0.1', {role.port}), None).serve_forever()"
    other = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until("the port to be taken", lambda: listening(role.port))
        with logged() as lines:
            serve_metrics(MetricsPage(counts), settings, role, Log("test"))
            wait_until("a line about it", lambda: lines)
    finally:
        other.kill()
        other.wait(10)
    wait_until("the port is free, and then ours", lambda: listening(role.port))
    return SimpleNamespace(url=f"http://127.0.0.1:{role.port}", heartbeat=Heartbeat(settings, role.name), lines=lines)


def test_a_page_is_served_once_its_port_is_free(publisher: SimpleNamespace) -> None:
    assert any("METRICS_BASE_PORT" in line for line in publisher.lines)
    answer = requests.get(f"{publisher.url}/metrics", timeout=10)
    assert "emostream_route_records_total 1.0" in answer.text
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_a_publisher_is_ready_while_its_own_heartbeat_is_fresh(publisher: SimpleNamespace) -> None:
    def status(path: str) -> int:
        return requests.get(publisher.url + path, timeout=10).status_code

    assert (status("/livez"), status("/readyz")) == (200, 503)
    publisher.heartbeat.beat()
    assert status("/readyz") == 200
    Path(publisher.heartbeat._path).write_text("1")  # of another process that has taken over
    assert status("/readyz") == 503


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("POST", "/metrics", 405)])
def test_another_call_is_refused_with_one_sentence(
    publisher: SimpleNamespace, method: str, path: str, status: int
) -> None:
    answer = requests.request(method, publisher.url + path, timeout=10)
    assert (answer.status_code, "expected GET" in answer.json()["error"]) == (status, True)
