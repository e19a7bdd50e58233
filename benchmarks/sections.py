"""The report's sections in order. No number is written down in any of them."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import section_delivery, section_ingest, section_system
from benchmarks.tables import Figures

# Headings, and in each: which parts, how they are written, and the plot that follows.
Section = tuple[str, Callable[[Figures], list[str]], str]
SECTIONS: dict[str, tuple[str, list[Section]]] = {
    "Ingest": (
        "The load generator has one core for itself, because the phones that it stands for do not run on the server. "
        "Server and broker share the others, for every peer alike.",
        [
            ("ingest-rates", section_ingest.ingest_rates, "ingest-rates"),
            ("ingest-scaling", section_ingest.ingest_scaling, ""),
            ("ingest-latency", section_ingest.ingest_latency, "ingest-latency"),
            ("ingest-overload", section_ingest.ingest_overload, "ingest-overload"),
        ],
    ),
    "Aggregation": (
        "",
        [
            ("aggregate-backlog", section_ingest.backlog, "aggregate-backlog"),
            ("aggregate-sustained", section_ingest.sustained, "aggregate-sustained"),
        ],
    ),
    "Delivery": (
        "",
        [
            ("push-rate", section_delivery.push, "push-rate"),
            ("push-influence", section_delivery.influence, ""),
            ("streams-saturation", section_delivery.saturation, "streams-saturation"),
            ("streams-steady", section_delivery.steady, "streams-steady"),
            ("streams-burst", section_delivery.burst, ""),
        ],
    ),
    "Tap to client": (
        "The floor is what a tap must wait for even if nothing took any time: the app's next flush, then Spark's next "
        "trigger. Were the two independent, that is a time evenly spread over the linger and one evenly spread over "
        "the batch. By default flushes are aligned to the clock: the last one before a trigger comes just before it.",
        [
            ("pipeline-default", section_system.latency, "latency-default"),
            ("pipeline-fast", section_system.latency, "latency-fast"),
        ],
    ),
    "What it costs": (
        "",
        [("pipeline-default", section_system.cost, "cost"), ("pipeline-default", section_system.processes, "")],
    ),
    "An hour of it": ("", [("soak", section_system.soak, "soak")]),
}
