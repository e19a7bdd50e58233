"""What an operator sees: sentences, one line of progress, and logs as they grow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path

from emostream.process import end_with_reader

REPEAT_SECONDS = 10.0
SHOWN_LINES = 20
COLOURS = (36, 32, 35, 33, 34, 31)  # the six of ECMA-48 that can be read on black and on white
_header = re.compile(r"==> (.+) <==")


class OperatingError(SystemExit):
    """Ends a command with status 1 and this text on standard error: what went wrong, where, and what to do about it."""


def say(text: str) -> None:
    """Print for the operator; standard output is only for what was asked for."""
    with suppress(OSError):  # nobody reads it
        print(text, file=sys.stderr, flush=True)


class ProgressLine:
    """One line that a terminal keeps rewriting; anywhere else, a new line every 10 seconds. Wiped at the end."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._due = self._began + REPEAT_SECONDS / 2

    @property
    def seconds(self) -> int:
        """How long it has been shown."""
        return round(time.monotonic() - self._began)

    def show(self, text: str) -> None:
        """Replace the line."""
        if sys.stderr.isatty():
            print(f"\r\033[K  {text}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() >= self._due:
            self._due += REPEAT_SECONDS
            say(f"  {text}")

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def follow(paths: Sequence[Path]) -> int:
    """Show the ends of these log files, and what is added to them, until interrupted; return the exit status.

    On a terminal each line has the name of its process before it, in colour.
    """
    command = ["tail", "-n", str(SHOWN_LINES), "-F", *map(str, paths)]
    end_with_reader()
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
