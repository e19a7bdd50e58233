#!/usr/bin/env python3
"""Write REPORT.md and its plots from the figures that the benchmarks have kept.

usage: .venv/bin/python benchmarks/report.py [--results benchmarks/results] [--into benchmarks]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.figures import read
from benchmarks.goals import GOALS
from benchmarks.machine import BENCHMARKS_DIR
from benchmarks.sections import SECTIONS
from benchmarks.tables import table

Kept = Mapping[str, dict[str, Any]]  # part → what figures.write keeps of it
PARTS = list(dict.fromkeys(part for _, sections in SECTIONS.values() for part, _, _ in sections))
INTRODUCTION = """\
# EmoStream, measured

Written by `benchmarks/report.py` from [the figures](results) that `benchmarks/run.sh` has measured; no number here was
typed. `benchmarks/run.sh` measures all of it anew in about an hour, `benchmarks/run.sh soak` the hour under load.
Where a cell has three numbers they are the minimum, median and maximum of the rounds, and the median is held against
the goal.
"""


def collect(directory: Path) -> Kept:
    """Every part that was measured."""
    return {part: kept for part in PARTS if (kept := read(directory, part)) is not None}


def render(kept: Kept) -> str:
    """The report as Markdown."""
    results = {part: it["figures"] for part, it in kept.items()}
    lines = [*INTRODUCTION.splitlines(), ""]
    if any(it["quick"] for it in kept.values()):
        lines += ["**A quick run, which only shows that everything works: these figures mean nothing.**", ""]
    lines += ["## Goals", "", *table(["goal", "reached", ""], (goal.row(results) for goal in GOALS))]
    for title, (text, sections) in SECTIONS.items():
        lines += [f"## {title}", ""] + ([text, ""] if text else [])
        for part, write, plot in sections:
            if part in results:
                lines += write(results[part])
                lines += [f"![{plot.replace('-', ' ')}](plots/{plot}.png)", ""] if plot else []
            else:
                lines += [f"`{part}` was not measured.", ""]
    lines += ["## Where and with what", "", *where(kept.values()), *when(kept)]
    return "\n".join(lines).rstrip() + "\n"


def where(kept: Iterable[dict[str, Any]]) -> list[str]:
    """The machines and versions, one line for all parts where they were the same."""
    machines = {
        "{cpu}, {cores} cores, {memory_gib} GiB of memory, {system}, Python {python}".format_map(it["machine"])
        for it in kept
    }
    versions: dict[str, list[str]] = {}
    for it in kept:
        for name, version in it["versions"].items():
            if version not in versions.setdefault(name, []):
                versions[name].append(version)
    rows = [(name, ", ".join(found)) for name, found in versions.items()]
    return [*(f"- {machine}" for machine in sorted(machines)), "", *table(["", "version"], rows)]


def when(kept: Kept) -> list[str]:
    """When each part ended, of which commit, and how busy the machine was before."""
    rows = [(f"`{part}`", it["ended"], it["commit"], it["machine"]["load_before"]) for part, it in kept.items()]
    return table(["part", "ended", "commit", "load before"], rows)


def main() -> None:
    """Entry point of the command in the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=BENCHMARKS_DIR / "results")
    parser.add_argument("--into", type=Path, default=BENCHMARKS_DIR)
    args = parser.parse_args()
    kept = collect(args.results)
    from benchmarks.plots import draw  # matplotlib, which only this needs

    args.into.mkdir(parents=True, exist_ok=True)
    draw({part: it["figures"] for part, it in kept.items()}, args.into / "plots")
    (args.into / "REPORT.md").write_text(render(kept))
    print(f"{args.into / 'REPORT.md'}: {len(kept)} of {len(PARTS)} parts")


if __name__ == "__main__":
    main()
