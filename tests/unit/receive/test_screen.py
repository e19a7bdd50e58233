"""emostream.receive.screen: what the viewer sees."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emostream.process import StopFlag
from emostream.receive import screen as screen_module
from emostream.receive.screen import MAX_PRINTED, Screen, flow
from emostream.records import InvalidRecord, parse_count
from testkit.strategies import any_text


@pytest.mark.parametrize(
    ("count", "printed"), [(1, "😊"), (3, "😊😊😊"), (50, "😊" * 50), (51, " 😊×51 "), (10**9, " 😊×1000000000 ")]
)
def test_an_emoji_is_printed_count_times_until_that_would_flood(count: int, printed: str) -> None:
    assert flow("😊", count) == printed


def shown(*records: tuple[str | None, str, int]) -> str:
    out = io.StringIO()
    screen = Screen(out, StopFlag())
    for key, emoji, count in records:
        screen.show(key, emoji, count)
    return out.getvalue()


def test_a_repeat_is_shown_once() -> None:
    one, two = ("t/0/1", "😊", 3), ("t/0/2", "😊", 3)
    assert shown(one, two, one, two) == "😊" * 6


def test_a_record_without_a_key_is_always_new() -> None:
    assert shown((None, "😊", 3), (None, "😊", 3)) == "😊" * 6


def test_a_known_key_with_another_value_is_new() -> None:
    assert shown(("t/0/1", "😊", 3), ("t/0/1", "x", 1)) == "😊😊😊x"


def test_the_screen_remembers_only_so_many_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen_module, "REMEMBERED_RECORDS", 2)
    one, two, three = ((f"t/0/{number}", str(number), 1) for number in (1, 2, 3))
    assert shown(one, two, three, two, three, one) == "1231"


@given(any_text, st.integers())
def test_nothing_that_controls_a_terminal_is_printed(emoji: str, count: int) -> None:
    try:
        counted = parse_count(json.dumps({"emoji": emoji, "count": count}).encode())
        printed = shown((None, counted.emoji, counted.count))
    except InvalidRecord:
        return
    assert not [c for c in printed if c < " " or "\x7f" <= c <= "\x9f" or c in "\u2028\u2029\u202e\u2066"]
    assert len(printed) <= 64 * MAX_PRINTED
