"""What all push clients of a subscriber share, and how far one of them has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emostream.deliver.push.allowed_networks import AllowedNetworks


@dataclass(frozen=True, slots=True)
class PushPolicy:
    """Who pushes, where pushes may go, when counts are merged, and when a record or a client is given up.

    `merge_after_seconds`: a count that has waited this long for its client is merged with all that wait with it.
    `max_age_seconds`: a single count that is older is not sent any more. Merged counts are always sent.
    `evict_after_seconds`: a client that fails for this long loses its slot.
    """

    cluster_topic: str
    subscriber: int
    merge_after_seconds: float
    max_age_seconds: float
    evict_after_seconds: float
    networks: AllowedNetworks
    secret: bytes = b""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a client has come: per partition, the offset after the last record that is done with.

    `merging`: the records from there up to these offsets are being sent as merged counts; some may have arrived.
    """

    next_offsets: Mapping[int, int]
    merging: Mapping[int, int] | None = None
