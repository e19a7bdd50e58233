"""Log files → their lines as they come. On a terminal each line has the name of its process before it, in colour."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

SHOWN_LINES = 20
COLOURS = (36, 32, 35, 33, 34, 31)  # the six of ECMA-48 that can be read on black and on white
_header = re.compile(r"==> (.+) <==")


def follow(paths: Sequence[Path]) -> int:
    """Show the ends of these files, and what is added to them, until interrupted; return the exit status."""
    command = ["tail", "-n", str(SHOWN_LINES), "-F", *map(str, paths)]
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        os.execvp("tail", command)  # noqa: S606 - no shell is wanted
    with subprocess.Popen([*command, "-v"], stdout=subprocess.PIPE, text=True, errors="replace") as tail:
        assert tail.stdout  # noqa: S101 - it is a pipe
        for line in with_names((line.rstrip("\n") for line in tail.stdout), paths):
            print(line, flush=True)
        return tail.wait()


def with_names(lines: Iterable[str], paths: Sequence[Path]) -> Iterator[str]:
    """What `tail -v` prints of these files → the same lines, each with the name of its own file before it.

    tail prints a header with the name of the file before the lines of another file.
    """
    width = max(len(path.stem) for path in paths)
    colour_of = dict(zip((path.stem for path in paths), cycle(COLOURS), strict=False))
    name, empty = "", False

    def named(line: str) -> str:
        return f"\033[{colour_of.get(name, COLOURS[0])}m{name:<{width}}\033[0m {line}"

    for line in lines:
        if header := _header.fullmatch(line):
            name, empty = Path(header[1]).stem, False  # tail adds an empty line before a header
            continue
        if empty:
            yield named("")
        empty = not line
        if line:
            yield named(line)
