"""What the viewer types → a stop; what the client has to say → stderr."""

from __future__ import annotations

import os
import select
import sys

from emostream.process import StopFlag


def stop_when_told(stop: StopFlag) -> None:
    """Request a stop when the viewer types `unsub`. The end of the input stops nothing."""
    if sys.stdin is None or sys.stdin.closed:
        return
    typed = b""
    descriptor = sys.stdin.fileno()
    while not stop.requested:
        if not select.select([descriptor], [], [], 0.2)[0]:
            continue
        if os.isatty(descriptor) and os.tcgetpgrp(descriptor) != os.getpgrp():
            stop.wait(1.0)  # This process is in the background, where reading the terminal would suspend it.
            continue
        chunk = os.read(descriptor, 1024)
        if not chunk:
            return
        *lines, typed = (typed + chunk)[-4096:].split(b"\n")
        if any(line.strip() == b"unsub" for line in lines):
            stop.requested = True


def say(sentence: str) -> None:
    """Tell the viewer something, on stderr, because stdout is for the emojis."""
    print(f"\n[client] {sentence}", file=sys.stderr, flush=True)
