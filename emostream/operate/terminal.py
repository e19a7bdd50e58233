"""What the commands of an operator say while they work: sentences, and one line of progress."""

from __future__ import annotations

import sys
import time
from types import TracebackType

REPEAT_SECONDS = 10.0


class OperatingError(Exception):
    """Something keeps the system from starting. The text says what, where, and what to do about it."""


def say(text: str) -> None:
    """Print for the operator; standard output is only for what was asked for."""
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
