"""What happens → what an operator sees in the terminal: sentences, progress, logs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

REPEAT_SECONDS = 10.0
SHOWN_LINES = 20


class OperatingError(SystemExit):
    """Ends a command with status 1 and a text on standard error: what went wrong, and what to do."""


def say(text: str) -> None:
    """Print a sentence on standard error. Standard output has only what the operator asked for."""
    with suppress(OSError):  # nobody reads it
        print(text, file=sys.stderr, flush=True)


def log_tail(path: Path) -> str:
    """Return the end of a log, indented."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(f"    {line}" for line in lines[-SHOWN_LINES:]) or f"    (nothing in {path})"


class ProgressLine:
    """Shows progress: on a terminal in one line, which it deletes at the end; elsewhere a new line every 10 seconds."""

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


def run_step(what: str, command: Sequence[str], directory: Path, environment: Mapping[str, str], log: Path) -> bool:
    """Run a long command and show how long it takes; its output goes to `log`. Return whether it succeeded."""
    with (
        ProgressLine() as line,
        log.open("w") as output,
        subprocess.Popen(
            command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as running,
    ):
        try:
            while running.poll() is None:
                line.show(f"{what} ({line.seconds} s)")
                time.sleep(0.2)
        finally:
            running.terminate()
    if running.returncode == 0:
        say(f"  {what}: done in {line.seconds} s")
    return running.returncode == 0
