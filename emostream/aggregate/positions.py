"""The committed offsets of EMOJI_TOPIC → where to go on counting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emostream.broker import consumer, partitions
from emostream.process import Log
from emostream.settings import Settings

GROUP = "main-publisher"  # the consumer group that the offsets are committed to


@dataclass(frozen=True)
class Positions:
    """Where to go on reading EMOJI_TOPIC: the next offset of each partition, and the number of the next batch."""

    next_offsets: Mapping[int, int]
    next_batch_id: int


def read_positions(settings: Settings, log: Log) -> Positions:
    """Return the positions of the last committed transaction, or those of the oldest events if there is none.

    If the broker has deleted events before they were counted, they are lost. Then log a warning.
    """
    reader = consumer(settings, GROUP)
    try:
        all_partitions = partitions(settings.emoji_topic)
        oldest, newest = reader.beginning_offsets(all_partitions), reader.end_offsets(all_partitions)
        next_offsets: dict[int, int] = {}
        next_batch_id = 0
        for tp in all_partitions:
            committed = reader.committed(tp, metadata=True)
            if committed:
                next_batch_id = max(next_batch_id, int(committed.metadata or 0) + 1)
            next_offsets[tp.partition] = resume_at(committed and committed.offset, oldest[tp], newest[tp])
            if committed and next_offsets[tp.partition] != committed.offset:
                log.warning(
                    "cannot go on where the last batch ended; going on at the oldest event there is",
                    topic=tp.topic, partition=tp.partition, ended_at=committed.offset,
                    oldest=oldest[tp], newest=newest[tp],
                )  # fmt: skip
        return Positions(next_offsets, next_batch_id)
    finally:
        reader.close()


def resume_at(committed: int | None, oldest: int, newest: int) -> int:
    """Return the committed offset, or the oldest one if there is no event at the committed one any more.

    Below the oldest offset, the broker has deleted events. Above the newest, somebody has replaced the topic.
    """
    return committed if committed is not None and oldest <= committed <= newest else oldest
