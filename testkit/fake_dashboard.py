"""A system as the operator's page sees it, whose numbers a test decides: what GET /dashboard.json would answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, jsonify, request

from emostream.settings import load
from testkit.fake_system import serving_pages
from testkit.ports import free_port_block

STEP_SECONDS = 2
START_MS = 1_785_000_000_000
BOUNDS = [0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 10.0, 60.0]
STREAM = "emostream_deliver_stream_seconds"
WHOLE = "emostream_deliver_tap_to_screen_seconds"
NAMES = (
    "kafka_1", "app", "main_publisher", *(f"cluster_publisher_{cluster}" for cluster in (1, 2, 3)),
    *(f"subscriber_{cluster}_{number}" for cluster in (1, 2, 3) for number in (1, 2, 3)),
)  # fmt: skip


def stage(name: str) -> str:
    return f'emostream_deliver_stage_seconds{{stage="{name}"}}'


def histogram() -> dict[str, Any]:
    return {"le": BOUNDS, "at_most": [0] * len(BOUNDS), "count": 0, "sum": 0.0}


def process(name: str) -> dict[str, Any]:
    """One that runs and has done nothing yet."""
    series: dict[str, float] = {"process_resident_memory_bytes": 80_000_000}
    histograms: dict[str, Any] = {}
    if name == "app":
        series |= dict.fromkeys(("accepted_total", "produced_total", "buffered", "broker_away"), 0)
        series = {key if key.startswith("process") else f"emostream_ingest_{key}": v for key, v in series.items()}
        series['emostream_ingest_refused_total{reason="invalid"}'] = 0
        series['emostream_ingest_refused_total{reason="full"}'] = 0
    elif name == "main_publisher":
        series |= {f"emostream_aggregate_{key}": 0 for key in ("batches_total", "events_total", "counts_total")}
        series["emostream_aggregate_lag_events"] = 0
        series["emostream_aggregate_emojis"] = 5
    elif name.startswith("cluster_publisher"):
        series |= {f"emostream_route_{key}": 0 for key in ("records_total", "lag_records")}
    elif name.startswith("subscriber"):
        keys = ("consumed_total", "delivered_total", "merged_total", "streamed_total", "lag_records")
        series |= {f"emostream_deliver_{key}": 0 for key in (*keys, "clients", "streams")}
        histograms = {key: histogram() for key in (WHOLE, STREAM, *map(stage, ("batch", "route", "push")))}
    page = {"series": series, "histograms": histograms, "clients": []}
    return {
        "name": name, "state": "RUNNING", "ready": True, "restarts": 0, "uptime_seconds": 4000,
        "page": None if name.startswith("kafka") else page, "evicted": [],
    }  # fmt: skip


@dataclass
class FakeNumbers:
    """What all processes say; each step adds to the numbers as long as everything flows."""

    at_ms: int = START_MS
    events: int = 500  # a second
    emojis: int = 5
    stuck: set[str] = field(default_factory=set)  # processes whose numbers do not move
    latencies: dict[str, float] = field(default_factory=lambda: {"batch": 1.2, "route": 0.04, "push": 0.02})
    stream_seconds: float = 0.03
    supervised: bool = True
    processes: dict[str, dict[str, Any]] = field(default_factory=lambda: {name: process(name) for name in NAMES})

    def series(self, name: str) -> dict[str, float]:
        found: dict[str, float] = self.processes[name]["page"]["series"]
        return found

    def observe(self, name: str, key: str, seconds: float, number: int = 1) -> None:
        found = self.processes[name]["page"]["histograms"][key]
        found["count"] += number
        found["sum"] += seconds * number
        found["at_most"] = [n + number * (seconds <= le) for n, le in zip(found["at_most"], BOUNDS, strict=True)]

    def step(self) -> None:
        """Two seconds, in which a batch goes all the way."""
        self.at_ms += STEP_SECONDS * 1000
        for name, one in self.processes.items():
            if name in self.stuck or not one["page"] or not self.events:
                continue
            if name == "app":
                self._add(name, "emostream_ingest_accepted_total", STEP_SECONDS * self.events)
                self._add(name, "emostream_ingest_produced_total", STEP_SECONDS * self.events)
            elif name == "main_publisher":
                self._add(name, "emostream_aggregate_events_total", STEP_SECONDS * self.events)
                self._add(name, "emostream_aggregate_counts_total", self.emojis)
                self._add(name, "emostream_aggregate_batches_total", 1)
            elif name.startswith("cluster_publisher"):
                self._add(name, "emostream_route_records_total", self.emojis)
            else:
                self._add(name, "emostream_deliver_consumed_total", self.emojis)
                if streams := self.series(name)["emostream_deliver_streams"]:
                    self._add(name, "emostream_deliver_streamed_total", streams)
                    self.observe(name, STREAM, self.stream_seconds)
                if self.series(name)["emostream_deliver_clients"]:
                    self._add(name, "emostream_deliver_delivered_total", self.emojis)
                    for part, seconds in self.latencies.items():
                        self.observe(name, stage(part), seconds, self.emojis)
                    self.observe(name, WHOLE, sum(self.latencies.values()), self.emojis)

    def answer(self) -> dict[str, Any]:
        listed = [{**one, "page": one["page"]} for one in self.processes.values()]
        return deepcopy({"at_ms": self.at_ms, "supervised": self.supervised, "batch_seconds": 2.0, "processes": listed})

    def answers(self, steps: int) -> list[dict[str, Any]]:
        """So many answers, a step apart."""
        found = []
        for _ in range(steps):
            self.step()
            found.append(self.answer())
        return found

    def _add(self, name: str, key: str, number: float) -> None:
        self.series(name)[key] += number


def with_clients(numbers: FakeNumbers, *names: str) -> FakeNumbers:
    """The same, with two clients at each of these subscribers."""
    for name in names:
        numbers.series(name)["emostream_deliver_clients"] = 2
    return numbers


def timeline(total: Sequence[float], parts: Mapping[str, float], others: int = 0) -> dict[str, Any]:
    """What GET /timeline.json answers: events in buckets of 10 s, of which each emoji has its part."""
    events = {emoji: [round(n * part) for n in total] for emoji, part in parts.items()}
    rest = [round(n) - sum(one[index] for one in events.values()) for index, n in enumerate(total)]
    first_ms = START_MS - len(total) * 10_000
    return {
        "first_ms": first_ms, "bucket_seconds": 10, "others": rest if others else [0] * len(total),
        "emojis": [{"emoji": emoji, "events": numbers} for emoji, numbers in events.items()], "other_emojis": others,
    }  # fmt: skip


@dataclass
class FakeApp:
    """The page, before numbers that go on by a step with each look at them."""

    port: int
    numbers: FakeNumbers
    timeline: dict[str, Any] | None = None
    status: int = 200
    error: str = "try again"  # with any other status
    operator_key: str = ""
    rooms: dict[str, int] = field(default_factory=dict)  # events of the last minute
    asked_rooms: list[str | None] = field(default_factory=list)  # by requests for the timeline

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dashboard"


@contextmanager
def fake_app() -> Iterator[FakeApp]:
    """A FakeApp that listens."""
    port = free_port_block(60)
    settings = load([f"APP_PORT={port}", f"SUBSCRIBER_BASE_PORT={port + 10}"], environ={})
    found = FakeApp(port, with_clients(FakeNumbers(), "subscriber_1_1", "subscriber_2_1"), timeline([0.0] * 180, {}))
    app = Flask("testkit")

    @app.get("/dashboard.json")
    def overview() -> tuple[Response, int]:
        if found.status != 200:
            return jsonify(error=found.error), found.status
        if found.operator_key and request.cookies.get("key") != found.operator_key:
            return jsonify(error="expected the operator's key, got none"), 401
        found.numbers.step()
        return jsonify(found.numbers.answer()), 200

    @app.post("/dashboard/key")
    def take_key() -> Response:
        if request.get_json() != {"key": found.operator_key}:
            return Response('{"error": "expected the operator\'s key, got another"}', 401, mimetype="application/json")
        answer = Response(status=204)
        answer.set_cookie("key", found.operator_key, httponly=True, samesite="Strict")
        return answer

    @app.get("/timeline.json")
    def history() -> tuple[Response, int]:
        found.asked_rooms.append(request.args.get("room"))
        if found.timeline is None:
            return jsonify(error="try again: the topic cannot be read"), 503
        return jsonify(found.timeline), 200

    @app.get("/rooms")
    def rooms() -> Response:
        listed = [{"room": room, "events": events} for room, events in found.rooms.items()]
        return jsonify(seconds=60, rooms=listed, others=0, other_rooms=0)

    with serving_pages(app, settings):
        yield found
