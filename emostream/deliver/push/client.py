"""Records of a History → one HTTP POST after another to one registered client, in order, at the client's own pace.

All of it runs in the engine's loop, except where a docstring says "from any thread".
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import NamedTuple

import msgspec
from kafka.errors import KafkaError

from emostream.deliver.history import History, Record
from emostream.deliver.push.latency import TapLatency
from emostream.deliver.push.sender import GONE, PushPolicy, Sender
from emostream.deliver.push.slow_clients import MergedCounts, Push
from emostream.deliver.registry import Registration
from emostream.metrics.counters import Metrics
from emostream.process import Log

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
RECORDS_AT_ONCE = 100
IDLE_SECONDS = 5.0


class PushContext(NamedTuple):
    """What all clients share. `evict` and `keep` may block, so they are called in `threads`."""

    policy: PushPolicy
    counters: Metrics
    latency: TapLatency
    log: Log
    evict: Callable[[PushClient, str], None]  # frees the client's slot, for this reason
    keep: Callable[[PushClient], None]  # saves the client's registration; raises KafkaError
    remove: Callable[[PushClient], None]  # stops serving the client
    threads: Executor


class PushClient:
    """One registered client.

    A push is attempted until the client takes it with a 2xx. After each failure comes a growing, jittered pause, or
    the pause that `Retry-After` asks for. A 410 ends the registration, and so does failing for `evict_after_seconds`.
    """

    def __init__(
        self, context: PushContext, history: History, registration: Registration, cursor: int, generation: int,
        repeats_until: int = 0,
    ) -> None:  # fmt: skip
        """`cursor` is that of the first record to send from the `history` of the client's room.

        `generation` is that of the topic now.

        The process before this one may have sent records before the cursor `repeats_until` without saving that.
        """
        self.client_url = registration.client_url
        self.registration = registration  # replaced as a whole, so that any thread may read it
        self.saved: Registration | None = None  # the last one in the registry topic
        self._context = context
        self._policy = context.policy
        self._history = history
        self._sender = Sender(self.client_url, context.policy)
        self._cursor = cursor
        self._generation = generation
        self._repeats_until = repeats_until
        # A record comes from the history into the portion. From there it becomes a push, or a part of merged counts,
        # which become pushes later.
        self._portion: deque[Record] = deque()  # the last records before the cursor
        self._taken = dict(registration.next_offsets)  # per partition, the offset after the last record from there
        self._waiting: MergedCounts | None = None  # more records may still be added
        self._pushes: deque[Push] = deque()  # they never change; the first one is being sent
        self._failing_since: float | None = None
        self._news = asyncio.Event()

    def drained(self) -> bool:
        """Whether no record in the history waits for this client; from any thread."""
        busy = self._pushes or self._waiting or self._portion or self.registration.merging
        return not busy and self._cursor >= self._history.end

    def behind(self) -> int:
        """How many records the client has not got; from any thread. The number may be a moment old."""
        pushes = sum(push.records for push in self._pushes.copy())
        waiting = waits.records if (waits := self._waiting) else 0
        return pushes + waiting + len(self._portion) + self._history.end - self._cursor

    def failing_seconds(self) -> float:
        """For how long pushes have failed; from any thread."""
        since = self._failing_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Stop serving the client, even in the middle of an attempt; from any thread."""
        self._context.remove(self)

    def tell(self) -> None:
        """Wake the client: there is something new."""
        self._news.set()

    async def run(self) -> None:
        """Serve the client until it loses its slot or this is cancelled."""
        try:
            self._restore()
            while await self._step():
                pass
        finally:
            self._sender.close()

    async def evict(self, reason: str) -> None:
        """Give up the client's slot."""
        await self._in_thread(self._context.evict, self, reason)

    async def _step(self) -> bool:
        """Send one push, or wait for one; False when the client has lost its slot."""
        self._merge_if_behind()
        if not self._pushes and self._waiting:
            await self._freeze(self._waiting)
            return True
        if not self._pushes and not self._add_single():
            await self._wait_for_news()
            return bool(self._next_record()) or await self._keep_slot(await self._sender.probe())
        push = self._pushes[0]
        if not await self._deliver(push):
            return False
        if push.record:
            self._advance({**self.registration.next_offsets, push.record.partition: push.record.offset + 1})
        elif len(self._pushes) == 1:
            self._advance(self.registration.merging or {})
        self._pushes.popleft()
        return True

    def _advance(self, next_offsets: dict[int, int], merging: dict[int, int] | None = None) -> None:
        self.registration = msgspec.structs.replace(self.registration, next_offsets=next_offsets, merging=merging)

    def _add_single(self) -> bool:
        """Make a push of the next record; False when there is none."""
        record = self._next_record()
        if record is None:
            return False
        key = f"{self._policy.cluster_topic}/{record.partition}/{record.offset}"
        self._pushes.append(Push(key, record.value, 1, record, record.timestamp_ms))
        self._take(record)
        return True

    def _next_record(self) -> Record | None:
        """The next record, without taking it; None when there is none."""
        while True:
            if not self._portion:
                self._read_portion()
            if not self._portion:
                return None
            record = self._portion[0]
            if record.generation != self._generation:
                if self._waiting or self._pushes:
                    return None  # the topic was replaced, and its offsets start over: send the old records first
                self._generation, self._taken = record.generation, {}
                self._advance({})
            if record.offset >= self._taken.get(record.partition, 0):
                return record
            self._portion.popleft()

    def _read_portion(self) -> None:
        first, records = self._history.after(self._cursor, RECORDS_AT_ONCE)
        if first > self._cursor:
            dropped = max(0, min(first, self._history.overflowed) - self._cursor)
            self._context.counters.add("dropped", dropped)
            self._context.counters.add("expired", first - self._cursor - dropped)
        self._portion.extend(records)
        self._cursor = first + len(records)

    def _take(self, record: Record) -> None:
        self._taken[record.partition] = record.offset + 1
        self._portion.popleft()

    def _merge_if_behind(self) -> None:
        """Merge all that waits if the oldest record has waited for too long, or if some of it is merged already."""
        record = self._next_record()
        oldest = time.monotonic() - self._policy.merge_after_seconds
        if record is None or (record.read_at > oldest and not self._waiting):
            return
        if self._cursor - len(self._portion) < self._repeats_until:
            return  # a client recognises a repeat by its key, which a merged count would hide
        if self._waiting is None:
            self._waiting = MergedCounts(self._taken)
        while record := self._next_record():
            if not self._waiting.add(record):
                self._context.counters.add("dropped")
            self._take(record)

    async def _freeze(self, waiting: MergedCounts) -> None:
        """Make pushes of merged counts. First save which records are in them.

        After a restart the same pushes can then be made again. Otherwise nobody would know which records were in a
        merged count that has arrived.
        """
        before = self.registration
        self._advance(dict(waiting.start), dict(waiting.end))
        try:
            await self._in_thread(self._context.keep, self)
        except KafkaError as error:
            self.registration = before
            self._context.log.warning(
                "merged counts wait: the registry topic did not take the list of their records",
                client_url=self.client_url, reason=error,
            )  # fmt: skip
            await asyncio.sleep(LONGEST_PAUSE_SECONDS)
            return
        self._pushes.extend(waiting.pushes(self._policy.cluster_topic))
        self._waiting = None

    def _restore(self) -> None:
        """Make the merged counts again that were being sent when the process before this one ended."""
        start, end = self.registration.next_offsets, self.registration.merging
        if end is None:
            return
        again = MergedCounts(start)
        for record in self._history.after(self._cursor, self._history.end)[1]:
            if start.get(record.partition, 0) <= record.offset < end.get(record.partition, 0):
                again.add(record)
        again.end = end
        self._pushes.extend(again.pushes(self._policy.cluster_topic))
        self._taken = dict(end)
        if not self._pushes:
            self._advance(end)

    async def _wait_for_news(self) -> None:
        """Wait until there may be something new, for IDLE_SECONDS at most."""
        self._news.clear()
        timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._news.set)
        await self._news.wait()
        timer.cancel()

    async def _deliver(self, push: Push) -> bool:
        """Attempt a push until the client takes it or it is too old; False when the client has lost its slot."""
        pause_seconds, attempts, counters = FIRST_PAUSE_SECONDS, 0, self._context.counters
        while True:
            if push.record and time.time() * 1000 - push.record.timestamp_ms > self._policy.max_age_seconds * 1000:
                counters.add("lost" if attempts else "expired")
                return True
            attempts += 1
            failure, retry_after_seconds = await self._sender.attempt(push)
            if failure is None:
                counters.add("delivered")
                counters.add("merged", push.records - 1)
                if push.record:
                    self._context.latency.took(push.record, time.time() * 1000)
                self._failing_since = None
                return True
            counters.add("failed_attempts")
            self._merge_if_behind()
            if not await self._keep_slot(failure):
                return False
            # Never wait longer than until the eviction: the attempt at that moment shows whether the client is back.
            asked_seconds = min(retry_after_seconds, self._policy.evict_after_seconds)
            await asyncio.sleep(max(asked_seconds, pause_seconds * random.uniform(0.5, 1.0)))
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    async def _keep_slot(self, failure: str | None) -> bool:
        """Whether the client keeps its slot after an attempt. `failure`: why the attempt failed; None if it did not."""
        if failure is None:
            self._failing_since = None
            return True
        reason = failure
        if failure != GONE:
            now = time.monotonic()
            if self._failing_since is None:
                self._failing_since = now
                self._context.log.warning(
                    "a client cannot be reached; trying again", client_url=self.client_url, reason=failure
                )
            if now - self._failing_since < self._policy.evict_after_seconds:
                return True
            reason = f"it failed for {self._policy.evict_after_seconds:g} s: {failure}"
        tried = self._pushes[0].records if self._pushes else 0
        self._context.counters.add("lost", tried)
        self._context.counters.add("dropped", self.behind() - tried)
        await self.evict(reason)  # which cancels this task
        return False

    async def _in_thread(self, function: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._context.threads, function, *arguments)
