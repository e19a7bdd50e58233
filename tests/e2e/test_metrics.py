"""GET /metrics of a whole running system, read by the real promtool and the real Prometheus."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from emostream.metrics.catalogue import STAGES
from testkit.http_servers import http_client
from testkit.ports import free_port_block
from testkit.scripts import script
from testkit.settings import PROJECT_DIR, environment_for
from testkit.system import CLUSTERS, SUBSCRIBERS, System
from testkit.waiting import wait_until

EMOJIS = "😊😂🔥👏😍"
NAMES = {series.name for stage in STAGES for series in stage.values()}
LABELS = tuple[tuple[str, str], ...]


def command(name: str) -> str:
    """Where tests/run.sh has put it, or the system."""
    unpacked = PROJECT_DIR / ".data" / "prometheus" / "usr" / "bin" / name
    found = str(unpacked) if unpacked.exists() else shutil.which(name)
    assert found, f"{name} is missing; tests/run.sh fetches it"
    return found


class Taps:
    """Taps that keep coming, some of them merged, until the end of the block."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Taps:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            events = [
                {"user_id": "u", "emoji_type": emoji, "timestamp": "2026-01-31T20:15:00Z", "count": 1 + n}
                for n, emoji in enumerate(EMOJIS)
            ]
            requests.post(self._url, json=events, timeout=30).raise_for_status()
            self.sent += sum(range(1, len(EMOJIS) + 1))


class Measured(System):
    """A system, and its pages of metrics."""

    def ports(self) -> dict[str, int]:
        """Port of each page, by process."""
        ours = {name: int(value) for name, value in self.environment.items() if name.endswith("PORT")}
        base = ours["METRICS_BASE_PORT"]
        publishers = {f"cluster_publisher_{cluster}": base + cluster for cluster in range(1, CLUSTERS + 1)}
        subscribers = {
            f"subscriber_{cluster}_{number}": ours["SUBSCRIBER_BASE_PORT"] + 10 * (cluster - 1) + number
            for cluster in range(1, CLUSTERS + 1)
            for number in range(1, SUBSCRIBERS + 1)
        }
        return {"app": ours["APP_PORT"], "main_publisher": base, **publishers, **subscribers}

    def page(self, process: str) -> str:
        answer = requests.get(f"http://127.0.0.1:{self.ports()[process]}/metrics", timeout=60)
        answer.raise_for_status()
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return answer.text

    def samples(self, process: str) -> dict[str, dict[LABELS, float]]:
        """Sample name → labels → number."""
        found: dict[str, dict[LABELS, float]] = {}
        for family in text_string_to_metric_families(self.page(process)):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        return found

    def total(self, process: str, name: str) -> float:
        return sum(self.samples(process).get(name, {}).values())


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    """A system with a client that takes everything, one that takes nothing, client.py, and a stream."""
    found = Measured(environment_for(tmp_path_factory.mktemp("metrics"), EVICT_AFTER_SECONDS=3600))
    up = found.start_sh("up")
    try:
        assert up.returncode == 0, up.stderr
        with ExitStack() as stack:
            for cluster, status in ((1, 200), (2, 503)):
                found.call(cluster, 1, "/register", stack.enter_context(http_client(status)))
            client = stack.enter_context(script(found.environment, "client.py", "--receive-only"))
            client.wait_for("registered with")
            port = int(found.environment["STREAM_BASE_PORT"]) + 1
            # A bare socket: closing a response of requests waits for the thread that reads it.
            stream = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            stream.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            threading.Thread(target=lambda: all(iter(lambda: stream.recv(65_536), b"")), daemon=True).start()
            stack.callback(stream.shutdown, socket.SHUT_RDWR)
            yield found
    finally:
        found.start_sh("down")


@pytest.fixture(scope="module")
def taps(system: Measured) -> Iterator[Taps]:
    """Taps that keep coming; some have been delivered."""
    with Taps(f"http://127.0.0.1:{system.environment['APP_PORT']}/send-emojis") as found:
        wait_until("taps on a screen", lambda: system.total("subscriber_1_1", "emostream_deliver_delivered_total") > 20)
        wait_until("taps on a stream", lambda: system.total("subscriber_1_1", "emostream_deliver_stream_seconds_count"))
        yield found


@pytest.mark.usefixtures("taps")
def test_every_page_is_as_promtool_wants_it(system: Measured) -> None:
    for process in system.ports():
        page = system.page(process)
        checked = subprocess.run(
            [command("promtool"), "check", "metrics"], input=page, capture_output=True, text=True, timeout=60
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", ""), process


@pytest.mark.usefixtures("taps")
def test_the_pages_have_every_series_of_the_documents_and_no_other(system: Measured) -> None:
    def told() -> set[str]:
        pages = [system.page(process) for process in system.ports()]
        return {name for page in pages for name in re.findall(r"^# TYPE (\S+) ", page, re.MULTILINE)}

    def with_samples() -> set[str]:
        samples = [system.samples(process) for process in system.ports()]
        return {re.sub("_(bucket|sum|count)$", "", name) for found in samples for name in found}

    assert told() == NAMES
    wait_until("numbers of all", lambda: with_samples() >= NAMES)
    text = "".join(system.page(process) for process in system.ports())
    assert not [emoji for emoji in EMOJIS if emoji in text]


def test_what_is_told_of_each_hop_is_what_went_through_it(system: Measured, taps: Taps) -> None:
    accepted = "emostream_ingest_accepted_total"
    before = taps.sent
    assert wait_until("it in the app", lambda: system.total("app", accepted) >= before)
    counted = system.total("main_publisher", "emostream_aggregate_events_total")
    wait_until("it counted", lambda: system.total("main_publisher", "emostream_aggregate_events_total") >= before)
    assert counted <= system.total("app", accepted)
    published = system.total("main_publisher", "emostream_aggregate_counts_total")
    routed = "emostream_route_records_total"
    for cluster in range(1, CLUSTERS + 1):
        wait_until("it routed", lambda name=f"cluster_publisher_{cluster}": system.total(name, routed) >= published)  # type: ignore[misc]
    read = "emostream_deliver_consumed_total"
    wait_until("it read", lambda: system.total("subscriber_3_3", read) >= published)
    assert system.samples("subscriber_1_1")["emostream_deliver_streams"] == {(): 1}
    # client.py goes to any of the nine, so that the client that fails may have another beside it.
    failing = system.samples("subscriber_2_1")["emostream_deliver_client_failing_seconds"].values()
    assert [seconds for seconds in failing if seconds > 0] == [max(failing)]
    assert system.total("subscriber_2_1", "emostream_deliver_client_behind_records") > 0


@pytest.mark.usefixtures("taps")
def test_the_stages_of_a_tap_add_up_to_the_whole(system: Measured) -> None:
    found = system.samples("subscriber_1_1")
    stages = found["emostream_deliver_stage_seconds_sum"]
    assert {dict(labels)["stage"] for labels in stages} == {"batch", "route", "push"}
    [whole] = found["emostream_deliver_tap_to_screen_seconds_sum"].values()
    [taps_measured] = found["emostream_deliver_tap_to_screen_seconds_count"].values()
    assert set(found["emostream_deliver_stage_seconds_count"].values()) == {taps_measured}
    assert sum(stages.values()) == pytest.approx(whole, rel=0.05)
    # The design's floor is 0.25 s; a tap that took longer than a minute would not be one of this test.
    assert 0.1 < whole / taps_measured < 60


@pytest.mark.usefixtures("taps")
def test_no_log_has_a_line_for_each_event(system: Measured) -> None:
    lines = {
        path.name: path.read_text(errors="replace").count("\n")
        for path in (Path(system.environment["DATA_DIR"]) / "log").glob("*_*.log")
        if not path.name.startswith("kafka")
    }
    batches = system.total("main_publisher", "emostream_aggregate_batches_total")
    assert max(lines.values()) < batches + 60, lines


def test_a_process_that_died_and_came_back_has_been_restarted(system: Measured) -> None:
    def restarts() -> float:
        return system.samples("app")["emostream_process_restarts_total"][("process", "subscriber_3_2"),]

    assert restarts() == 0
    os.kill(system.pid("subscriber_3_2"), signal.SIGKILL)
    wait_until("it counted", lambda: restarts() == 1)
    wait_until("it back", lambda: system.samples("app")["emostream_process_up"][("process", "subscriber_3_2"),] == 1)
    wait_until("everything ready again", system.all_ready)


@contextmanager
def prometheus(system: Measured, directory: Path) -> Iterator[str]:
    """The real one with our configuration, at this system's ports; its URL."""
    text = (PROJECT_DIR / "config" / "prometheus.yml").read_text()
    ours = {"app": 5000, "main_publisher": 7200} | {f"cluster_publisher_{c}": 7200 + c for c in range(1, CLUSTERS + 1)}
    base = int(system.environment["SUBSCRIBER_BASE_PORT"])
    ours |= {name: 7000 + port - base for name, port in system.ports().items() if name.startswith("subscriber")}
    assert sorted(ours.values()) == sorted(int(port) for port in re.findall(r'"127.0.0.1:(\d+)"', text))
    for name, port in ours.items():
        text = text.replace(f'"127.0.0.1:{port}"', f'"127.0.0.1:{system.ports()[name]}"')
    config = directory / "prometheus.yml"
    config.write_text(text.replace("scrape_interval: 5s", "scrape_interval: 4s"))
    subprocess.run([command("promtool"), "check", "config", str(config)], check=True, capture_output=True, timeout=60)
    port = free_port_block(1)
    arguments = [
        f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address=127.0.0.1:{port}"
    ]  # fmt: skip
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([command("prometheus"), *arguments], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return requests.get(f"{url}/-/ready", timeout=5).ok
        except requests.RequestException:
            return False

    try:
        wait_until("Prometheus", ready)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def query(url: str, expression: str) -> list[float]:
    """The numbers that it has for an expression now."""
    answer = requests.get(f"{url}/api/v1/query", params={"query": expression}, timeout=30).json()
    assert answer["status"] == "success", (expression, answer)
    numbers = [float(series["value"][1]) for series in answer["data"]["result"]]
    return [number for number in numbers if not math.isnan(number)]


def expressions() -> list[str]:
    """Every one of the dashboard for Grafana, as Grafana would ask it."""
    dashboard: Any = json.loads((PROJECT_DIR / "config" / "grafana-dashboard.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return [expression.replace("$__rate_interval", "20s") for expression in found]


def test_a_real_prometheus_finds_every_process_and_has_numbers_for_everything_on_the_dashboard(
    system: Measured, taps: Taps, tmp_path: Path
) -> None:
    with prometheus(system, tmp_path) as url:
        processes = len(system.ports())
        wait_until("all of them found", lambda: query(url, "sum(up)") == [processes])
        before = taps.sent
        wait_until("taps since then", lambda: taps.sent > before + 100)
        empty = expressions()
        assert len(empty) > 50
        deadline = time.monotonic() + 180
        while empty and time.monotonic() < deadline:
            empty = [expression for expression in empty if not query(url, expression)]
        assert empty == []


def test_every_series_of_ours_is_on_the_dashboard() -> None:
    shown = " ".join(expressions())
    left_out = {"process_virtual_memory_bytes", "emostream_build_info"}
    missing = {name for name in NAMES if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", shown)}
    assert missing == left_out
