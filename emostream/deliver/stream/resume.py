"""How far a stream has come, and the id of an event that says so; a new stream goes on after it.

Offsets are the same at every subscriber of a cluster, so a stream goes on there exactly. Other clusters have other
offsets but the same micro-batches, so a stream goes on there after the newest micro-batch that it has seen. The id also
says whether the stream has seen everything up to that one, because only then is nothing missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from emostream.deliver.history import Record

MAX_ID_CHARACTERS = 200
_event_id = re.compile(r"([1-9]\d{0,2})-(\d{0,19})-(\d{1,18}(?:\.\d{1,18}){0,99})")


@dataclass(frozen=True, slots=True)
class EventId:
    """The id of an event: `<cluster>-<batch_id>-<next offset of each partition>`.

    `batch_id` is the newest micro-batch that the stream has seen something of. It is empty (None) when the last counts
    belong to no micro-batch. A 0 in front of it (`partial`) says: some of it, or of one before it, was not seen.
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
        """The id in `text`; None when it is not one of ours."""
        found = _event_id.fullmatch(text) if len(text) <= MAX_ID_CHARACTERS and text.isascii() else None
        if not found:
            return None
        batch_id = int(found[2]) if found[2] else None
        offsets = tuple(map(int, found[3].split(".")))
        return cls(int(found[1]), batch_id, offsets, partial=batch_id is not None and found[2] != str(batch_id))


class Progress:
    """How far the micro-batches of a cluster topic have come here."""

    def __init__(self, cluster: int, starts: Mapping[int, int], before: Mapping[int, int]) -> None:
        """`starts` is the first offset of each partition, `before` the micro-batch of the record before it, if any."""
        self.cluster = cluster
        self.offsets = [starts[partition] for partition in sorted(starts)]
        self._newest = max(before.values(), default=None)
        self._whole = max(before.values(), default=-1)  # all micro-batches up to this one are complete
        self._missing: dict[int, float] = {}  # how many records of those after it have not come

    def close(self, batch_id: int | None, records: Sequence[Record], size: float) -> None:
        """Note that these records have come, of a micro-batch that has `size` records in all."""
        for record in records:
            self.offsets[record.partition] = max(self.offsets[record.partition], record.offset + 1)
        if batch_id is None or batch_id == self._whole:
            return  # no micro-batch, or the end of one that began before `starts`
        if batch_id < self._whole:  # the publisher numbers its micro-batches anew
            self._newest, self._whole = None, batch_id - 1
            self._missing.clear()
        self._newest = batch_id if self._newest is None else max(self._newest, batch_id)
        self._missing[batch_id] = self._missing.get(batch_id, size) - len(records)
        self._advance()

    def forget(self, batch_id: int | None) -> None:
        """Wait no longer for records of a micro-batch, or of those before it: they would be too old by now."""
        if batch_id in self._missing:
            self._whole = batch_id
            # They are in the order in which they came, which is nearly that of their numbers.
            while self._missing and (oldest := next(iter(self._missing))) <= batch_id:
                del self._missing[oldest]
            self._advance()

    def start_over(self) -> None:
        """Begin with a topic that has replaced the former one."""
        self.offsets = [0] * len(self.offsets)

    def event_id(self, numbered: bool = True) -> EventId:
        """The id of a stream that has everything; `numbered`: its last counts belong to a micro-batch."""
        batch_id = self._newest if numbered else None
        return EventId(self.cluster, batch_id, tuple(self.offsets), batch_id is not None and batch_id > self._whole)

    def has_same_offsets(self, event_id: EventId) -> bool:
        """Whether the offsets of an id are offsets of this topic."""
        return event_id.cluster == self.cluster and len(event_id.offsets) == len(self.offsets)

    def has(self, event_id: EventId) -> bool:
        """Whether everything that a stream with this id has seen is known to have come here."""
        if event_id.cluster != self.cluster:
            return event_id.batch_id is None or event_id.batch_id <= self._whole
        if not self.has_same_offsets(event_id):
            return True  # an id of a topic that was replaced: there is nothing to wait for
        return all(theirs <= ours for theirs, ours in zip(event_id.offsets, self.offsets, strict=True))

    def is_before(self, event_id: EventId) -> bool:
        """Whether a stream with this id has certainly seen something that has not come here."""
        if event_id.cluster == self.cluster or event_id.batch_id is None:
            return not self.has(event_id)
        return event_id.batch_id > (-1 if self._newest is None else self._newest)

    def _advance(self) -> None:
        while self._missing.get(self._whole + 1, 1) <= 0:
            self._whole += 1
            del self._missing[self._whole]
