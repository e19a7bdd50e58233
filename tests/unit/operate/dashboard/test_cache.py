"""One who asks for all: how often, who waits, and what an error leaves."""

from __future__ import annotations

import itertools
import threading

import pytest

from emostream.operate.dashboard.cache import Latest
from testkit.waiting import wait_until


class Slow:
    """Something to ask that answers 1, 2, 3, ..., the first time at once and then when it is let go."""

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
    fresh, old = Latest(lambda: next(kept), 1000), Latest(lambda: next(never_kept), 0)
    assert [fresh.get() for _ in range(3)] == [0, 0, 0]
    assert [old.get() for _ in range(3)] == [0, 1, 2]


def test_who_comes_while_another_asks_gets_the_answer_before() -> None:
    slow = Slow()
    latest = Latest(slow, 0)
    assert latest.get() == 1
    asking = threading.Thread(target=latest.get)
    asking.start()
    wait_until("somebody is asking", lambda: slow.asked == 2)
    assert latest.get() == 1
    slow.go_on.set()
    asking.join(10)
    assert latest.get() == 3


def test_those_who_come_before_the_first_answer_wait_for_it_and_ask_once() -> None:
    slow = Slow()
    slow.asked = 1  # so that it takes a while
    latest, answers = Latest(slow, 1000), list[int]()
    asking = [threading.Thread(target=lambda: answers.append(latest.get())) for _ in range(5)]
    for one in asking:
        one.start()
    wait_until("somebody is asking", lambda: slow.asked == 2)
    assert not answers
    slow.go_on.set()
    for one in asking:
        one.join(10)
    assert answers == [2] * 5


def test_an_error_is_the_askers_and_the_next_one_asks_again() -> None:
    answers: list[int | ValueError] = [1, ValueError("once")]

    def ask() -> int:
        if isinstance(found := answers.pop(), ValueError):
            raise found
        return found

    latest = Latest(ask, 1000)
    with pytest.raises(ValueError, match="once"):
        latest.get()
    assert latest.get() == 1
