"""How a slow client is treated: the counts that wait for it → one merged count per emoji.

When a count has waited for MERGE_AFTER_BATCHES, PushClient merges it with all that waits behind it. So what waits is
never more than there are emojis. The key of a merged count names the offsets of its records. After a restart the same
records make the same merged count, byte for byte, and the client recognises the repeat by the key. A client that fails
for EVICT_AFTER_SECONDS loses its slot; client.py sees to that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from emostream.deliver.history import Record
from emostream.deliver.sums import Sum, known
from emostream.records import encode, record_key

# A healthy client gets the counts of a micro-batch long before the next one.
MERGE_AFTER_BATCHES = 2
# More than exist. A bound is needed because any text may be tapped.
MAX_EMOJIS = 10_000


class Push(NamedTuple):
    """The body of one POST: a record, or the sum of `records` of them. Every attempt has the same key."""

    key: str
    body: bytes
    records: int = 1
    record: Record | None = None  # None for a merged count
    routed_ms: int = 0  # when the newest of its records was published, in Unix milliseconds


class MergedCounts:
    """Sums per emoji of the records from offset `start` to offset `end` of each partition."""

    def __init__(self, start: Mapping[int, int]) -> None:
        self.start = dict(start)
        self.end = dict(start)
        self._sums: dict[str, Sum] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    @property
    def records(self) -> int:
        """How many records are in the sums; from any thread."""
        return sum(found.records for found in list(self._sums.values()))

    def add(self, record: Record) -> bool:
        """Add the next record of its partition; False when there is no room for another emoji."""
        self.end[record.partition] = record.offset + 1
        emoji = record.count.emoji
        if emoji not in self._sums and len(self._sums) >= MAX_EMOJIS:
            return False
        self._sums.setdefault(emoji, Sum()).add(record)
        return True

    def pushes(self, topic: str) -> list[Push]:
        """One push per emoji."""
        between = "_".join(
            f"{partition}-{self.start.get(partition, 0)}-{end}"
            for partition, end in sorted(self.end.items())
            if end > self.start.get(partition, 0)
        )
        pushes = []
        for emoji, found in sorted(self._sums.items()):
            key = f"{topic}/{between}/{quote(record_key(emoji, found.room), safe='')}"
            pushes.append(Push(key, _body(emoji, found), found.records, routed_ms=found.routed_ms))
        return pushes


def _body(emoji: str, found: Sum) -> bytes:
    merged = known(
        emoji=emoji, count=found.count, events=found.events, merged=found.records, batch_id=found.batch_id,
        last_accepted_ms=found.last_accepted_ms, batched_ms=found.batched_ms,
        first_accepted_ms=found.first_accepted_ms, room=found.room or None,
    )  # fmt: skip
    return encode(merged)
