"""How many events make a count: what the contract says, and what holds for any number of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emostream.aggregate.events_per_count import emoji_count


@pytest.mark.parametrize(
    ("events", "ceil", "floor"),
    [
        (1, 1, 1),
        (999, 1, 1),
        (1000, 1, 1),
        (1001, 2, 1),
        (1999, 2, 1),
        (2000, 2, 2),
        (3785, 4, 3),
        (10**9, 10**6, 10**6),
    ],
)
def test_a_count_is_what_the_contract_says(events: int, ceil: int, floor: int) -> None:
    assert (emoji_count(events, 1000, "ceil"), emoji_count(events, 1000, "floor")) == (ceil, floor)


@given(st.integers(1, 10**18), st.integers(1, 10**6))
def test_a_count_is_at_least_1_and_within_one_of_the_exact_share(events: int, events_per_emoji: int) -> None:
    up = emoji_count(events, events_per_emoji, "ceil")
    down = emoji_count(events, events_per_emoji, "floor")
    assert (up - 1) * events_per_emoji < events <= up * events_per_emoji
    assert down == 1 or down * events_per_emoji <= events < (down + 1) * events_per_emoji
    assert min(up, down) >= 1
