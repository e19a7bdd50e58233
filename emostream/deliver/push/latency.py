"""A count that a client took → how long one of its taps was on the way, stage by stage."""

from __future__ import annotations

import random
from collections.abc import Callable

from emostream.deliver.history import Record
from emostream.metrics.counters import Metrics


class TapLatency:
    """Fills the latency histograms of DELIVER from the times in each count. For one thread."""

    def __init__(self, metrics: Metrics, draw: Callable[[], float] = random.random) -> None:
        """`draw` returns a number from 0 to 1 and so picks one of a count's taps, between the oldest and the newest."""
        self._draw = draw
        self._batch, self._route, self._push, self._whole = (
            metrics.histograms[key] for key in ("stage_batch", "stage_route", "stage_push", "tap_to_screen")
        )

    def took(self, record: Record, acknowledged_ms: float) -> None:
        """Observe one tap of a record whose push was acknowledged at `acknowledged_ms` (Unix milliseconds).

        The tap is drawn at random: the oldest or the newest would measure the length of the micro-batch instead.
        No stage is negative, even when the clocks of several machines disagree, and the stages add up to the whole.
        """
        count = record.count
        first, last, batched_ms = count.first_accepted_ms, count.last_accepted_ms, count.batched_ms
        if first is None or last is None or batched_ms is None:
            return
        # In seconds. Each time is moved forward to the one before it where it is earlier.
        accepted = (first + self._draw() * (last - first)) / 1000
        batched = max(accepted, batched_ms / 1000)
        routed = max(batched, record.timestamp_ms / 1000)
        taken = max(routed, acknowledged_ms / 1000)
        self._batch.observe(batched - accepted)
        self._route.observe(routed - batched)
        self._push.observe(taken - routed)
        self._whole.observe(taken - accepted)
