"""Write REPORT.md and its plots from the figures that the benchmarks have kept.

usage: .venv/bin/python -m benchmarks.report [--results benchmarks/results] [--into benchmarks]

REPORT.template.md is the report with formats in place of numbers. A comment names the parts whose figures (and facts)
stand in what follows, up to the next comment or title; a line that begins with @NAME is written for each of that name.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.facts import FACTS, Figures, with_facts
from benchmarks.figures import read
from benchmarks.goals import GOALS
from benchmarks.machine import BENCHMARKS_DIR, MACHINE

Kept = Mapping[str, dict[str, Any]]  # part → what figures.write keeps of it
TEMPLATE = BENCHMARKS_DIR / "REPORT.template.md"


def sections() -> list[tuple[list[str], str]]:
    """(parts, text) of each section; a text that is not about a part has none."""
    found: list[tuple[list[str], list[str]]] = [([], [])]
    for line in TEMPLATE.read_text().splitlines(keepends=True):
        if line.startswith("<!--"):
            found.append((line.split()[1:-1], []))
        elif line.startswith("## "):
            found.append(([], [line]))
        else:
            found[-1][1].append(line)
    return [(parts, "".join(lines)) for parts, lines in found]


def collect(directory: Path) -> Kept:
    """Every part that was measured."""
    return {part: kept for part in FACTS if (kept := read(directory, part)) is not None}


def text_of(part: str, figures: Figures) -> str:
    """What the report says of one part, without its plots."""
    facts = with_facts(part, figures)
    text = "".join(filled(text, facts) for parts, text in sections() if part in parts)
    return re.sub(r"^!\[.*\n", "", text, flags=re.MULTILINE).rstrip()


def render(kept: Kept) -> str:
    """The report as Markdown."""
    facts = {part: with_facts(part, it["figures"]) for part, it in kept.items()}
    rows = [dict(zip(("goal", "shown", "word"), goal.row(facts), strict=True)) for goal in GOALS]
    facts |= {"goals": {"goals": rows}, "machines": about(kept)}
    if any(it["quick"] for it in kept.values()):
        facts["quick"] = {}
    written = []
    for parts, text in sections():
        written += [text] if not parts else []
        for part in parts:
            if part in facts:
                written.append(filled(text, facts[part]))
            elif part in FACTS:
                written.append(f"`{part}` was not measured.\n\n")
    return re.sub("\n{3,}", "\n\n", "".join(written)).rstrip() + "\n"


def filled(text: str, facts: Figures) -> str:
    """A text of the template with what it is about."""
    lines: list[str] = []
    for line in text.splitlines():
        name, _, row = line.partition(" ")
        lines += [row.format_map(it) for it in facts[name[1:]]] if name.startswith("@") else [line.format_map(facts)]
    return re.sub(r"(^\|.*\n)((?:\|.*\n)*)", _with_alignment, "\n".join([*lines, ""]), flags=re.MULTILINE)


def _with_alignment(table: re.Match[str]) -> str:
    head, body = table.groups()
    rows = [line[2:-2].split(" | ") for line in body.splitlines()]
    right = [all(cell[:1] in "0123456789-" for cell in cells) for cells in zip(*rows, strict=True)]
    return head + "|" + "|".join("---:" if it else "---" for it in right) + "|\n" + body


def about(kept: Kept) -> Figures:
    """On which machines and with which versions each part was measured, when, and how busy the machine was before."""
    versions: dict[str, dict[str, None]] = {}
    for it in kept.values():
        for name, version in it["versions"].items():
            versions.setdefault(name, {})[version] = None
    machines = {MACHINE.format_map(it["machine"]) for it in kept.values()}
    return {
        "machines": [{"machine": machine} for machine in sorted(machines)],
        "versions": [{"name": name, "version": ", ".join(found)} for name, found in versions.items()],
        "parts": [{**it, "part": f"`{part}`", "load": it["machine"]["load_before"]} for part, it in kept.items()],
    }


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
    print(f"{args.into / 'REPORT.md'}: {len(kept)} of {len(FACTS)} parts")


if __name__ == "__main__":
    main()
