"""The goals that were set before anything was measured, and whether what was measured reaches them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.facts import Rounds

Results = Mapping[str, dict[str, Any]]  # part → its figures and facts


@dataclass(frozen=True)
class Reached:
    """What was found, as it is shown, and the number that is held against the goal."""

    shown: str
    value: float


@dataclass(frozen=True)
class Goal:
    """`find` raises KeyError, IndexError or ValueError where that was not measured."""

    what: str
    bound: float
    at_least: bool
    find: Callable[[Results], Reached]

    def row(self, results: Results) -> tuple[str, str, str]:
        """What was wanted, what was reached, and a word of judgement."""
        try:
            found = self.find(results)
        except (KeyError, IndexError, ValueError):  # statistics' errors are ValueErrors
            return self.what, "", "not measured"
        met = found.value >= self.bound if self.at_least else found.value <= self.bound
        return self.what, found.shown, "reached" if met else "**missed**"


def at_least(bound: float, what: str, *path: str | int, shown: str) -> Goal:
    """A goal for the figure at the end of a path of keys; `shown` is a format of it and of its part's figures."""
    return Goal(what, bound, True, _figure(path, shown))


def at_most(bound: float, what: str, *path: str | int, shown: str) -> Goal:
    """The same, from above."""
    return Goal(what, bound, False, _figure(path, shown))


def _figure(path: tuple[str | int, ...], shown: str) -> Callable[[Results], Reached]:
    def find(results: Results) -> Reached:
        found: Any = results
        for key in path:
            found = found.each(key) if isinstance(found, Rounds) and isinstance(key, str) else found[key]
        value = found.median if isinstance(found, Rounds) else found
        return Reached(shown.format(found, **results[str(path[0])]), value)

    return find


TIMES, SECONDS = "{0:,.2f} ×", "{0:,.2f} s"
RATES, WHOLE, COLD = ("ingest-rates", "peers"), "pipeline-default", "pipeline-cold"
POLLED = ("pulse", "crowds")
GOALS = (
    at_least(25, "`POST /send-emoji`: ≥ 25 × Flask's development server", *RATES, "flask", "ours_to_it", shown=TIMES),
    at_least(2, "≥ 2 × FastAPI + aiokafka, 2 uvicorn workers", *RATES, "fastapi", "ours_to_it", shown=TIMES),
    at_least(0.45, "≥ 0.45 × Go net/http + sarama", *RATES, "go", "ours_to_it", shown=TIMES),
    at_least(60_000, "`POST /send-emojis`: ≥ 60,000 events/s into Kafka", "ingest-rates", "batches", shown="{0:,.0f}"),
    at_least(1.8, "two workers carry ≥ 1.8 × one, beside the broker on the same cores", *RATES, "ours-1", "ours_to_it",
             shown=TIMES),
    at_least(1.8, "the same, each worker held to a quarter of a core", "ingest-scaling", "ratio", shown=TIMES),
    at_most(25, "p99 ≤ 25 ms at half of the top rate, open loop", "ingest-latency", "peers", "ours-2", "p99_ms",
            shown="{0:,.1f} ms"),
    at_most(1.5, "the same: p99 ≤ 1.5 × Go's", "ingest-latency", "p99_to_go", shown=TIMES),
    at_least(0.5, "ACK=broker over 1,000 connections: ≥ 0.5 × ACK=buffer", "ingest-acks", "rows", 2, "ratio",
             shown=TIMES),
    at_least(0.8, "3 × the top rate for 60 s, 4,000 connections: goodput ≥ 80 % of the top rate", "ingest-overload",
             "ours", 0, "of_top", shown="{0:.0%}"),
    at_least(0.8, "the same, 8,000 connections", "ingest-overload", "ours", 1, "of_top", shown="{0:.0%}"),
    at_most(2, "recovers from that within 2 s", "ingest-overload", "last_refusal_second", shown="{after}"),
    at_most(1.35, "tap → client right after `./start.sh up`: p50 ≤ 1.35 s", COLD, "started", "p50", shown=SECONDS),
    at_most(2.5, "the same: p99 ≤ 2.5 s", COLD, "started", "p99", shown=SECONDS),
    at_most(1.35, "right after kill -9 of the main publisher: p50 ≤ 1.35 s", COLD, "restarted", "p50", shown=SECONDS),
    at_most(25, "`./start.sh up` is ready in ≤ 25 s", COLD, "startup", shown="{0:,.1f} s"),
    at_most(1.7, "tap → client at 10/s: p50 ≤ 1.7 s", WHOLE, "latency", "p50", shown=SECONDS),
    at_most(3.0, "tap → client at 10/s: p99 ≤ 3.0 s", WHOLE, "latency", "p99", shown=SECONDS),
    at_most(1.3, "tap → client with 2,000/s beside: p50 ≤ 1.3 s", WHOLE, "beside", "p50", shown=SECONDS),
    at_most(2.5, "tap → client with 2,000/s beside: p99 ≤ 2.5 s", WHOLE, "beside", "p99", shown=SECONDS),
    at_most(1.0, "fast profile, 2,000/s beside: p99 ≤ 1 s", "pipeline-fast", "beside", "p99", shown=SECONDS),
    at_most(0, "2,000 events/s: every accepted one counted once", WHOLE, "miscounted",
            shown="{load[0][counted]:,} of {load[0][accepted]:,}"),
    at_most(0, "the last counted at most a batch and a linger (2.5 s) after it was tapped", WHOLE, "overdue_seconds",
            shown="the last count {load[0][last_count_after_seconds]:.2f} s after the last tap"),
    at_least(400_000, "aggregation sustains ≥ 400,000 events/s", "aggregate-sustained", "kept",
             shown="{0:,} events/s"),
    at_least(0.6, "a backlog is counted at ≥ 0.6 × what Spark's Kafka source reads", "aggregate-backlog", "to_bare",
             shown=TIMES),
    at_least(5_000, "≥ 5,000 pushes/s to 200 clients", "push-rate", "rates", "ours", shown="{0:,.0f}"),
    at_most(1.1, "five bad clients move the healthy ones' p99 by < 10 %", "push-influence", "rounds", "ratio",
            shown=TIMES),
    at_least(1.0, "streams: ≥ 1.0 × Centrifuge's deliveries/s", "streams-saturation", "windows", "2", "Centrifuge",
             "ours_to_it", shown=TIMES),
    at_most(0.5, "streams: ≤ 0.5 × Centrifuge's memory a connection", "streams-steady", "memory_to_peer",
            shown="{0:,.3f} ×"),
    at_most(150, "record to the last of 5,000 viewers: p99 ≤ 150 ms", "streams-steady", "servers", "ours", "last_ms",
            "p99", shown="{0:,.0f} ms"),
    at_least(0.8, "1,000 rooms × 20 emojis: ≥ 0.8 × the rate of one room", "aggregate-rooms", "ratio", shown=TIMES),
    at_least(150_000, "100,000 users with MAX_TAPS_PER_USER: ≥ 150,000 events/s", "aggregate-rooms", "kept",
             "100,000 users, capped", shown="{0:,} events/s"),
    at_least(0.8, "streams over 1,000 rooms: ≥ 0.8 × the deliveries/s of one room", "streams-rooms", "ratio",
             shown=TIMES),
    at_most(1.3, "997 rooms without listeners: ≤ 1.3 × the CPU time of the 3 with listeners", "streams-rooms", "cost",
            shown=TIMES),
    at_most(1.1, "100,000 events/s in one room move another room's p99 by < 10 %", "pipeline-rooms", "ratio",
            shown=TIMES),
    at_most(2, "20,000 pollers behind Varnish: ≤ 2 requests/s reach the app", *POLLED, "crowd", "asked",
            shown="{0:.2f}"),
    at_most(2, "the same while nobody taps", *POLLED, "quiet", "asked", shown="{0:.2f}"),
    at_most(3_500, "counted → 2,000 pollers have it: p99 ≤ a batch + 1.5 s", *POLLED, "tenth", "age_ms", "p99",
            shown="{0:,.0f} ms"),
    at_most(3_500, "the same from the tap on", *POLLED, "tenth", "delay_ms", "p99", shown="{0:,.0f} ms"),
    at_most(3_500, "the same, 20,000 pollers, which two cores do not carry beside the system", *POLLED, "crowd",
            "delay_ms", "p99", shown="{0:,.0f} ms"),
    at_most(0.25, "`emostream plan`, from costs of the same machine: within 25 % of the cores used, the first size",
            "plan", "off", 0, shown="{0:.0%} off"),
    at_most(0.25, "the same, the second size", "plan", "off", 1, shown="{0:.0%} off"),
    at_most(2.5, "at rest ≤ 2.5 GB", WHOLE, "rest_gb", shown="{0:.2f} GB"),
    at_most(0.35, "at rest ≤ 35 % of a core", WHOLE, "rest_cores", shown="{0:.1%} of a core"),
    at_least(60, "soak: 60 minutes at 1,000 events/s", "soak", "minutes", shown="{0:g} minutes"),
    at_most(0, "soak: nothing grows beyond its bound, nothing is lost", "soak", "broken",
            shown="{bounds} bounds, {broken} broken"),
)  # fmt: skip
