"""Markdown tables, and what several sections of the report make of their figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
Results = Mapping[str, dict[str, Any]]
STAGES = {
    "kafka": "Kafka",
    "app": "ingest",
    "main_publisher": "aggregate",
    "cluster_publisher": "route",
    "subscriber": "deliver",
    "supervisord": "supervisor",
}


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table; columns of numbers are aligned to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    right = [all(row[column][:1] in "0123456789-" for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join("---:" if it else "---" for it in right) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in cells), ""]


def stage_of(process: str) -> str:
    """kafka_1 → Kafka."""
    return STAGES[re.sub(r"(_\d+)+$", "", process)]


def by_stage(values: Mapping[str, float]) -> dict[str, float]:
    """Sums of what processes have, in the order of the data."""
    found = dict.fromkeys(STAGES.values(), 0.0)
    for process, value in values.items():
        found[stage_of(process)] += value
    return found


def left_out(figures: Figures) -> list[str]:
    """A line for each peer that could not be measured, with the reason."""
    reasons = figures.get("left_out") or {}
    reasons = reasons.values() if isinstance(reasons, Mapping) else [reasons]
    return [line for reason in reasons for line in (f"Left out: {reason}", "")]
