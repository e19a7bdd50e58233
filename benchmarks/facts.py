"""What the report says of a part besides its figures: rows of its tables, ratios, words."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.figures import floors, percentile

Figures = dict[str, Any]
STAGES = {
    "kafka": "Kafka",
    "app": "ingest",
    "main_publisher": "aggregate",
    "cluster_publisher": "route",
    "subscriber": "deliver",
    "supervisord": "supervisor",
}
POLLERS = {"quiet": "behind Varnish, nobody taps", "direct": "without Varnish"}
JVMS = ("kafka_1", "main_publisher")


class Rounds(list[Any]):
    """What rounds of the same measurement came to. `f"{rounds:.1f}"` is min / median / max, or "" without a round."""

    median = property(statistics.median)
    smallest = property(min)
    largest = property(max)
    first = property(lambda self: self[0])

    def __format__(self, spec: str) -> str:
        found = (self.smallest, self.median, self.largest) if self else ()
        return " / ".join(format(value, spec) for value in found)

    def each(self, key: str) -> Rounds:
        """What each round has under a key."""
        return Rounds(it[key] for it in self)


def with_facts(part: str, figures: Mapping[str, Any]) -> Figures:
    """The figures, in which every list is Rounds, and the facts."""
    found: Figures = _with_rounds(figures)
    reasons = found.get("left_out") or {}
    reasons = reasons.values() if isinstance(reasons, Mapping) else [reasons]
    return found | FACTS[part](found) | {"left_out": [{"reason": reason} for reason in reasons]}


def by_stage(values: Mapping[str, float]) -> dict[str, float]:
    """Sums of what processes have, in the order of the data."""
    found = dict.fromkeys(STAGES.values(), 0.0)
    for process, value in values.items():
        found[stage_of(process)] += value
    return found


def stage_of(process: str) -> str:
    """kafka_1 → Kafka."""
    return STAGES[re.sub(r"(_\d+)+$", "", process)]


def _with_rounds(found: Any) -> Any:
    if isinstance(found, Mapping):
        return {key: _with_rounds(value) for key, value in found.items()}
    return Rounds(map(_with_rounds, found)) if isinstance(found, list) else found


def _named(found: Mapping[str, Figures]) -> list[Figures]:
    return [{"name": name, **it} for name, it in found.items()]


def _assigned(settings: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "the defaults"


def _ingest_rates(found: Figures) -> Figures:
    rows = []
    for peer in found["peers"].values():
        troubles = {*peer["balance"], *peer["refusals"]} - {"", "all there"}
        rows.append({**peer, "troubles": "; ".join(sorted(troubles)) or "none"})
    batches = [found["peers"][name]["rate"] for name in ("ours-batch", "ours-ndjson") if name in found["peers"]]
    return {"rows": rows, "batches": min(batches, key=statistics.median, default=Rounds())}


def _to_go(peers: Figures, what: str) -> Rounds:
    """Ours in relation to Go's, by round."""
    pairs = zip(peers["ours-2"][what], peers.get("go", {}).get(what, []), strict=False)
    return Rounds(ours / its for ours, its in pairs)


def _ingest_overload(found: Figures) -> Figures:
    rows = [
        {
            **it,
            "name": name,
            "what": peer["what"],
            "of_top": it["goodput"] / it["top"],
            "refused": sum(it["refused_by_second"]),
            "last_refusal": f"second {it['last_refusal_second']}" if it["last_refusal_second"] else "none",
        }
        for name, peer in found["peers"].items()
        for it in peer["floods"]
    ]
    ours = Rounds(row for row in rows if row["name"] == "ours-2")
    if not ours:
        return {"rows": rows}
    second = max(ours.each("last_refusal_second"))
    after = f"last refusal in second {second}" if second else "no refusal after it"
    return {"rows": rows, "ours": ours, "last_refusal_second": second, "after": after}


def _sustained(found: Figures) -> Figures:
    kept = [it["rate"] for it in found["rates"] if it["kept_up"]]
    rows = [{**it, "word": "yes" if it["kept_up"] else "no"} for it in found["rates"]]
    return {"rows": rows, "kept": max(kept, default=0)}


def _aggregate_rooms(found: Figures) -> Figures:
    crowds = {name: _sustained({"rates": rates}) for name, rates in found["crowds"].items()}
    kept = {name: it["kept"] for name, it in crowds.items()}
    rows = [{"crowd": name, **row} for name, it in crowds.items() for row in it["rows"]]
    return {"rows": rows, "kept": kept, "ratio": kept["1,000 rooms"] / max(1, kept["one room"])}


def _streams_rooms(found: Figures) -> Figures:
    spread, unheard = found["spread"], found["unheard"]
    return {
        "one": spread["one room"], "all": spread["all rooms"], **unheard,
        "ratio": Rounds(many / one for one, many in zip(*spread.values(), strict=True)),
        "cost": Rounds(many / few for few, many in zip(*unheard.values(), strict=True)),
    }  # fmt: skip


def _latencies(**rows: str) -> Callable[[Figures], Figures]:
    """A table of the latencies under these keys, with what to call them."""
    return lambda found: {
        "rows": [{"what": what, **{key: found[name].each(key) for key in ("p50", "p99", "max")}}
                 for name, what in rows.items()]
    }  # fmt: skip


def _push_rate(found: Figures) -> Figures:
    rates, ratios = found["rates"], found["ours_to_it"]
    return {"rows": [{"name": name, "rate": rates[name], "ours_to_it": ratios[name]} for name in rates]}


def _saturation(found: Figures) -> Figures:
    windows = found["windows"].items()
    return {"rows": [{"window": window, **row} for window, servers in windows for row in _named(servers)]}


def _steady(found: Figures) -> Figures:
    rows = [
        {
            "name": name,
            "p50": rounds.each("last_ms").each("p50"),
            "p99": rounds.each("last_ms").each("p99"),
            "kb_a_connection": rounds.each("kb_a_connection"),
            "troubles": "; ".join(sorted(set(rounds.each("troubles")))),
        }
        for name, rounds in found["servers"].items()
    ]
    memory = {row["name"]: row["kb_a_connection"] for row in rows}
    pairs = zip(memory["ours"], memory.get("Centrifuge", []), strict=False)
    return {"rows": rows, "memory_to_peer": Rounds(ours / its for ours, its in pairs)}


def _pipeline(found: Figures) -> Figures:
    lead = found["settings"]["flush_lead_seconds"]
    aligned = "are not aligned to the clock, which so short a linger is not worth"
    if lead is not None:
        aligned = f"come {lead * 1000:.0f} ms before each multiple of the linger"
    latencies = [
        {"what": what, **{f"p{percent}": percentile(floor, percent) for percent in (50, 99)}, "max": floor[-1],
         "missing": ""}
        for what, floor in floors(**found["settings"]).items()
    ]  # fmt: skip
    stages = []
    others = f"10 taps/s, {found['beside'][0]['background']:,.0f} others/s beside"
    for key, what, short in (("latency", "10 taps/s", "10 taps/s"), ("beside", others, "others beside")):
        rounds = found[key]
        row = {which: rounds.each(which) for which in ("p50", "p99", "max")}
        latencies.append({"what": what, **row, "missing": sum(rounds.each("missing") + rounds.each("refused"))})
        stages.append({"what": short, **sorted(rounds, key=lambda it: float(it["p50"]))[len(rounds) // 2]["stages"]})
    return {
        "assigned": _assigned(found["given"]),
        "aligned": aligned,
        "latencies": latencies,
        "stages": stages,
        **_costs(found["rest"], *found["load"]),
    }


def _costs(rest: Figures, some: Figures, busy: Figures) -> Figures:
    columns = {
        "rest_mb": rest["memory_mb"],
        "busy_mb": busy["memory_mb"],
        "rest_percent": {name: 100 * cores for name, cores in rest["cores"].items()},
        "some_percent": {name: 100 * cores for name, cores in some["cores"].items()},
        "busy_percent": {name: 100 * cores for name, cores in busy["cores"].items()},
        "some_a_million": some["cpu_a_million"],
        "busy_a_million": busy["cpu_a_million"],
    }
    stages = {column: by_stage(values) for column, values in columns.items()}
    total = {column: sum(values.values()) for column, values in stages.items()}
    return {
        "processes": [{"name": name, **{key: it[name] for key, it in columns.items()}} for name in rest["memory_mb"]],
        "costs": [{"name": name, **{key: it[name] for key, it in stages.items()}} for name in STAGES.values()],
        "cost": [total],
        "rest_gb": total["rest_mb"] / 1024,
        "rest_cores": total["rest_percent"] / 100,
        "miscounted": abs(some["accepted"] - some["counted"]),
        "overdue_seconds": some["last_count_after_seconds"] - some["a_batch_and_a_linger_seconds"],
    }


def _soak(found: Figures) -> Figures:
    worst: dict[str, Figures] = {}
    for check in found["checks"]:
        kind, process = _kind_of(check["what"])
        where = f" ({process})" if process and check["found"] else ""
        row = {**check, "kind": kind, "where": where, "word": "kept" if check["kept"] else "**broken**"}
        if kind not in worst or row["found"] - row["bound"] > worst[kind]["found"] - worst[kind]["bound"]:
            worst[kind] = row
    return {
        "rows": list(worst.values()),
        "came": ", ".join(f"{number:,} {what}" for what, number in found["guests"].items()),
        "bounds": len(found["checks"]),
        "broken": sum(not check["kept"] for check in found["checks"]),
    }


def _kind_of(check: str) -> tuple[str, str]:
    """(what was bounded, at which process or place) of one of the soak's checks."""
    place, _, what = check.rpartition(": ")
    if place.startswith("events"):
        place, what = what, place
    if "growth" in what or "descriptors" in what:
        what += ", a JVM" if place in JVMS else ", any other"
    elif what.endswith("highest") and place:
        what += f", {place}"
    for name, words in (
        ("memory_mb", "MB of memory"),
        ("other_mb", "MB in DATA_DIR besides Kafka's log"),
        ("checkpoint_files", "checkpoint files"),
    ):
        what = what.replace(name, words)
    return what, place


FACTS: dict[str, Callable[[Figures], Figures]] = {
    "ingest-rates": _ingest_rates,
    "ingest-scaling": lambda found: {},
    "ingest-acks": lambda found: {},
    "ingest-latency": lambda found: {
        "rows": list(found["peers"].values()),
        "p99_to_go": _to_go(found["peers"], "p99_ms"),
    },
    "ingest-overload": _ingest_overload,
    "aggregate-backlog": lambda found: {"assigned": _assigned(found["settings"])},
    "aggregate-sustained": _sustained,
    "aggregate-rooms": _aggregate_rooms,
    "push-rate": _push_rate,
    "push-influence": lambda found: {"rows": [{"number": n, **it} for n, it in enumerate(found["rounds"], 1)]},
    "streams-saturation": _saturation,
    "streams-steady": _steady,
    "streams-burst": lambda found: {"rows": _named(found["servers"])},
    "streams-rooms": _streams_rooms,
    "pulse": lambda found: {
        "rows": [it | {"what": POLLERS.get(it["name"], "behind Varnish")} for it in _named(found["crowds"])]
    },
    "plan": lambda found: {
        "rows": [{**size, **row} for size in found["sizes"] for row in size["rows"]],
        "off": [abs(size["ratio"] - 1) for size in found["sizes"]],
    },
    "pipeline-rooms": _latencies(alone="nothing beside", beside="the flood beside"),
    "pipeline-cold": _latencies(started="started", restarted="the main publisher killed"),
    "pipeline-default": _pipeline,
    "pipeline-fast": _pipeline,
    "soak": _soak,
}
