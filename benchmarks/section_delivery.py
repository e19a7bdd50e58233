"""The report's sections on pushes and event streams: figures → Markdown."""

from __future__ import annotations

import statistics

from benchmarks.figures import spread
from benchmarks.tables import Figures, left_out, table


def push(found: Figures) -> list[str]:
    """Pushes to registered clients."""
    rows = [(name, spread(rates), spread(found["ours_to_it"][name], 1)) for name, rates in found["rates"].items()]
    return [
        f"### Pushes to {found['clients']} clients",
        "",
        *table(["", "pushes/s, min / median / max", "ours ÷ it"], rows),
    ]


def influence(found: Figures) -> list[str]:
    """Healthy clients beside bad ones."""
    rows = []
    for number, it in enumerate(found["rounds"], 1):
        alone, beside = it["alone"], it["with five others"]
        rows.append(
            (
                number,
                f"{alone['p50_ms']:.2f} / {alone['p99_ms']:.2f}",
                f"{beside['p50_ms']:.2f} / {beside['p99_ms']:.2f}",
                f"{it['ratio']:.2f}",
            )
        )
    return [
        f"### {found['healthy']} healthy clients, alone and beside five bad ones",
        "",
        "One hangs, one answers a byte a second, one answers 500, one redirects, and one is not there; "
        f"{found['per_second']:g} "
        f"records/s for {found['seconds']:g} s. From produce to a healthy client:",
        "",
        *table(["round", "alone, p50 / p99 ms", "with five others, p50 / p99 ms", "p99 ÷ p99"], rows),
    ]


def saturation(found: Figures) -> list[str]:
    """As many deliveries as the server can."""
    rows = [
        (
            f"{window} on their way",
            name,
            spread(it["deliveries"]),
            spread(it["ours_to_it"], 2) if it["ours_to_it"] else "",
            f"{statistics.median(it['cpu_us']):.1f}",
        )
        for window, servers in found["windows"].items()
        for name, it in servers.items()
    ]
    return [
        f"### {found['viewers']:,} event streams, as many micro-batches as the server can fan out",
        "",
        "With 2 micro-batches on their way nearly every delivery is a write of its own; with 32 a server may join "
        "them.",
        "",
        *table(["micro-batches", "server", "deliveries/s, min / median / max", "ours ÷ it", "µs CPU a delivery"], rows),
        *left_out(found),
    ]


def steady(found: Figures) -> list[str]:
    """A micro-batch every 2 s."""
    rows = [
        (
            name,
            spread([it["last_ms"]["p50"] for it in rounds]),
            spread([it["last_ms"]["p99"] for it in rounds]),
            spread([it["kb_a_connection"] for it in rounds], 1),
            "; ".join(sorted({it["troubles"] for it in rounds})),
        )
        for name, rounds in found["servers"].items()
    ]
    return [
        f"### {found['viewers']:,} event streams, a micro-batch every 2 s",
        "",
        *table(["server", "to the last viewer, p50 ms", "p99 ms", "KB a connection", "troubles"], rows),
    ]


def burst(found: Figures) -> list[str]:
    """Those who stay while others come and leave."""
    rows = [
        (
            name,
            *(
                f"{it['phases'][phase]['p50']:.0f} / {it['phases'][phase]['p99']:.0f}"
                for phase in ("before", "with", "after")
            ),
            f"{it['guests_open']:,}",
            f"{it['memory_mb'][0]:.0f} → {max(it['memory_mb']):.0f}",
            it["troubles"],
        )
        for name, it in found["servers"].items()
    ]
    return [
        f"### {found['guests']:,} come within seconds and leave at once",
        "",
        f"To the last of the {found['staying']} who stay, p50 / p99 ms:",
        "",
        *table(["server", "before", "with them", "after", "of them got in", "MB", "troubles"], rows),
    ]
