"""Whatever a main publisher dies of and whenever, each event is counted once: a model of the main publisher's rule.

The model keeps what Kafka keeps: the log, the counts of committed transactions, and the offsets committed with them.
A life of the publisher starts at the committed offsets and counts one batch after the other until it crashes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import Row

from emostream.aggregate.counting import summarize
from emostream.aggregate.publisher import resume_at
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
            Row(emoji=emoji, events=sum(e for e, _ in found.values()), first_accepted_ms=0, last_accepted_ms=0,
                first_offsets=[None] * 3, last_offsets=[found[tp][1] if tp in found else None for tp in range(3)])
            for emoji, found in groups(kafka.log, position, size).items()
        ]  # fmt: skip
        batch = summarize(rows, None, number, 0, SETTINGS)
        if crashes and crash != "after the commit":
            return  # what was not committed is as if it had never been
        kafka.counted += Counter({count.emoji: count.events for count in batch.counts})
        kafka.committed |= batch.next_offsets
        position |= batch.next_offsets
        if crashes:
            return


def groups(logs: dict[int, list[str]], position: dict[int, int], size: int) -> dict[str, dict[int, tuple[int, int]]]:
    """Emoji → partition → `(events, last offset)` of up to `size` records of each partition from `position` on."""
    found: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)
    for tp, log in logs.items():
        for offset, emoji in enumerate(log[position[tp] : position[tp] + size], position[tp]):
            found[emoji][tp] = (found[emoji].get(tp, (0, 0))[0] + 1, offset)
    return found


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
