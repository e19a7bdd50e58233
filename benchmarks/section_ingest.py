"""The report's sections on ingest and aggregation: figures → Markdown."""

from __future__ import annotations

import statistics

from benchmarks.figures import spread
from benchmarks.tables import Figures, left_out, table


def ingest_rates(found: Figures) -> list[str]:
    """Top rates."""
    rows = []
    for peer in found["peers"].values():
        troubles = sorted({text for text in [*peer["balance"], *peer["refusals"]] if text and text != "all there"})
        ratios = peer["ours_to_it"]
        rows.append(
            (
                peer["what"],
                spread(peer["rate"]),
                spread(ratios, 2) if ratios else "",
                f"{statistics.median(peer['cpu_us']):.1f}",
                f"{max(peer['memory_mb']):.0f}",
                "; ".join(troubles) or "none",
            )
        )
    return [
        "### Top rate",
        "",
        f"Closed loop, {found['connections']} kept-alive connections, {found['seconds']:g} s a round after 2 s of "
        "warm-up; peers in turn, round after round. Every event that was answered 200 is looked for on the topic.",
        "",
        *table(
            ["server", "events/s, min / median / max", "ours (2 workers) ÷ it", "µs CPU an event", "MB", "troubles"],
            rows,
        ),
        *left_out(found),
    ]


def ingest_scaling(found: Figures) -> list[str]:
    """One worker and two."""
    return [
        "### Two workers and one",
        "",
        f"As above, {found['seconds']:g} s a round, but over {found['connections']} connections, and each worker is "
        f"held to {found['share']:.0%} of a core by a cgroup: with all of it the workers and the broker compete for "
        "the same cores, and a second worker only moves what is short.",
        "",
        *table(
            ["", "events/s, min / median / max"],
            [
                ("one worker", spread(found["one"])),
                ("two workers", spread(found["two"])),
                ("two ÷ one", spread(found["ratio"], 2)),
            ],
        ),
    ]


def ingest_latency(found: Figures) -> list[str]:
    """Latency at half of the top rate."""
    rows = [
        (
            peer["what"],
            f"{statistics.median(peer['half']):,.0f}",
            *(spread(peer[f"{which}_ms"], 1) for which in ("p50", "p99", "max")),
        )
        for peer in found["peers"].values()
    ]
    return [
        "### Latency at half of the top rate",
        "",
        f"Open loop for {found['seconds']:g} s: a request is due by the clock, and its time counts from when it was "
        "due.",
        "",
        *table(["server", "requests/s", "p50 ms", "p99 ms", "max ms"], rows),
        *left_out(found),
    ]


def ingest_overload(found: Figures) -> list[str]:
    """Three times the top rate."""
    rows = [
        (
            peer["what"],
            f"{it['connections']:,}",
            f"{it['top']:,.0f}",
            f"{it['goodput']:,.0f}",
            f"{it['goodput'] / it['top']:.0%}",
            f"{min(it['by_second']):,}",
            f"{sum(it['refused_by_second']):,}",
            f"{it['accepted_ms']['p50']:,.0f} / {it['accepted_ms']['p99']:,.0f}",
            f"{it['memory_mb'][0]:.0f} → {max(it['memory_mb']):.0f}",
            f"{it['after_ms']['p99']:.0f}",
            f"second {it['last_refusal_second']}" if it["last_refusal_second"] else "none",
            it["balance"],
        )
        for peer in found["peers"].values()
        for it in peer["floods"]
    ]
    return [
        "### Three times the top rate",
        "",
        f"Open loop for {found['seconds']:g} s at 3 × what the same server has just reached over 64 connections: a "
        "request that finds no free connection waits for 1 s, which counts into its time, and is then given up. Then, "
        "at once, half of the top rate.",
        "",
        *table(
            [
                "server", "connections", "top, events/s", "goodput", "of top", "worst second", "answered otherwise",
                "p50 / p99 ms", "MB", "then p99 ms", "last refusal", "on the topic",
            ],
            rows,
        ),
        *left_out(found),
    ]  # fmt: skip


def backlog(found: Figures) -> list[str]:
    """A topic full of events."""
    return [
        f"### A backlog of {found['events']:,} events",
        "",
        f"Filled at {found['filled']:,.0f} events/s; then read by Kafka's consumer-perf and counted by a main "
        "publisher, in turn. "
        f"Settings: {' '.join(f'{name}={value}' for name, value in found['settings'].items()) or 'the defaults'}.",
        "",
        *table(
            ["", "events/s, min / median / max", "CPU-seconds per million events"],
            [
                ("raw reading (consumer-perf)", spread(found["raw"]), ""),
                ("main publisher", spread(found["ours"]), spread(found["cpu_a_million"], 1)),
                ("main publisher ÷ raw", spread(found["ratio"], 2), ""),
            ],
        ),
    ]


def sustained(found: Figures) -> list[str]:
    """Rates that aggregation keeps up with."""
    rows = [
        (
            f"{it['rate']:,}",
            f"{it['reached']:,.0f}",
            f"{it['behind_seconds']:.2f} s",
            f"{it['cpu_a_million']:.1f}",
            "yes" if it["kept_up"] else "no",
        )
        for it in found["rates"]
    ]
    return [
        "### Events at a steady rate",
        "",
        f"{found['seconds']:g} s at each rate, by Kafka's producer-perf on the same cores. It keeps up where it is "
        "never "
        f"further behind, in the second half, than {found['max_batches_behind']} micro-batches of "
        f"{found['batch_seconds']:g} s "
        f"take; a micro-batch takes at most {found['max_events_per_batch']:,} events (MAX_EVENTS_PER_BATCH).",
        "",
        *table(["events/s", "written", "at most behind", "CPU-seconds per million", "keeps up"], rows),
    ]
