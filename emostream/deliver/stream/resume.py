"""How far a stream has come → the id of an event; that id → where a new stream resumes.

All subscribers of a cluster read the same topic, so there a stream resumes exactly, by offsets. Another cluster has
other offsets but the same micro-batches, so there a stream resumes after the newest micro-batch that it has seen. If it
has not seen all of that one, or of one before it, then something is missing there. The id says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from emostream.deliver.history import Record

MAX_ID_CHARACTERS = 16_000  # enough for 1,000 partitions, and half of what the head of a request may have
_event_id = re.compile(r"([1-9]\d{0,2})-(\d{0,19})-(\d{1,18}(?:\.\d{1,18}){0,999})")


@dataclass(frozen=True, slots=True)
class EventId:
    """The id of an event: `<cluster>-<batch_id>-<next offset of each partition>`.

    `batch_id` is the newest micro-batch in the stream. It is empty (None) when the last counts have no batch id. It has
    a 0 in front (`partial`) when the stream has not seen all of that micro-batch, or of one before it.
    """

    cluster: int
    batch_id: int | None
    offsets: tuple[int, ...]
    partial: bool = False

    def __str__(self) -> str:
        batch = "" if self.batch_id is None else f"{'0' if self.partial else ''}{self.batch_id}"
        return f"{self.cluster}-{batch}-{'.'.join(map(str, self.offsets))}"

    @classmethod
    def parse(cls, text: str) -> EventId | None:
        """The id that `text` is; None when it is not one of ours."""
        found = _event_id.fullmatch(text) if len(text) <= MAX_ID_CHARACTERS and text.isascii() else None
        if not found:
            return None
        batch_id = int(found[2]) if found[2] else None
        offsets = tuple(map(int, found[3].split(".")))
        return cls(int(found[1]), batch_id, offsets, partial=batch_id is not None and found[2] != str(batch_id))


def covers(offsets: Sequence[int], others: Sequence[int]) -> bool:
    """Whether `offsets` are at or after `others` in each partition. One that is missing there counts as 0."""
    return all(ours >= theirs for ours, theirs in zip_longest(offsets, others, fillvalue=0))


def reach(offsets: list[int], partition: int, offset: int) -> None:
    """Move a partition forward to `offset`. The topic may have got the partition just now."""
    if partition >= len(offsets):
        offsets += [0] * (partition + 1 - len(offsets))
    if offset > offsets[partition]:
        offsets[partition] = offset


class Progress:
    """How far a subscriber has come with the micro-batches of its cluster topic."""

    def __init__(self, cluster: int, starts: Mapping[int, int], before: Mapping[int, int]) -> None:
        """`starts`: the first offset of each partition. `before`: the micro-batch of the record before it, if any."""
        self.cluster = cluster
        self.offsets = [starts[partition] for partition in sorted(starts)]
        self._newest = max(before.values(), default=None)
        self._whole = max(before.values(), default=-1)  # all micro-batches up to this one are whole
        self._missing: dict[int, float] = {}  # a micro-batch after that → how many of its records are not here

    def close(self, batch_id: int | None, records: Sequence[Record], size: float) -> None:
        """Note that these records are here. Their micro-batch has `size` records in all."""
        for record in records:
            reach(self.offsets, record.partition, record.offset + 1)
        if batch_id is None or batch_id == self._whole:
            return  # they have no batch id, or they end a micro-batch that began before `starts`
        if batch_id < self._whole:  # batch ids have started over
            self._newest, self._whole = None, batch_id - 1
            self._missing.clear()
        self._newest = batch_id if self._newest is None else max(self._newest, batch_id)
        self._missing[batch_id] = self._missing.get(batch_id, size) - len(records)
        self._advance()

    def forget(self, batch_id: int | None) -> None:
        """Expect no more records of a micro-batch, or of one before it: they would be too old by now."""
        if batch_id in self._missing:
            self._whole = batch_id
            # The first key is the oldest micro-batch, or nearly so.
            while self._missing and (oldest := next(iter(self._missing))) <= batch_id:
                del self._missing[oldest]
            self._advance()

    def whole_until(self, batch_id: int) -> None:
        """Note that no more records of the micro-batches up to this one come. A room has no part in some of them."""
        whole = min([batch_id, *(one - 1 for one, left in self._missing.items() if left > 0)])
        if whole > self._whole:
            self._whole, self._newest = whole, max(whole, -1 if self._newest is None else self._newest)
            self._missing = {one: left for one, left in self._missing.items() if one > whole}

    def start_over(self) -> None:
        """Begin again with offset 0, because the topic was replaced."""
        self.offsets = [0] * len(self.offsets)

    def event_id(self, numbered: bool = True) -> EventId:
        """The id of a stream that has seen everything here. `numbered`: its last counts have a batch id."""
        batch_id = self._newest if numbered else None
        return EventId(self.cluster, batch_id, tuple(self.offsets), batch_id is not None and batch_id > self._whole)

    def has(self, event_id: EventId) -> bool:
        """Whether all that a stream with this id has seen is certainly here."""
        if event_id.cluster != self.cluster:
            return event_id.batch_id is None or event_id.batch_id <= self._whole
        return covers(self.offsets, event_id.offsets)

    def is_before(self, event_id: EventId) -> bool:
        """Whether a stream with this id has certainly seen something that is not here."""
        if event_id.cluster == self.cluster or event_id.batch_id is None:
            return not self.has(event_id)
        return event_id.batch_id > (-1 if self._newest is None else self._newest)

    def _advance(self) -> None:
        while self._missing.get(self._whole + 1, 1) <= 0:
            self._whole += 1
            del self._missing[self._whole]
