"""MAIN_TOPIC → its counts, from a time or an offset to the end of the topic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from emostream.broker import bulk_consumer
from emostream.records import InvalidRecord, parse_count
from emostream.settings import Settings

# A broker on this machine answers in milliseconds.
BROKER_SECONDS = 3.0
MESSAGES_AT_ONCE = 5_000
# If the clocks of the publisher and the broker differ by more than this, take the broker's time.
MAX_SKEW_MS = 60_000
# "End of the partition". The library documents this name, although it begins with an underscore.
END_OF_PARTITION = KafkaError._PARTITION_EOF


class TopicUnreadable(Exception):
    """The topic cannot be read now. The text says why."""


@dataclass(frozen=True, slots=True)
class CountRow:
    """An emoji's number for one room and micro-batch, and when it was counted, in Unix milliseconds.

    `batch_emojis`: how many rows the micro-batch has for this room.
    """

    time_ms: int
    batch_id: int | None
    emoji: str
    count: int
    events: int | None
    room: str = ""
    batch_emojis: int | None = None


def read_counts(
    settings: Settings, since_ms: int, next_offsets: dict[int, int], timeout_seconds: float
) -> Iterator[CountRow]:
    """Yield every count from `next_offsets` to the end of the topic, and move `next_offsets` there.

    A partition that is not in `next_offsets` is read from `since_ms` on. A record that is no count is skipped without
    a log line, because the stages that read the topic log it. Raises TopicUnreadable.
    """
    deadline = time.monotonic() + timeout_seconds
    with closing(bulk_consumer(settings)) as consumer:
        try:
            starts = _starts(consumer, settings.main_topic, since_ms, next_offsets)
            consumer.assign(starts)
            unread = {tp.partition for tp in starts}
            while unread:
                if time.monotonic() > deadline:
                    raise TopicUnreadable(f"{settings.main_topic} was not read to its end in {timeout_seconds:g} s")
                for message in consumer.consume(MESSAGES_AT_ONCE, timeout=0.1):
                    if error := message.error():
                        if error.code() != END_OF_PARTITION:
                            raise KafkaException(error)
                        unread.discard(message.partition())
                        continue
                    # Only the library's types allow None: every record has a partition and an offset.
                    next_offsets[message.partition() or 0] = (message.offset() or 0) + 1
                    if row := _row(message):
                        yield row
        except KafkaException as error:
            brokers = ", ".join(settings.bootstrap_servers)
            raise TopicUnreadable(f"{settings.main_topic} cannot be read from {brokers} ({_reason(error)})") from error


def _starts(consumer: Consumer, topic: str, since_ms: int, next_offsets: dict[int, int]) -> list[TopicPartition]:
    """Return where to start in each partition that has something new. Raises KafkaException."""
    known = consumer.list_topics(topic, BROKER_SECONDS).topics[topic]
    if known.error:
        raise KafkaException(known.error)
    found = consumer.offsets_for_times([TopicPartition(topic, p, since_ms) for p in known.partitions], BROKER_SECONDS)
    ends = {}
    for tp in found:
        if tp.error:
            raise KafkaException(tp.error)
        _, ends[tp.partition] = consumer.get_watermark_offsets(tp, BROKER_SECONDS)
    if any(offset > ends.get(partition, -1) for partition, offset in next_offsets.items()):
        next_offsets.clear()  # The topic was replaced, and its offsets start again.
    for tp in found:
        first = ends[tp.partition] if tp.offset == OFFSET_END else tp.offset
        next_offsets.setdefault(tp.partition, first)
    return [TopicPartition(topic, p, offset) for p, offset in next_offsets.items() if offset < ends[p]]


def _row(message: Message) -> CountRow | None:
    try:
        count = parse_count(message.value() or b"")
    except InvalidRecord:
        return None
    _, published_ms = message.timestamp()
    batched_ms = count.batched_ms
    if batched_ms is None or abs(batched_ms - published_ms) > MAX_SKEW_MS:
        batched_ms = published_ms
    return CountRow(batched_ms, count.batch_id, count.emoji, count.count, count.events, count.room, count.batch_emojis)


def _reason(error: KafkaException) -> str:
    found = error.args[0]
    return found.str() if isinstance(found, KafkaError) else str(found)
