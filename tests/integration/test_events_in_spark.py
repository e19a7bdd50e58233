"""Spark's expressions agree with the app on what an event is: the table of cases, and random events.

Each test of this file is about aggregate/counting.py. They share one Spark, and no broker.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeAlias

import pytest
from pyspark.sql import SparkSession

from emostream.aggregate.counting import read_records
from emostream.aggregate.spark import make_session
from emostream.records import InvalidRecord, encode, parse_merged_request
from emostream.settings import load
from tests.event_cases import EVENT_CASES, TIME, EventCase, compact, record

# Room, emoji and user, None if it is not an event, and its taps.
Parsed: TypeAlias = "tuple[str | None, str | None, str | None, int]"
Parse: TypeAlias = Callable[["list[bytes | None]"], "list[Parsed]"]
RANDOM_EVENTS = 4_000
ROOMS = ["", "", "final", "A-b_c.d~9", "5", "r" * 64]
USERS = ["u", "user-17", "a b", "ü", "😊", '"', "a\\b", "{5"]
PIECES = [
    *"ax5 \t\n\"'\\/{}[]:,",
    *"\x00\x1b\x7f\x85\u00a0\u1680\u2028\u200b\u200d\u202e\u3000\ufeff\ufffd",
    "😊",
    "❤️",
    "👩‍🚀",
]


def parse_with_spark(data_dir: str, values: list[bytes | None]) -> list[Parsed]:
    """What read_records says of each record, in the process of `spark`."""
    rows = list(zip(values, range(len(values)), strict=True))
    records = session(data_dir).createDataFrame(rows, "value binary, offset long")
    records = records.selectExpr("value", "0 AS partition", "offset", "current_timestamp() AS timestamp")
    found = read_records(records, with_users=True)
    parsed = sorted(found.collect(), key=lambda row: row["offset"])
    return [(row["room"], row["emoji"], row["user"], row["events"]) for row in parsed]


@functools.cache
def session(data_dir: str) -> SparkSession:
    return make_session(load([f"DATA_DIR={data_dir}"], environ={}))


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parse]:
    """Spark in a process of its own, whose JVM ends with it."""
    data_dir: Path = tmp_path_factory.mktemp("spark")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield lambda values: process.submit(parse_with_spark, str(data_dir), values).result(240)


@pytest.fixture(scope="module")
def cases(spark: Parse) -> dict[str, tuple[Parsed, Parsed]]:
    """What Spark says of each case, as it stands in the table and without spaces."""
    values = [value for case in EVENT_CASES for value in (case.value, compact(case.value))]
    parsed = iter(spark(values))
    return {case.name: (next(parsed), next(parsed)) for case in EVENT_CASES}


@pytest.mark.parametrize("case", EVENT_CASES, ids=lambda case: case.name)
def test_spark_takes_the_events_of_the_table_and_skips_the_rest(
    case: EventCase, cases: dict[str, tuple[Parsed, Parsed]]
) -> None:
    room = case.room if case.emoji else None
    found = [(room, emoji, taps) for room, emoji, _, taps in cases[case.name]]
    assert found == [(room, case.emoji, case.taps)] * 2


def test_spark_counts_what_the_app_has_accepted_and_skips_what_it_has_refused(spark: Parse) -> None:
    generator = random.Random(1)
    records: list[bytes | None] = []
    expected: list[Parsed] = []
    for _ in range(RANDOM_EVENTS):
        emoji = "".join(generator.choices(PIECES, k=generator.choice((0, 1, 1, 1, 2, 2, 3, 20, 40))))
        taps = generator.choice((1, 1, 1, 2, 999, 1000, 1001, 0, -1))
        room = "".join(generator.choices(PIECES, k=2)) if generator.random() < 0.1 else generator.choice(ROOMS)
        user, at = generator.choice(USERS), json.loads(TIME)
        asked = {"user_id": user, "emoji_type": emoji, "timestamp": at, "room": room, "count": taps}
        try:
            event = parse_merged_request(json.dumps(asked).encode())
        except InvalidRecord:
            escaped = generator.random() < 0.5
            written = (json.dumps(text, ensure_ascii=escaped) for text in (emoji, room))
            records.append(record(next(written), room=next(written), count=str(taps)))
            expected.append((None, None, None, 1))
        else:
            records.append(encode(event))
            expected.append((event.room, event.emoji, event.user_id, event.count))
    assert 0.2 < sum(emoji is not None for _, emoji, _, _ in expected) / RANDOM_EVENTS < 0.8
    wrong = [
        (value, said, wanted)
        for value, said, wanted in zip(records, spark(records), expected, strict=True)
        if said != wanted
    ]
    assert wrong == []
