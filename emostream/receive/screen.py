"""Counts → emojis in the terminal, in one flowing line; what the viewer types → a stop."""

from __future__ import annotations

import os
import select
import sys
import threading
from contextlib import suppress
from typing import TextIO

from emostream.process import StopFlag

MAX_PRINTED = 50
REMEMBERED_RECORDS = 10_000


class Screen:
    """What the viewer sees. It remembers the last REMEMBERED_RECORDS records, and prints none of them twice.

    It prints ? for an emoji that the terminal lacks. When nobody reads its pipe any more, it requests a stop.
    """

    def __init__(self, out: TextIO | None, stop: StopFlag) -> None:
        """`out` is None when the process was started without stdout."""
        self._out = out
        self._stop = stop
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._seen: dict[int, None] = {}  # the oldest first

    def show(self, record_key: str | None, emoji: str, count: int) -> None:
        """Print a record unless it was printed before.

        Records with the same key, emoji and count are the same record. A record without a key is always new.
        """
        with self._lock:
            if record_key is not None:
                record = hash((record_key, emoji, count))
                if record in self._seen:
                    return
                self._seen[record] = None
                if len(self._seen) > REMEMBERED_RECORDS:
                    del self._seen[next(iter(self._seen))]
            if self._out:
                self._print(self._out, emoji, count)

    def _print(self, out: TextIO, emoji: str, count: int) -> None:
        text = flow(emoji, count)
        try:
            # By itself, Python would replace an emoji of several characters by several ?.
            text.encode(out.encoding or "utf-8", "strict" if out.errors == "replace" else out.errors or "strict")
        except UnicodeEncodeError:
            text = flow("?", count).replace("×", "x")
            self._tell(f"this terminal cannot print emojis: its encoding is {out.encoding}, so each emoji is a ?")
        try:
            out.write(text)
            out.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # for what is still in Python's buffer
            self._tell("nobody reads what this client prints; ending")
            self._stop.requested = True
        except OSError as error:
            self._tell(f"emojis cannot be printed: {error.strerror}")

    def _tell(self, sentence: str) -> None:
        """Say a sentence once."""
        if sentence not in self._told:
            self._told.add(sentence)
            say(sentence)


def flow(emoji: str, count: int) -> str:
    """Return an emoji `count` times, or as `emoji×count` if that would flood the terminal."""
    return emoji * count if count <= MAX_PRINTED else f" {emoji}×{count} "


def say(sentence: str) -> None:
    """Print a sentence on stderr, if there is one. stdout has only the emojis."""
    if sys.stderr:
        with suppress(OSError):
            print(f"\n[client] {sentence}", file=sys.stderr, flush=True)


def stop_when_told(stop: StopFlag) -> None:
    """Request a stop when the viewer types `unsub`. The end of the input is no stop."""
    if sys.stdin is None or sys.stdin.closed:
        return
    with suppress(OSError):  # an input that cannot be read
        _read_until_told(sys.stdin.fileno(), stop)


def _read_until_told(descriptor: int, stop: StopFlag) -> None:
    typed = b""
    while not stop.requested:
        if not select.select([descriptor], [], [], 0.2)[0]:
            continue
        if os.isatty(descriptor) and os.tcgetpgrp(descriptor) != os.getpgrp():
            stop.wait(1.0)  # In the background, reading the terminal would suspend this process.
            continue
        chunk = os.read(descriptor, 1024)
        if not chunk:
            return
        *lines, typed = (typed + chunk)[-4096:].split(b"\n")
        if any(line.strip() == b"unsub" for line in lines):
            stop.requested = True
