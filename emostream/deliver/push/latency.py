"""A count that a client took → how long one of its taps was on the way, stage by stage."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable

from emostream.deliver.history import Record
from emostream.metrics.catalogue import TAP_BUCKETS
from emostream.metrics.counters import Metrics


class TapLatency:
    """Fills the latency histograms of DELIVER from the times in each count. For one thread."""

    def __init__(self, metrics: Metrics, draw: Callable[[], float] = random.random) -> None:
        """`draw` returns a number from 0 to 1: 0 picks the oldest tap of a count, 1 the newest."""
        self._draw = draw
        self._batch, self._route, self._push, self._whole = (
            metrics.histograms[key] for key in ("stage_batch", "stage_route", "stage_push", "tap_to_screen")
        )

    def took(self, record: Record, acknowledged_ms: float) -> None:
        """Observe one tap of a record that the client acknowledged at `acknowledged_ms` (Unix milliseconds).

        The tap is drawn at random, because the oldest or the newest would measure the length of the micro-batch.
        No stage is negative, even if the clocks of several machines disagree. The stages add up to the whole.
        """
        count = record.count
        first, last, batched_ms = count.first_accepted_ms, count.last_accepted_ms, count.batched_ms
        if first is None or last is None or batched_ms is None:
            return
        # In seconds. A time that is earlier than the one before it becomes equal to that one.
        accepted = (first + self._draw() * (last - first)) / 1000
        batched = batched_ms / 1000
        if batched < accepted:
            batched = accepted
        routed = record.timestamp_ms / 1000
        if routed < batched:
            routed = batched
        taken = acknowledged_ms / 1000
        if taken < routed:
            taken = routed
        # This does the work of Histogram.observe, without the cost of four calls for each push.
        batch, route, push, whole = batched - accepted, routed - batched, taken - routed, taken - accepted
        self._batch.counts[bisect_left(TAP_BUCKETS, batch)] += 1
        self._batch.sum += batch
        self._route.counts[bisect_left(TAP_BUCKETS, route)] += 1
        self._route.sum += route
        self._push.counts[bisect_left(TAP_BUCKETS, push)] += 1
        self._push.sum += push
        self._whole.counts[bisect_left(TAP_BUCKETS, whole)] += 1
        self._whole.sum += whole
