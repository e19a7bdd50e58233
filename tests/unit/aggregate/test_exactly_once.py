"""Whatever a main publisher dies of and whenever, each event is counted once: a model of the main publisher's rule.

The model keeps what Kafka keeps: the log, the counts of committed transactions, and the offsets committed with them.
A life of the publisher starts at the committed offsets and counts one batch after the other until it crashes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import Row

from emostream.aggregate.counting import summarize
from emostream.consumers import resume_at
from emostream.settings import load

SETTINGS = load(["EVENTS_PER_EMOJI=1"], environ={})
CRASHES = ("before the transaction", "inside the transaction", "after the commit")


@dataclass
class Kafka:
    """Partitions of emojis, the counts that were committed, and the next offset per partition."""

    log: dict[int, list[str]]
    committed: dict[int, int] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)


def live(kafka: Kafka, batch_sizes: list[int], crash: str) -> None:
    """One life: a batch of each size, the last of which ends in a crash."""
    position = {tp: resume_at(kafka.committed.get(tp), 0, len(events)) for tp, events in kafka.log.items()}
    for number, size in enumerate(batch_sizes):
        crashes = number == len(batch_sizes) - 1
        # What Spark does: it plans up to where the batch reads, then reads so far.
        planned = {tp: min(position.get(tp, 0) + size, len(events)) for tp, events in kafka.log.items()}
        read = Counter(emoji for tp, end in planned.items() for emoji in kafka.log[tp][position.get(tp, 0) : end])
        rows = [
            Row(room="", emoji=emoji, events=events, capped=0, first_accepted_ms=0, last_accepted_ms=0)
            for emoji, events in read.items()
        ]
        batch = summarize(rows, None, number, 0, SETTINGS)
        if crashes and crash != "after the commit":
            return  # what was not committed is as if it had never been
        kafka.counted += Counter({count.emoji: count.events for count in batch.counts})
        kafka.committed |= planned
        position |= planned
        if crashes:
            return


emojis = st.lists(st.sampled_from("😊😂🔥"), max_size=30)
batches = st.lists(st.integers(0, 10), min_size=1, max_size=5)
lives = st.lists(st.tuples(batches, st.sampled_from(CRASHES), st.integers(0, 2)), max_size=8)


@given(st.lists(emojis, min_size=1, max_size=9), lives)
def test_every_event_is_counted_once_under_any_interleaving_of_crashes_and_new_partitions(
    partitions: list[list[str]], crashing_lives: list[tuple[list[int], str, int]]
) -> None:
    kafka = Kafka({0: partitions[0]})
    for batch_sizes, crash, more in crashing_lives:
        live(kafka, batch_sizes, crash)
        kafka.log |= {number: partitions[number] for number in range(min(len(kafka.log) + more, len(partitions)))}
    kafka.log = dict(enumerate(partitions))
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
