"""How far a stream of micro-batches has come, said so that every subscriber of every cluster can go on from there.

Offsets are the same at every subscriber of a cluster. In other clusters they differ, but not the numbers of the
micro-batches, nor the partition of a record and its order there.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from emostream.deliver.history import Record

MAX_ID_CHARACTERS = 200
_reached = r"(?:\d{1,18}\.\d{1,18})?"
_place = re.compile(
    rf"([1-9])-(\d{{0,18}})-(\d{{1,18}}(?:\.\d{{1,18}}){{0,99}})(?:-({_reached}(?:_{_reached}){{0,99}}))?"
)


class Reached(NamedTuple):
    """How far a partition was read: `records` of micro-batch `batch_id` there; 0: all of them, as far as is known."""

    batch_id: int
    records: int

    def covers(self, batch_id: int, record: int) -> bool:
        """Whether the record of this number, from 1, of this micro-batch was read; of an unknown number, 0: it was."""
        return batch_id < self.batch_id or (batch_id == self.batch_id and (not self.records or record <= self.records))


def beyond(one: Reached | None, other: Reached | None) -> bool:
    """Whether a partition was read farther for `one` than for `other`; None: nothing of it was."""
    return one is not None and (other is None or not other.covers(*one))


@dataclass(frozen=True, slots=True)
class Place:
    """How far a stream has come: the id of an event.

    `<cluster>-<batch_id or empty>-<next offset per partition>` where all micro-batches up to that one were seen whole,
    and nothing after. Else `-<reached per partition>` follows, each `<batch_id>.<records>` or empty, joined by `_`.
    """

    cluster: int
    batch_id: int | None
    offsets: tuple[int, ...]
    reached: tuple[Reached | None, ...] | None = None

    def __str__(self) -> str:
        text = f"{self.cluster}-{'' if self.batch_id is None else self.batch_id}-{'.'.join(map(str, self.offsets))}"
        if self.reached is None:
            return text
        return f"{text}-{'_'.join('' if one is None else f'{one.batch_id}.{one.records}' for one in self.reached)}"

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """The place that an id names; None where it is not one of ours."""
        found = _place.fullmatch(text) if len(text) <= MAX_ID_CHARACTERS else None
        if not found:
            return None
        batch_id = int(found[2]) if found[2] else None
        offsets = tuple(map(int, found[3].split(".")))
        if found[4] is None:
            return cls(int(found[1]), batch_id, offsets)
        reached = tuple(Reached(*map(int, one.split("."))) if one else None for one in found[4].split("_"))
        return cls(int(found[1]), batch_id, offsets, reached) if len(reached) == len(offsets) else None


class Progress:
    """How far the micro-batches of a cluster topic have come here, as they are closed one after the other."""

    def __init__(self, cluster: int, starts: Mapping[int, int], before: Mapping[int, int]) -> None:
        """`starts` is the offset per partition to begin with, `before` the micro-batch of the record before, if any."""
        self.cluster = cluster
        self.offsets = [starts[partition] for partition in sorted(starts)]
        self.reached = [Reached(before[p], 0) if p in before else None for p in sorted(starts)]
        self.newest: int | None = None  # the micro-batch that was closed last
        self._whole = max(before.values(), default=-1)  # all micro-batches up to this one have come whole
        self._missing: dict[int, float] = {}  # of those after it: how many records have not come
        self._unnumbered = 0  # records that are in no micro-batch; only offsets tell which of them were seen

    def close(self, batch_id: int | None, records: Sequence[Record], size: float) -> None:
        """Go past these records of a micro-batch that has `size` records in all."""
        for record in records:
            partition = record.partition
            self.offsets[partition] = max(self.offsets[partition], record.offset + 1)
            if batch_id is not None:
                before = self.reached[partition]
                seen = before.records if before and before.batch_id == batch_id else None
                # One that is known to have begun before what is known of it has no number.
                self.reached[partition] = Reached(batch_id, 1 if seen is None else seen and seen + 1)
        if batch_id is None:
            self._unnumbered += len(records)
            return
        self.newest = batch_id
        if batch_id == self._whole:
            return  # the end of one that began before what is known here
        if batch_id < self._whole:  # their ids have started over
            self._whole = batch_id - 1
            self._missing.clear()
        self._missing[batch_id] = self._missing.get(batch_id, size) - len(records)
        self._advance()

    def forget(self, batch_id: int | None, records: int) -> None:
        """Note that so many records of a micro-batch are too old to be waited for, or gone past, any more."""
        if batch_id is None:
            self._unnumbered -= records
        elif batch_id in self._missing:
            self._whole = batch_id
            # In the order in which they came, nearly that of their numbers; one that is left goes with the next.
            while self._missing and (oldest := next(iter(self._missing))) <= batch_id:
                del self._missing[oldest]
            self._advance()

    def lose(self, partition: int, batch_id: int) -> None:
        """Note that records of a partition never came here, up to some of this micro-batch."""
        self.reached[partition] = Reached(batch_id, 0)

    def start_over(self) -> None:
        """Begin with a topic that has replaced the one of before."""
        self.offsets = [0] * len(self.offsets)
        self.reached = [None] * len(self.offsets)

    def place(self, batch_id: int | None) -> Place:
        """The place here, after a micro-batch was closed."""
        plain = self._unnumbered if batch_id is None else batch_id == self._whole and not self._missing
        return Place(self.cluster, batch_id, tuple(self.offsets), None if plain else tuple(self.reached))

    def has(self, place: Place) -> bool:
        """Whether all that was seen at `place` is known to have come here."""
        if place.cluster == self.cluster:
            return not any(theirs > ours for theirs, ours in zip(place.offsets, self.offsets, strict=False))
        if place.reached is not None:
            return not any(map(beyond, place.reached, self.reached))
        return place.batch_id is None or place.batch_id <= self._whole

    def is_before(self, place: Place) -> bool:
        """Whether something was seen at `place` that has not come here."""
        if self.has(place):
            return False
        if place.cluster == self.cluster or place.reached is not None or place.batch_id is None:
            return True
        newest = -1 if self.newest is None else self.newest
        return place.batch_id > max(self._whole, newest) or any(
            0 < missing < math.inf for other, missing in self._missing.items() if other <= place.batch_id
        )

    def _advance(self) -> None:
        while self._missing.get(self._whole + 1, 1) <= 0:
            self._whole += 1
            del self._missing[self._whole]


class SeenHere:
    """What a stream that was at a place has seen of the micro-batches here, which are looked at one after the other.

    Per partition: the offset after the last record that it has seen, and how far that reaches.
    """

    def __init__(
        self, place: Place, cluster: int, forgotten: Sequence[int], forgotten_reached: Sequence[Reached | None]
    ) -> None:
        """Begin after what is not here any more."""
        self._place = place
        self._by_offset = place.cluster == cluster and len(place.offsets) == len(forgotten)
        self._seen = [True] * len(forgotten)  # the record that was looked at last
        self.offsets = list(map(max, forgotten, place.offsets)) if self._by_offset else list(forgotten)
        self.reached = list(forgotten_reached)

    def look(self, batch_id: int | None, records: Sequence[Record], reached: Sequence[Reached | None]) -> None:
        """Look at records of a micro-batch, after which partitions were read as far as `reached`."""
        left = Counter(record.partition for record in records)
        for record in records:
            partition = record.partition
            left[partition] -= 1
            after = reached[partition]
            number = after.records - left[partition] if after and after.records else 0
            if self._by_offset:
                self._seen[partition] = record.offset < self.offsets[partition]
            elif batch_id is not None:  # else it is as the one before it
                self._seen[partition] = self._covers(partition, batch_id, number)
            if self._seen[partition]:
                self.offsets[partition] = max(self.offsets[partition], record.offset + 1)
                if batch_id is not None:
                    self.reached[partition] = Reached(batch_id, number)

    def _covers(self, partition: int, batch_id: int, number: int) -> bool:
        if self._place.reached is None:
            return self._place.batch_id is None or batch_id <= self._place.batch_id
        reached = self._place.reached[partition] if partition < len(self._place.reached) else None
        return reached is not None and reached.covers(batch_id, number)
