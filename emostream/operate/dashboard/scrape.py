"""GET /metrics of every process, and supervisor → what the dashboard shows. Asks nobody while nobody looks.

The numbers are passed on as they are: who looks twice knows what has happened in between.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

import msgspec
import requests
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from emostream.discovery import Directory, Eviction
from emostream.operate.dashboard.cache import Latest
from emostream.operate.supervisor import SupervisedProcess, Supervisor
from emostream.roles import roles, subscriber
from emostream.settings import Settings

FRESH_SECONDS = 1.0
# To connect, and between two pieces of an answer; and for all of them together.
TIMEOUT_SECONDS = (0.5, 1.0)
TOTAL_SECONDS = 2.0
MAX_PAGE_BYTES = 2_000_000
MAX_SERIES = 3_000
MAX_CLIENTS = 50  # of a subscriber's, those who are worst off
PREFIXES = ("emostream_", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds")
CLIENT_BEHIND = "emostream_deliver_client_behind_records"
CLIENT_FAILING = "emostream_deliver_client_failing_seconds"


class Histogram(msgspec.Struct):
    """Observations so far: how many were at most each of `le` seconds, all of them, and their sum."""

    le: list[float] = []
    at_most: list[float] = []
    count: float = 0
    sum: float = 0


class Client(msgspec.Struct):
    """A client that is registered and has not all that it should, as its subscriber sees it."""

    client_url: str
    behind_records: float = 0
    failing_seconds: float = 0


class Page(msgspec.Struct):
    """What one process says of itself; a series is named as Prometheus writes it, with its labels."""

    series: dict[str, float] = {}
    histograms: dict[str, Histogram] = {}
    clients: list[Client] = []


class Process(msgspec.Struct, frozen=True):
    """One process: what supervisor knows of it, None where there is none, and its own page, None without an answer.

    A broker has no page. `evicted` are a subscriber's last evictions.
    """

    name: str
    state: str | None
    ready: bool | None
    restarts: int | None
    uptime_seconds: int | None
    page: Page | None
    evicted: tuple[Eviction, ...] = ()


class Overview(msgspec.Struct, frozen=True):
    """The answer of GET /dashboard.json; `at_ms` is when it was asked for, in Unix milliseconds.

    `supervised`: the system runs under supervisor, so that who is missing there is missing.
    """

    at_ms: int
    supervised: bool
    batch_seconds: float
    processes: list[Process]


class Scraper:
    """Asks everybody when somebody looks, and those who look at the same time get the same."""

    def __init__(self, settings: Settings, directory: Directory, own_page: Callable[[], bytes]) -> None:
        """`own_page` is the app's GET /metrics, for which it need not call itself."""
        self._settings = settings
        self._directory = directory
        self._own_page = own_page
        self._latest = Latest(lambda: msgspec.json.encode(self._ask()), FRESH_SECONDS)

    def now(self) -> bytes:
        """An Overview in JSON, at most FRESH_SECONDS old, or as old as an answer that is on its way."""
        return self._latest.get()

    def _ask(self) -> Overview:
        """Ask each process in a thread of its own, which ends with the answer."""
        at_ms = round(time.time() * 1000)
        urls = metrics_urls(self._settings)
        threads = ThreadPoolExecutor(len(urls) + 2, "scrape")
        asked: dict[str, Future[Page | None]] = {name: threads.submit(fetch, url) for name, url in urls.items()}
        asked["app"] = threads.submit(lambda: parse(self._own_page()))
        supervisor = threads.submit(supervised, self._settings)
        everything: list[Future[Any]] = [*asked.values(), supervisor]
        wait(everything, TOTAL_SECONDS)
        threads.shutdown(wait=False, cancel_futures=True)
        pages = {name: future.result() for name, future in asked.items() if future.done() and not future.exception()}
        known = started_by_it(supervisor.result()) if supervisor.done() and not supervisor.exception() else {}
        evicted = {subscriber(self._settings, s.cluster, s.subscriber).name: s.evicted for s in self._directory.now()}
        processes = [
            _process(role.name, known.get(role.name), pages.get(role.name), evicted.get(role.name, ()))
            for role in roles(self._settings)
            if role.name in known or role.kind != "kafka"
        ]
        return Overview(at_ms, "app" in known, self._settings.batch_seconds, processes)


def _process(name: str, known: SupervisedProcess | None, page: Page | None, evicted: tuple[Eviction, ...]) -> Process:
    if known is None:
        return Process(name, None, None, None, None, page, evicted)
    return Process(name, known.state, known.ready, known.restarts, known.uptime_seconds, page, evicted)


def metrics_urls(settings: Settings) -> dict[str, str]:
    """Where each process but the app has its GET /metrics, by its name."""
    host = f"[{settings.client_host}]" if ":" in settings.client_host else settings.client_host
    asked = [role for role in roles(settings) if role.kind not in ("kafka", "app")]
    return {role.name: f"http://{host}:{role.port}/metrics" for role in asked}


def supervised(settings: Settings) -> dict[str, SupervisedProcess]:
    """What supervisor says of each process; nothing where there is no supervisor."""
    return {process.name: process for process in Supervisor(settings).processes(ask_brokers=False)}


def started_by_it(known: dict[str, SupervisedProcess]) -> dict[str, SupervisedProcess]:
    """Those whose state is supervisor's to tell: after `./start.sh kafka` the others are started by hand."""
    if "app" in known and known["app"].running:
        return known
    return {name: process for name, process in known.items() if process.running}


def fetch(url: str) -> Page | None:
    """What a process says of itself; None where it does not, or says something else."""
    with requests.Session() as session:
        session.trust_env = False
        try:
            with session.get(url, timeout=TIMEOUT_SECONDS, stream=True) as answer:
                answer.raise_for_status()
                data = answer.raw.read(MAX_PAGE_BYTES + 1, decode_content=True)
            return parse(data) if len(data) <= MAX_PAGE_BYTES else None
        except (requests.RequestException, OSError, ValueError, KeyError):  # of the parser the last two
            return None


def parse(text: bytes) -> Page:
    """A page in Prometheus' text format, of which what is ours is kept. Raises ValueError, KeyError."""
    page = Page()
    clients: dict[str, Client] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if not sample.name.startswith(PREFIXES) or not math.isfinite(sample.value):
                continue
            if len(page.series) + len(clients) >= MAX_SERIES:
                break
            if sample.name in (CLIENT_BEHIND, CLIENT_FAILING):
                url = sample.labels.get("client_url", "")
                client = clients.setdefault(url, Client(url))
                if sample.name == CLIENT_BEHIND:
                    client.behind_records = sample.value
                else:
                    client.failing_seconds = sample.value
            elif family.type == "histogram":
                _add_to_histogram(page, family.name, sample)
            elif not sample.name.endswith("_created"):
                page.series[_named(sample.name, sample.labels)] = sample.value
    behind = [client for client in clients.values() if client.behind_records > 0 or client.failing_seconds > 0]
    behind.sort(key=lambda client: (-client.failing_seconds, -client.behind_records, client.client_url))
    page.clients = behind[:MAX_CLIENTS]
    return page


def _add_to_histogram(page: Page, name: str, sample: Sample) -> None:
    labels = {key: value for key, value in sample.labels.items() if key != "le"}
    histogram = page.histograms.setdefault(_named(name, labels), Histogram())
    if sample.name.endswith("_bucket"):
        with suppress(KeyError):
            le = float(sample.labels["le"])
            if math.isfinite(le):
                histogram.le.append(le)
                histogram.at_most.append(sample.value)
    elif sample.name.endswith("_count"):
        histogram.count = sample.value
    elif sample.name.endswith("_sum"):
        histogram.sum = sample.value


def _named(name: str, labels: dict[str, str]) -> str:
    if not labels:
        return name
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}"
