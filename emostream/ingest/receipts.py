"""ACK=broker: records on their way to the broker → the answers that wait for them, many at a time.

A thread of the producer learns that a record has arrived, and the event loop sends the answer. A future of threads, a
task and a timer for each tap cost five times what the tap itself does. Here the loop is woken once for all records of
a request to the broker, and has one timer.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from emostream.http.messages import Answer
from emostream.ingest import refusals


class Receipt:
    """Knows when the broker has every record that was sent with it."""

    __slots__ = ("_lock", "_missing", "_when_complete")

    def __init__(self, when_complete: Callable[[Receipt], None]) -> None:
        """`when_complete` is called once, in the thread that adds the last number."""
        self._when_complete = when_complete
        self._lock = threading.Lock()
        self._missing = 1  # this one until no more records are expected

    def add(self, records: int) -> None:
        """Expect this many more records to reach the broker; fewer, if the number is negative."""
        with self._lock:
            self._missing += records
            complete = self._missing == 0
        if complete:
            self._when_complete(self)

    def close(self) -> None:
        """Expect no more records."""
        self.add(-1)


@dataclass(slots=True)
class _Waiting:
    answer: Answer
    too_late: Callable[[], Answer]
    deadline: float
    answered: asyncio.Future[Answer]


class Receipts:
    """The answers of one event loop that wait for receipts."""

    def __init__(self) -> None:
        self._waiting: dict[Receipt, _Waiting] = {}  # the one that waits for longest is first
        self._complete: deque[Receipt] = deque()
        self._woken = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def new(self) -> Receipt:
        """Return a receipt to send records with; `wait` must follow, in the loop."""
        self._loop = self._loop or asyncio.get_running_loop()
        return Receipt(self._note)

    def wait(self, receipt: Receipt, answer: Answer, too_late: Callable[[], Answer]) -> asyncio.Future[Answer]:
        """Close the receipt. Return a future of `answer`, or of what `too_late` returns after ACK_SECONDS."""
        loop = asyncio.get_running_loop()
        deadline, answered = loop.time() + refusals.ACK_SECONDS, loop.create_future()
        self._waiting[receipt] = _Waiting(answer, too_late, deadline, answered)
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._give_up)
        receipt.close()
        return answered

    def _note(self, receipt: Receipt) -> None:
        self._complete.append(receipt)
        if not self._woken and self._loop:
            self._woken = True
            with suppress(RuntimeError):  # the loop has ended, so nobody waits
                self._loop.call_soon_threadsafe(self._answer_complete)

    def _answer_complete(self) -> None:
        self._woken = False  # before the receipts are read: what comes meanwhile wakes the loop again
        while self._complete:
            if waiting := self._waiting.pop(self._complete.popleft(), None):
                waiting.answered.set_result(waiting.answer)

    def _give_up(self) -> None:
        now, self._timer = asyncio.get_running_loop().time(), None
        for receipt, waiting in list(self._waiting.items()):
            if waiting.deadline > now:
                self._timer = asyncio.get_running_loop().call_at(waiting.deadline, self._give_up)
                break
            del self._waiting[receipt]
            waiting.answered.set_result(waiting.too_late())
