"""emostream.deliver.push.latency: where the time of a delivered tap went."""

from __future__ import annotations

import random

import pytest

from emostream.deliver.history import Record
from emostream.deliver.push.latency import TapLatency
from emostream.metrics.catalogue import DELIVER
from emostream.metrics.counters import Metrics
from emostream.process import Log
from emostream.records import Count

STAGES = ("stage_batch", "stage_route", "stage_push")


def record(routed_ms: int, first_ms: int | None, last_ms: int | None, batched_ms: int | None) -> Record:
    count = Count("x", 1, first_accepted_ms=first_ms, last_accepted_ms=last_ms, batched_ms=batched_ms)
    return Record(0, 0, routed_ms, b"", count)


def test_the_stages_of_a_tap_are_measured_and_their_sum_is_the_whole() -> None:
    metrics = Metrics(Log("test"), DELIVER)
    TapLatency(metrics, draw=lambda: 0.25).took(record(4_500, 1_000, 2_000, 4_000), 4_600.0)
    found = {key: metrics.histograms[key].sum for key in (*STAGES, "tap_to_screen")}
    assert found == pytest.approx({"stage_batch": 2.75, "stage_route": 0.5, "stage_push": 0.1, "tap_to_screen": 3.35})


def test_the_measured_tap_is_drawn_at_random_between_the_oldest_and_the_newest() -> None:
    metrics = Metrics(Log("test"), DELIVER)
    latency = TapLatency(metrics, draw=random.Random(8).random)
    for _ in range(10_000):
        latency.took(record(2_000, 0, 2_000, 2_000), 2_000.0)
    bounds = dict(metrics.histograms["tap_to_screen"].buckets())
    for seconds in (0.5, 1.0, 1.5):
        assert bounds[str(seconds)] == pytest.approx(10_000 * seconds / 2, abs=300)


@pytest.mark.parametrize(
    ("routed_ms", "batched_ms"), [(900, 950), (1_200, 800), (2_500, 1_100)], ids=["both", "batched", "routed"]
)
def test_when_clocks_disagree_no_stage_is_negative_and_the_sum_stays_the_same(routed_ms: int, batched_ms: int) -> None:
    metrics = Metrics(Log("test"), DELIVER)
    TapLatency(metrics).took(record(routed_ms, 1_000, 1_000, batched_ms), 2_000.0)
    stages = [metrics.histograms[key].sum for key in STAGES]
    assert min(stages) >= 0
    assert sum(stages) == pytest.approx(metrics.histograms["tap_to_screen"].sum)


def test_a_record_without_its_times_is_not_measured() -> None:
    metrics = Metrics(Log("test"), DELIVER)
    TapLatency(metrics).took(record(1_000, 900, 950, None), 2_000.0)
    assert [metrics.histograms[key].count for key in (*STAGES, "tap_to_screen")] == [0] * 4
