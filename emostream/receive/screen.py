"""Counts → emojis in the terminal: each record once, as one flowing line."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TextIO

MAX_PRINTED = 50
REMEMBERED_RECORDS = 10_000


class Screen:
    """What the viewer sees. It remembers the last REMEMBERED_RECORDS records, and prints none of them twice."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self.records = 0
        self.repeats = 0

    def show(self, record_key: str | None, emoji: str, count: int) -> bool:
        """Print a record unless it was printed before; return whether it was printed now.

        Records with the same key, emoji and count are the same record. A record without a key is always new.
        """
        with self._lock:
            if record_key is not None:
                digest = hashlib.blake2b(f"{record_key}\0{emoji}\0{count}".encode(), digest_size=16).digest()
                if digest in self._seen:
                    self.repeats += 1
                    return False
                self._seen[digest] = None
                if len(self._seen) > REMEMBERED_RECORDS:
                    self._seen.popitem(last=False)
            self.records += 1
            self._out.write(flow(emoji, count))
            self._out.flush()
            return True


def flow(emoji: str, count: int) -> str:
    """An emoji `count` times, or as `emoji×count` where that would flood the terminal."""
    return emoji * count if count <= MAX_PRINTED else f" {emoji}×{count} "
