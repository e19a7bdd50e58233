"""The goals that were set before anything was measured, and whether what was measured reaches them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import spread

Results = Mapping[str, dict[str, Any]]  # part → its figures
FLASK, FASTAPI, GO = "flask", "fastapi", "go"


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


def middle(values: list[float], digits: int = 0, unit: str = "") -> Reached:
    """The median is what counts; min and max are shown beside."""
    return Reached(spread(values, digits) + unit, statistics.median(values))


def _ratio(part: str, name: str) -> Callable[[Results], Reached]:
    return lambda results: middle(results[part]["peers"][name]["ours_to_it"], 2, " ×")


def _batches(results: Results) -> Reached:
    peers = results["ingest-rates"]["peers"]
    return min((middle(peers[name]["rate"]) for name in ("ours-batch", "ours-ndjson")), key=lambda found: found.value)


def _latency(profile: str, which: str, percentile: str) -> Callable[[Results], Reached]:
    return lambda results: middle([found[percentile] for found in results[f"pipeline-{profile}"][which]], 2, " s")


def _overload(number: int) -> Callable[[Results], Reached]:
    def find(results: Results) -> Reached:
        found = results["ingest-overload"]["peers"]["ours-2"]["floods"][number]
        return Reached(f"{found['goodput'] / found['top']:.0%}", found["goodput"] / found["top"])

    return find


def _recovery(results: Results) -> Reached:
    floods = results["ingest-overload"]["peers"]["ours-2"]["floods"]
    second = max(found["last_refusal_second"] for found in floods)
    return Reached(f"last refusal in second {second}" if second else "no refusal after it", second)


def _counted(results: Results) -> Reached:
    found = next(load for load in results["pipeline-default"]["load"] if load["rate"] == 2000)
    differing = abs(found["accepted"] - found["counted"])
    return Reached(f"{found['counted']:,} of {found['accepted']:,}", differing)


def _lag(results: Results) -> Reached:
    found = next(load for load in results["pipeline-default"]["load"] if load["rate"] == 2000)
    late = found["last_count_after_seconds"] - found["a_batch_and_a_linger_seconds"]
    return Reached(f"the last count {found['last_count_after_seconds']:.2f} s after the last tap", late)


def _rest(key: str) -> Callable[[Results], Reached]:
    def find(results: Results) -> Reached:
        rest = results["pipeline-default"]["rest"]
        if key == "memory":
            gigabytes = sum(rest["memory_mb"].values()) / 1024
            return Reached(f"{gigabytes:.2f} GB", gigabytes)
        return Reached(f"{sum(rest['cores'].values()):.1%} of a core", sum(rest["cores"].values()))

    return find


def _sustained(results: Results) -> Reached:
    kept = [found["rate"] for found in results["aggregate-sustained"]["rates"] if found["kept_up"]]
    return Reached(f"{max(kept, default=0):,} events/s", max(kept, default=0))


def _streams(results: Results) -> Reached:
    return middle(results["streams-saturation"]["windows"]["2"]["Centrifuge"]["ours_to_it"], 2, " ×")


def _stream_memory(results: Results) -> Reached:
    servers = results["streams-steady"]["servers"]
    pairs = zip(servers["ours"], servers["Centrifuge"], strict=True)
    return middle([ours["kb_a_connection"] / it["kb_a_connection"] for ours, it in pairs], 3, " ×")


def _last_viewer(results: Results) -> Reached:
    return middle([found["last_ms"]["p99"] for found in results["streams-steady"]["servers"]["ours"]], 0, " ms")


def _soak(results: Results) -> Reached:
    broken = [check for check in results["soak"]["checks"] if not check["kept"]]
    return Reached(f"{len(results['soak']['checks'])} bounds, {len(broken)} broken", len(broken))


def _soak_minutes(results: Results) -> Reached:
    return Reached(f"{results['soak']['minutes']:g} minutes", results["soak"]["minutes"])


GOALS = (
    Goal("`POST /send-emoji`: ≥ 25 × Flask's development server", 25, True, _ratio("ingest-rates", FLASK)),
    Goal("≥ 2 × FastAPI + aiokafka, 2 uvicorn workers", 2, True, _ratio("ingest-rates", FASTAPI)),
    Goal("≥ 0.45 × Go net/http + sarama", 0.45, True, _ratio("ingest-rates", GO)),
    Goal("`POST /send-emojis`: ≥ 60,000 events/s into Kafka", 60_000, True, _batches),
    Goal("two workers carry ≥ 1.8 × one, beside the broker on the same cores", 1.8, True,
         _ratio("ingest-rates", "ours-1")),
    Goal("the same, each worker held to a quarter of a core", 1.8, True,
         lambda results: middle(results["ingest-scaling"]["ratio"], 2, " ×")),
    Goal("p99 ≤ 25 ms at half of the top rate, open loop", 25, False,
         lambda results: middle(results["ingest-latency"]["peers"]["ours-2"]["p99_ms"], 1, " ms")),
    Goal("3 × the top rate for 60 s, 4,000 connections: goodput ≥ 80 % of the top rate", 0.8, True, _overload(0)),
    Goal("the same, 8,000 connections", 0.8, True, _overload(1)),
    Goal("recovers from that within 2 s", 2, False, _recovery),
    Goal("tap → client at 10/s: p50 ≤ 1.7 s", 1.7, False, _latency("default", "latency", "p50")),
    Goal("tap → client at 10/s: p99 ≤ 3.0 s", 3.0, False, _latency("default", "latency", "p99")),
    Goal("tap → client with 2,000/s beside: p50 ≤ 1.3 s", 1.3, False, _latency("default", "beside", "p50")),
    Goal("tap → client with 2,000/s beside: p99 ≤ 2.5 s", 2.5, False, _latency("default", "beside", "p99")),
    Goal("fast profile, 2,000/s beside: p99 ≤ 1 s", 1.0, False, _latency("fast", "beside", "p99")),
    Goal("2,000 events/s: every accepted one counted once", 0, False, _counted),
    Goal("the last counted at most a batch and a linger (2.5 s) after it was tapped", 0, False, _lag),
    Goal("aggregation sustains ≥ 200,000 events/s", 200_000, True, _sustained),
    Goal("a backlog is drained at ≥ 0.3 × raw reading", 0.3, True,
         lambda results: middle(results["aggregate-backlog"]["ratio"], 2, " ×")),
    Goal("≥ 5,000 pushes/s to 200 clients", 5_000, True, lambda results: middle(results["push-rate"]["rates"]["ours"])),
    Goal("five bad clients move the healthy ones' p99 by < 10 %", 1.1, False,
         lambda results: middle([found["ratio"] for found in results["push-influence"]["rounds"]], 2, " ×")),
    Goal("streams: ≥ 1.0 × Centrifuge's deliveries/s", 1.0, True, _streams),
    Goal("streams: ≤ 0.5 × Centrifuge's memory a connection", 0.5, False, _stream_memory),
    Goal("record to the last of 5,000 viewers: p99 ≤ 150 ms", 150, False, _last_viewer),
    Goal("`./start.sh up` is ready in ≤ 40 s", 40, False,
         lambda results: middle(results["pipeline-default"]["startup"], 1, " s")),
    Goal("at rest ≤ 2.5 GB", 2.5, False, _rest("memory")),
    Goal("at rest ≤ 35 % of a core", 0.35, False, _rest("cpu")),
    Goal("soak: 60 minutes at 1,000 events/s", 60, True, _soak_minutes),
    Goal("soak: nothing grows beyond its bound, nothing is lost", 0, False, _soak),
)  # fmt: skip
