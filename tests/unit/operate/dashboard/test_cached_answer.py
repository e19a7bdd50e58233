"""emostream.operate.dashboard.cached_answer: how often it asks, who waits, and what an error leaves behind."""

from __future__ import annotations

import itertools
import threading

import pytest

from emostream.operate.dashboard.cached_answer import CachedAnswer
from testkit.waiting import wait_until


class SlowQuestion:
    """Answers 1, 2, 3, ...: the first time at once, later only when the test lets it."""

    def __init__(self) -> None:
        self.asked = 0
        self.go_on = threading.Event()

    def __call__(self) -> int:
        self.asked += 1
        if self.asked > 1:
            assert self.go_on.wait(10)
        return self.asked


def test_a_fresh_answer_is_given_again_and_an_old_one_is_not() -> None:
    kept, never_kept = itertools.count(), itertools.count()
    fresh, old = CachedAnswer(lambda: next(kept), 1000), CachedAnswer(lambda: next(never_kept), 0)
    assert [fresh.get() for _ in range(3)] == [0, 0, 0]
    assert [old.get() for _ in range(3)] == [0, 1, 2]


def test_during_a_refresh_the_others_get_the_cached_answer() -> None:
    slow = SlowQuestion()
    cached = CachedAnswer(slow, 0)
    assert cached.get() == 1
    refreshing = threading.Thread(target=cached.get)
    refreshing.start()
    wait_until("somebody refreshes", lambda: slow.asked == 2)
    assert cached.get() == 1
    slow.go_on.set()
    refreshing.join(10)
    assert cached.get() == 3


def test_callers_before_the_first_answer_wait_for_it_and_ask_once() -> None:
    slow = SlowQuestion()
    slow.asked = 1  # so that the first answer takes a while
    cached, answers = CachedAnswer(slow, 1000), list[int]()
    callers = [threading.Thread(target=lambda: answers.append(cached.get())) for _ in range(5)]
    for caller in callers:
        caller.start()
    wait_until("somebody asks", lambda: slow.asked == 2)
    assert not answers
    slow.go_on.set()
    for caller in callers:
        caller.join(10)
    assert answers == [2] * 5


def test_an_error_goes_to_the_caller_who_refreshes_and_the_next_one_asks_again() -> None:
    answers: list[int | ValueError] = [1, ValueError("once")]

    def ask() -> int:
        if isinstance(found := answers.pop(), ValueError):
            raise found
        return found

    cached = CachedAnswer(ask, 1000)
    with pytest.raises(ValueError, match="once"):
        cached.get()
    assert cached.get() == 1
