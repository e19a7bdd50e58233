"""A count that a client took → how long one of its taps was on the way, stage by stage."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable

from emostream.deliver.history import Record
from emostream.metrics.catalogue import TAP_BUCKETS
from emostream.metrics.counters import Metrics


class TapLatency:
    """Fills the histograms of DELIVER from what a record says of its taps. For one thread."""

    def __init__(self, metrics: Metrics, draw: Callable[[], float] = random.random) -> None:
        """`draw` is a number from 0 to 1: which of a count's taps it is, from the oldest to the newest."""
        self._draw = draw
        self._batch, self._route, self._push, self._whole = (
            metrics.histograms[key] for key in ("stage_batch", "stage_route", "stage_push", "tap_to_screen")
        )

    def took(self, record: Record, acknowledged_ms: float) -> None:
        """Observe one tap of a record whose push was acknowledged then (Unix milliseconds).

        A tap drawn at random, because the oldest or the newest would measure the batch instead. The stages are
        never below zero, whatever clocks of several machines say, and their sum is the whole.
        """
        if record.times is None:
            return
        first, last, batched_ms = record.times
        # In seconds, each not before the one before it.
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
        # Histogram.observe four times over, without its calls: every push pays for this.
        batch, route, push, whole = batched - accepted, routed - batched, taken - routed, taken - accepted
        self._batch.counts[bisect_left(TAP_BUCKETS, batch)] += 1
        self._batch.sum += batch
        self._route.counts[bisect_left(TAP_BUCKETS, route)] += 1
        self._route.sum += route
        self._push.counts[bisect_left(TAP_BUCKETS, push)] += 1
        self._push.sum += push
        self._whole.counts[bisect_left(TAP_BUCKETS, whole)] += 1
        self._whole.sum += whole
