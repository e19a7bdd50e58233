"""GET /metrics of every process, and what supervisor knows → GET /dashboard.json. It asks only while somebody looks.

Counters are passed on as they are. The page computes rates from two answers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import msgspec
import requests
from prometheus_client.parser import text_string_to_metric_families

from emostream.discovery import Directory, Eviction, direct_session
from emostream.operate.dashboard.cached_answer import CachedAnswer
from emostream.operate.supervisor import SupervisedProcess, Supervisor
from emostream.roles import Place, brokers, local_url, roles
from emostream.settings import Settings

OVERVIEW_SECONDS = 1.0
SCRAPE_TIMEOUT_SECONDS = (0.5, 1.0)  # to connect, and between two pieces of an answer
TOTAL_SECONDS = 2.0  # for all processes together
MAX_PAGE_BYTES = 2_000_000
MAX_SERIES = 3_000
MAX_NAMED_CLIENTS = 50  # the slowest clients of each subscriber
PREFIXES = ("emostream_", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds")
CLIENT_FIELDS = {
    "emostream_deliver_client_behind_records": "behind_records",
    "emostream_deliver_client_failing_seconds": "failing_seconds",
}


class ScrapedHistogram(msgspec.Struct):
    """All observations so far, of which `at_most[i]` were at most `le[i]` seconds; their number and their sum."""

    le: list[float] = []
    at_most: list[float] = []
    count: float = 0
    sum: float = 0


class ScrapedClient(msgspec.Struct):
    """A registered client that is behind or failing."""

    client_url: str
    behind_records: float = 0
    failing_seconds: float = 0


class ScrapedPage(msgspec.Struct):
    """What one process reports. Series have their names in Prometheus, with the labels."""

    series: dict[str, float] = {}
    histograms: dict[str, ScrapedHistogram] = {}
    clients: list[ScrapedClient] = []


class ProcessView(msgspec.Struct):
    """One process: what supervisor knows, if supervisor runs it, and its page, if it answered. A broker has no page."""

    name: str
    state: str | None = None
    ready: bool | None = None
    restarts: int | None = None
    uptime_seconds: int | None = None
    reason: str | None = None  # why it is not ready
    page: ScrapedPage | None = None
    evicted: tuple[Eviction, ...] = ()  # a subscriber's last evictions


class Overview(msgspec.Struct, frozen=True):
    """The answer of GET /dashboard.json."""

    at_ms: int  # when the processes were asked, in Unix milliseconds
    supervised: bool  # supervisor runs the system, so a process that it does not run is down
    batch_seconds: float
    processes: list[ProcessView]


class Scraper:
    """Asks every process when somebody looks. All who look at the same time get the same answer."""

    def __init__(self, settings: Settings, directory: Directory, own_page: Callable[[], bytes]) -> None:
        """`own_page` returns the app's own GET /metrics, so that the app need not call itself."""
        self._settings = settings
        self._directory = directory
        self._own_page = own_page
        self._overview = CachedAnswer(lambda: msgspec.json.encode(self._ask()), OVERVIEW_SECONDS)

    def now(self) -> bytes:
        """Return an Overview in JSON. It is at most OVERVIEW_SECONDS old, or somebody is refreshing it."""
        return self._overview.get()

    def _ask(self) -> Overview:
        """Ask every process at the same time, each in its own thread."""
        at_ms = round(time.time() * 1000)
        urls = metrics_urls(self._settings, self._directory.places())
        threads = ThreadPoolExecutor(len(urls) + 2, "scrape")
        asked: dict[str, Future[ScrapedPage | None]] = {
            name: threads.submit(fetch, url, self._settings.operator_key) for name, url in urls.items()
        }
        asked["app"] = threads.submit(lambda: parse(self._own_page()))
        supervisor = threads.submit(supervised, self._settings)
        everything: list[Future[Any]] = [*asked.values(), supervisor]
        wait(everything, TOTAL_SECONDS)
        threads.shutdown(wait=False, cancel_futures=True)
        pages = {name: future.result() for name, future in asked.items() if future.done() and not future.exception()}
        known = started_by_it(supervisor.result()) if supervisor.done() and not supervisor.exception() else {}
        evicted = self._directory.evictions()
        processes = []
        here = [role.name for role in roles(self._settings)]
        not_scraped = {role.name for role in brokers(self._settings)}
        for name in dict.fromkeys((*here, *urls)):
            view = ProcessView(name, page=pages.get(name), evicted=evicted.get(name, ()))
            if one := known.get(name):
                for field in ("state", "ready", "restarts", "uptime_seconds", "reason"):
                    setattr(view, field, getattr(one, field))
            if one or name not in not_scraped:
                processes.append(view)
        return Overview(at_ms, "app" in known, self._settings.batch_seconds, processes)


def metrics_urls(settings: Settings, subscribers: Iterable[Place]) -> dict[str, str]:
    """Return the URL of GET /metrics of each process except the app, by name; of subscribers, on whatever host."""
    here = {role.name: f"{local_url(settings)}:{role.port}" for role in roles(settings) if "publisher" in role.kind}
    found = here | {place.name: place.url for place in subscribers}
    return {name: f"{url}/metrics" for name, url in found.items()}


def supervised(settings: Settings) -> dict[str, SupervisedProcess]:
    """Return what supervisor knows of each process, by name. Without supervisor that is nothing."""
    return {process.name: process for process in Supervisor(settings).processes(ask_brokers=False)}


def started_by_it(known: dict[str, SupervisedProcess]) -> dict[str, SupervisedProcess]:
    """Return the processes that supervisor has started. After `./start.sh kafka` these are only the brokers."""
    if "app" in known and known["app"].running:
        return known
    return {name: process for name, process in known.items() if process.running}


def fetch(url: str, operator_key: str = "") -> ScrapedPage | None:
    """Return the page of a process; None if it gives no answer or another one."""
    headers = {"Authorization": f"Bearer {operator_key}".encode()} if operator_key else {}
    try:
        with (
            direct_session() as session,
            session.get(url, timeout=SCRAPE_TIMEOUT_SECONDS, headers=headers, stream=True) as answer,
        ):
            answer.raise_for_status()
            data = answer.raw.read(MAX_PAGE_BYTES + 1, decode_content=True)
        return parse(data) if len(data) <= MAX_PAGE_BYTES else None
    except (requests.RequestException, OSError, ValueError, KeyError):  # The parser raises the last two.
        return None


def parse(text: bytes) -> ScrapedPage:
    """Parse a page in Prometheus' text format, and keep our series. Raises ValueError, KeyError."""
    page = ScrapedPage()
    clients: dict[str, ScrapedClient] = {}
    for family in text_string_to_metric_families(text.decode()):
        for name, labels, value, *_ in family.samples:
            if not name.startswith(PREFIXES) or not math.isfinite(value):
                continue
            if len(page.series) + len(clients) >= MAX_SERIES:
                break
            if field := CLIENT_FIELDS.get(name):
                url = labels.get("client_url", "")
                setattr(clients.setdefault(url, ScrapedClient(url)), field, value)
            elif family.type == "histogram":
                le = float(labels.pop("le", "inf"))
                histogram = page.histograms.setdefault(_named(family.name, labels), ScrapedHistogram())
                if math.isfinite(le):
                    histogram.le.append(le)
                    histogram.at_most.append(value)
                elif name.endswith("_count"):
                    histogram.count = value
                elif name.endswith("_sum"):
                    histogram.sum = value
            elif not name.endswith("_created"):
                page.series[_named(name, labels)] = value
    behind = [client for client in clients.values() if client.behind_records > 0 or client.failing_seconds > 0]
    behind.sort(key=lambda client: (-client.failing_seconds, -client.behind_records, client.client_url))
    page.clients = behind[:MAX_NAMED_CLIENTS]
    return page


def _named(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"{name}{{{inner}}}" if inner else name
