"""Whatever a main publisher dies of and whenever, each event is counted once: the rule of aggregate.py on a model.

The model keeps what Kafka keeps: the log, the counts of committed transactions, and the offsets committed with them.
A life of the publisher starts at the committed offsets and counts one batch after the other until it crashes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import Row

from emostream.aggregate import resume_at, summarize
from emostream.settings import load

SETTINGS = load(["EVENTS_PER_EMOJI=1"], environ={})
CRASHES = ("before the transaction", "inside the transaction", "after the commit")


@dataclass
class Kafka:
    """Three partitions of emojis, the counts that were committed, and the next offset per partition."""

    log: dict[int, list[str]]
    committed: dict[int, int] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)


def live(kafka: Kafka, batch_sizes: list[int], crash: str) -> None:
    """One life: a batch of each size, the last of which ends in a crash."""
    position = {tp: resume_at(kafka.committed.get(tp), 0, len(events)) for tp, events in kafka.log.items()}
    for number, size in enumerate(batch_sizes):
        crashes = number == len(batch_sizes) - 1
        rows = [
            Row(emoji=emoji, partition=tp, events=events, first_offset=position[tp], last_offset=last,
                first_accepted_ms=0, last_accepted_ms=0)
            for tp, log in kafka.log.items()
            for emoji, events, last in groups(log, position[tp], size)
        ]  # fmt: skip
        batch = summarize(rows, number, 0, SETTINGS)
        if crashes and crash != "after the commit":
            return  # what was not committed is as if it had never been
        kafka.counted += Counter({count.emoji: count.events for count in batch.counts})
        kafka.committed |= batch.next_offsets
        position |= batch.next_offsets
        if crashes:
            return


def groups(log: list[str], start: int, size: int) -> list[tuple[str, int, int]]:
    """`(emoji, events, last offset)` of up to `size` records from `start` on, as count_events gives them."""
    found: dict[str, tuple[int, int]] = {}
    for offset, emoji in enumerate(log[start : start + size], start):
        found[emoji] = (found.get(emoji, (0, 0))[0] + 1, offset)
    return [(emoji, events, last) for emoji, (events, last) in found.items()]


emojis = st.lists(st.sampled_from("😊😂🔥"), max_size=30)
lives = st.lists(st.tuples(st.lists(st.integers(0, 10), min_size=1, max_size=5), st.sampled_from(CRASHES)), max_size=8)


@given(st.tuples(emojis, emojis, emojis), lives)
def test_every_event_is_counted_once_under_any_interleaving_of_crashes(
    partitions: tuple[list[str], list[str], list[str]], crashing_lives: list[tuple[list[int], str]]
) -> None:
    kafka = Kafka(dict(enumerate(partitions)))
    for batch_sizes, crash in crashing_lives:
        live(kafka, batch_sizes, crash)
    live(kafka, [30, 1], "before the transaction")  # a last life that gets to the end of the log
    assert kafka.counted == Counter(emoji for log in partitions for emoji in log)


@given(st.one_of(st.none(), st.integers(0, 100)), st.integers(0, 100), st.integers(0, 100))
def test_a_start_never_skips_an_event_that_is_there_and_was_not_counted(
    committed: int | None, low: int, more: int
) -> None:
    oldest, newest = low, low + more
    start = resume_at(committed, oldest, newest)
    assert oldest <= start <= newest
    assert start == committed or committed is None or not oldest <= committed <= newest
