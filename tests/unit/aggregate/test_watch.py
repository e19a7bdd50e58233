"""What Spark says of a query → whether it does its work. The clock is an argument."""

from __future__ import annotations

import pytest

from emostream.aggregate.watch import QueryWatch, SparkGone, Stalled

BATCH_SECONDS = 2.0
NEXT, NO_DATA, PROCESSING = "Waiting for next trigger", "Waiting for data to arrive", "Processing new data"


@pytest.fixture
def watch() -> QueryWatch:
    """A watch on a query that was started at 100 s and has found nothing to do since."""
    found = QueryWatch(BATCH_SECONDS)
    found.begin(100.0)
    assert found.trouble(101, 0, None, False, NO_DATA) is None
    return found


@pytest.mark.parametrize(("active", "message"), [(True, "Initializing sources"), (True, PROCESSING), (False, "")])
def test_a_query_is_not_ready_before_its_first_trigger_has_ended(active: bool, message: str) -> None:
    watch = QueryWatch(BATCH_SECONDS)
    watch.begin(100.0)
    assert watch.trouble(101, 5, None, active, message) == "the query is starting"
    assert watch.trouble(103, 5, 0, False, NEXT) is None


def test_a_query_without_events_is_ready_for_ever(watch: QueryWatch) -> None:
    assert all(watch.trouble(now, 0, None, False, NO_DATA) is None for now in range(102, 10_000, 7))


def test_a_query_under_load_is_ready_while_its_batches_end(watch: QueryWatch) -> None:
    assert all(watch.trouble(now, 1_000, now // 2, False, NEXT) is None for now in range(102, 1_000))


@pytest.mark.parametrize("message", [NEXT, NO_DATA])
def test_a_trigger_that_does_not_fire_stalls_the_query_within_10_s(watch: QueryWatch, message: str) -> None:
    assert all(watch.trouble(now, 1, None, False, message) is None for now in range(102, 108))
    with pytest.raises(Stalled, match="no micro-batch for 7 s, although 1 records wait"):
        watch.trouble(108, 1, None, False, message)


def test_a_long_micro_batch_is_not_ready_and_a_hung_one_stalls_the_query(watch: QueryWatch) -> None:
    assert watch.trouble(110, 9, None, True, PROCESSING) is None
    assert watch.trouble(114, 9, None, True, PROCESSING) == (
        "no micro-batch for 13 s: the micro-batch is not finished"
    )
    with pytest.raises(Stalled):
        watch.trouble(162, 9, None, True, PROCESSING)
    watch.begin(163)
    assert watch.trouble(164, 0, 0, False, NEXT) is None


def test_a_broker_that_does_not_answer_makes_the_query_not_ready_and_does_not_stall_it(watch: QueryWatch) -> None:
    assert watch.trouble(107, None, None, False, NO_DATA) is None
    assert watch.trouble(108, None, None, False, NO_DATA) == "no micro-batch for 7 s: the broker does not answer"
    assert watch.trouble(900, None, None, False, NO_DATA) is not None
    assert watch.trouble(901, 0, None, False, NO_DATA) is None


def test_the_pause_after_a_failure_grows_until_a_query_works(watch: QueryWatch) -> None:
    assert [watch.pause_seconds() for _ in range(7)] == [0, 1, 2, 4, 8, 10, 10]
    watch.begin(200)
    assert watch.trouble(201, 3, None, True, PROCESSING)
    assert watch.pause_seconds() == 10
    assert watch.trouble(202, 3, 0, False, NEXT) is None
    assert watch.pause_seconds() == 0


def test_without_executors_it_is_not_ready_at_once_and_goes_on_when_they_are_back(watch: QueryWatch) -> None:
    assert "no executor, for 0 s" in watch.without_executors(103)
    assert "no executor, for 900 s" in watch.without_executors(1003)
    assert watch.trouble(1004, 9, None, True, PROCESSING) is None


def test_a_standalone_master_that_gives_no_executor_for_a_minute_needs_a_new_process() -> None:
    watch = QueryWatch(BATCH_SECONDS, standalone=True)
    watch.begin(100.0)
    watch.without_executors(103)
    with pytest.raises(SparkGone, match="no executor for 61 s"):
        watch.without_executors(164)
