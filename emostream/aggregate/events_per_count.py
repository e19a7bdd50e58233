"""How many events make a count."""

from __future__ import annotations


def emoji_count(events: int, events_per_emoji: int, rounding: str) -> int:
    """Return the `count` of an emoji with at least one event.

    It is ceil(events / events_per_emoji), or with the rounding `floor` max(1, events // events_per_emoji).
    """
    if rounding == "floor":
        return max(1, events // events_per_emoji)
    return -(-events // events_per_emoji)
