"""Many counts of an emoji → one: what waits for a client that cannot keep up.

A merged count is named by the offsets between which all counts of that emoji are in it, so that it is the same count,
byte by byte, whenever it is made again of the same records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from emostream.deliver.history import Record
from emostream.records import Count, encode, parse_whole_count

# More than there are; a bound all the same, where any text may be tapped.
MAX_EMOJIS = 10_000

Offsets = Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Push:
    """What is POSTed: a record, or the sum of `records` of them, under a key that it has at every attempt."""

    key: str
    body: bytes
    records: int = 1
    record: Record | None = None  # None of a merged one
    routed_ms: int = 0  # when the newest of its records was published, in Unix milliseconds


@dataclass
class Sum:
    """Counts of one emoji, added up."""

    count: int = 0
    events: int | None = 0  # None where a record lacks it: a sum without it would be wrong
    records: int = 0
    routed_ms: int = 0
    first: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)

    def add(self, count: Count, routed_ms: int) -> None:
        """Add one; in any order, the sum is the same."""
        self.routed_ms = max(self.routed_ms, routed_ms)
        self.count += count.count
        self.events = None if self.events is None or count.events is None else self.events + count.events
        self.records += 1
        if count.first_accepted_ms is not None:
            known = self.first.get("first_accepted_ms", count.first_accepted_ms)
            self.first["first_accepted_ms"] = min(known, count.first_accepted_ms)
        for key in ("batch_id", "last_accepted_ms", "batched_ms"):
            value = getattr(count, key)
            if value is not None:
                self.last[key] = max(self.last.get(key, value), value)


class Waiting:
    """Sums per emoji of the records from `start` to `end` (next offsets per partition); what is sent never changes."""

    def __init__(self, start: Offsets) -> None:
        self.start = dict(start)
        self.end = dict(start)
        self._sums: dict[str, Sum] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    @property
    def records(self) -> int:
        """How many are in it."""
        return sum(found.records for found in list(self._sums.values()))

    def add(self, record: Record) -> bool:
        """Add a record; those of a partition come in their order. False where there is no room for another emoji."""
        self.end[record.partition] = record.offset + 1
        count = parse_whole_count(record.value)
        if count.emoji not in self._sums and len(self._sums) >= MAX_EMOJIS:
            return False
        self._sums.setdefault(count.emoji, Sum()).add(count, record.timestamp_ms)
        return True

    def pushes(self, topic: str) -> list[Push]:
        """One for each emoji."""
        between = "_".join(
            f"{partition}-{self.start.get(partition, 0)}-{end}"
            for partition, end in sorted(self.end.items())
            if end > self.start.get(partition, 0)
        )
        pushes = []
        for emoji, found in sorted(self._sums.items()):
            events = {} if found.events is None else {"events": found.events}
            sums = {"emoji": emoji, "count": found.count, **events, "merged": found.records}
            key = f"{topic}/{between}/{quote(emoji, safe='')}"
            body = encode(sums | found.last | found.first)
            pushes.append(Push(key, body, found.records, routed_ms=found.routed_ms))
        return pushes
