"""What an operator sees: sentences, one line of progress, and logs as they grow."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from emostream.process import end_with_reader

REPEAT_SECONDS = 10.0
SHOWN_LINES = 20


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


def follow(paths: Sequence[Path]) -> NoReturn:
    """Show the ends of these log files, and what is added to them, until interrupted."""
    end_with_reader()
    os.execvp("tail", ["tail", "-n", str(SHOWN_LINES), "-F", *map(str, paths)])  # noqa: S606 - no shell is wanted
