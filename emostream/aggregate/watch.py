"""What Spark says of a query, and the lag → whether the query does its work."""

from __future__ import annotations

# A micro-batch that is not due yet: Spark has finished one, or has found nothing to do.
WAITING = ("Waiting for next trigger", "Waiting for data to arrive")
GRACE_SECONDS = 4.0  # a micro-batch may start this late
SLOW_SECONDS = 10.0  # a micro-batch that takes longer makes the process not ready
HUNG_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 10.0
# A standalone cluster may leave us without an executor for this long. A master that was started anew does not know us,
# and gives executors only to a process that asks again.
FORSAKEN_SECONDS = 60.0


class Stalled(Exception):
    """A query does nothing although it should. The text says how long."""


class SparkGone(Exception):
    """Spark does nothing for this process any more. Only a new process helps."""


class QueryWatch:
    """Watches one query after the other. `now` is of the monotonic clock, because the other one can be set.

    Spark starts micro-batches by the other one: after a step back it starts none until the old time has come again.
    """

    def __init__(self, batch_seconds: float, standalone: bool = False) -> None:
        """`standalone`: SPARK_MASTER is a master of Spark's own, and neither YARN, nor Kubernetes, nor this machine."""
        self._batch_seconds = batch_seconds
        self._standalone = standalone
        self._forsaken_at: float | None = None  # since when there is no executor
        self._failures = 0  # since a query has worked
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """A query has been started."""
        self._started = False
        self._worked_at = now
        self._batch: int | None = None

    def without_executors(self, now: float) -> str:
        """Return why the query does not do its work, if Spark has no executor. Raises SparkGone."""
        if self._forsaken_at is None:
            self._forsaken_at = now
        self._worked_at = now  # a new query would not have one either
        seconds = now - self._forsaken_at
        if self._standalone and seconds > FORSAKEN_SECONDS:
            raise SparkGone(f"Spark has had no executor for {seconds:.0f} s")
        return f"Spark has no executor, for {seconds:.0f} s now: are its workers running, and has one of them room?"

    def trouble(self, now: float, lag: int | None, batch: int | None, active: bool, message: str) -> str | None:
        """Return why the query does not do its work, or None if it does. Raises Stalled if only a new query helps.

        `lag` is None if the broker does not answer. `batch` is the last finished micro-batch; `active` and `message`
        are Spark's status of the query.
        """
        self._forsaken_at = None
        waiting = not active and message in WAITING
        self._started = self._started or batch is not None or waiting
        if batch != self._batch or (self._started and lag == 0):
            self._batch, self._worked_at = batch, now
        quiet_seconds = now - self._worked_at
        if lag is not None and quiet_seconds > (self._batch_seconds + GRACE_SECONDS if waiting else HUNG_SECONDS):
            raise Stalled(f"no micro-batch for {quiet_seconds:.0f} s, although {lag} records wait")
        if not self._started:
            return "the query is starting"
        if quiet_seconds > self._batch_seconds + (GRACE_SECONDS if lag is None else SLOW_SECONDS):
            what = "the broker does not answer" if lag is None else "the micro-batch is not finished"
            return f"no micro-batch for {quiet_seconds:.0f} s: {what}"
        self._failures = 0
        return None

    def pause_seconds(self) -> float:
        """Return how long to wait before the next query, after one has failed: at first not at all, then longer."""
        self._failures += 1
        return min(2.0 ** (self._failures - 2), LONGEST_PAUSE_SECONDS) if self._failures > 1 else 0.0
