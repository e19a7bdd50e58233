"""The command of a benchmark: its parts, each with its options, and where the figures go."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.facts import FACTS
from benchmarks.figures import write
from benchmarks.machine import DATA_DIR, MACHINE, machine
from benchmarks.report import text_of
from testkit.broker import Broker, running_broker
from testkit.settings import environment_for

Figures = dict[str, Any]
Options = Mapping[str, int | float | str]


@dataclass(frozen=True)
class Part:
    """`measure` gets the options of a full run, where neither --quick nor the command line says otherwise."""

    measure: Callable[[argparse.Namespace], Figures]
    full: Options
    quick: Options
    settings: Mapping[str, str] = field(default_factory=dict)  # of what is measured, below those of the command line


@contextmanager
def own_broker(settings: Mapping[str, str]) -> Iterator[Broker]:
    """A broker of this run's own, with empty topics."""
    with running_broker(environment_for(DATA_DIR / "broker", BIND_HOST="127.0.0.1", **settings)) as broker:
        yield broker


def main(doc: str, group: str, parts: Mapping[str, Part]) -> Figures:
    """Measure the part that the command line names, keep its figures and print what the report says of them."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True, metavar=" | ".join(parts))
    for name, part in parts.items():
        command = commands.add_parser(name)
        for option, value in part.full.items():
            shown = f"default {value!r}; with --quick {part.quick.get(option, value)!r}"
            command.add_argument(f"--{option}", type=type(value), help=shown)
        command.add_argument("--quick", action="store_true", help="in small, to see that it works")
        command.add_argument("--json", type=Path, help="keep the figures in this file")
        command.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of what is measured")
    args = parser.parse_args()
    part = parts[args.what]
    given = {option: getattr(args, option) for option in part.full if getattr(args, option) is not None}
    options = {**part.full, **(part.quick if args.quick else {}), **given}
    settings = dict(part.settings) | dict(setting.split("=", 1) for setting in args.settings)
    print(f"{(MACHINE + '; load {load_before} before').format_map(machine())}; {options}; {settings}", flush=True)
    found = part.measure(argparse.Namespace(**options, settings=settings))
    name = group if args.what == group else f"{group}-{args.what}"
    write(args.json, name, found, args.quick)
    if name in FACTS:
        print(text_of(name, found), flush=True)
    return found
