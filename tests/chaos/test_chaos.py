"""A short round of what tests/chaos can do for as long as one likes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.settings import environment_for
from testkit.system import running_system
from tests.chaos.broker_away import take_away
from tests.chaos.ledger import CHAOS_SETTINGS, Chaos, Report, chaos_settings

ROOMS = 4


@pytest.fixture
def one_broker(tmp_path: Path) -> Iterator[dict[str, str]]:
    environment = environment_for(tmp_path, **chaos_settings(ROOMS))
    with running_system(environment):
        yield environment


@pytest.fixture
def three_brokers(tmp_path: Path) -> Iterator[dict[str, str]]:
    environment = environment_for(tmp_path, **CHAOS_SETTINGS, BROKERS=3)
    with running_system(environment):
        yield environment


def assert_balanced(report: Report) -> None:
    assert report.answered_200 > 0
    assert report.balanced(), str(report)


def test_no_event_is_lost_or_doubled_while_processes_are_killed_and_stopped(one_broker: dict[str, str]) -> None:
    report = Chaos(one_broker, rate=50, seed=1).run(kills=8)
    print(report)
    assert_balanced(report)
    # On the same system, because a start takes longer than these kills.
    of_each_kind = ["main_publisher", "cluster_publisher_1", "subscriber_1_1", "subscriber_2_1"]
    report = Chaos(one_broker, rate=50, seed=2, rooms=ROOMS).run(kills=0, each_of=of_each_kind)
    print(report)
    assert_balanced(report)


def test_what_lingers_in_the_app_is_not_lost_at_sigterm(tmp_path: Path) -> None:
    environment = environment_for(tmp_path, **CHAOS_SETTINGS | {"ACK": "buffer"})
    with running_system(environment):
        report = Chaos(environment, rate=200, seed=1).run(kills=0, each_of=["app"] * 3)
    print(report)
    assert report.terms["app"] == 3
    assert_balanced(report)


def test_no_event_is_lost_or_doubled_while_each_of_three_brokers_is_killed(three_brokers: dict[str, str]) -> None:
    report = Chaos(three_brokers, rate=50, seed=1).run(kills=3, each_of=["kafka_1", "kafka_2", "kafka_3"])
    print(report)
    assert_balanced(report)


def test_events_wait_in_bounded_memory_while_the_broker_is_stopped(tmp_path: Path) -> None:
    environment = environment_for(tmp_path, MAX_BUFFERED_EVENTS=2000)
    with running_system(environment):
        outcome = take_away(environment, "stop", seconds=15, rate=500)
    assert outcome.counted == outcome.accepted
    assert set(outcome.refused) == {503}
    assert outcome.retry_after
