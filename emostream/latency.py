"""A count that a client took → how long one of its taps was on the way, stage by stage."""

from __future__ import annotations

import random
from collections.abc import Callable

from emostream.history import Record
from emostream.meters import Metrics


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
        times = record.times
        if times is None:
            return
        accepted = times.first_accepted_ms + self._draw() * (times.last_accepted_ms - times.first_accepted_ms)
        batched, routed = times.batched_ms, record.timestamp_ms
        batched_ms = batched if batched > accepted else accepted
        routed_ms = routed if routed > batched_ms else batched_ms
        taken_ms = acknowledged_ms if acknowledged_ms > routed_ms else routed_ms
        self._batch.observe((batched_ms - accepted) / 1000)
        self._route.observe((routed_ms - batched_ms) / 1000)
        self._push.observe((taken_ms - routed_ms) / 1000)
        self._whole.observe((taken_ms - accepted) / 1000)
