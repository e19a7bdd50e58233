"""Records of a History → one HTTP POST after another to one registered client, in order, at the client's own pace.

Everything here runs in the engine's loop. What happens when a client cannot keep up is in slow_clients.py.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

from kafka.errors import KafkaError

from emostream.deliver.history import History, Record
from emostream.deliver.push.latency import TapLatency
from emostream.deliver.push.sender import GONE, PushPolicy, Sender
from emostream.deliver.push.slow_clients import MergedCounts, Push
from emostream.metrics.counters import Metrics
from emostream.process import Log

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
RECORDS_AT_ONCE = 100
IDLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Position:
    """How far a client has come: per partition, the offset after the last record that is done with.

    `merging`: the records from there up to these offsets are being sent as merged counts; some may have arrived.
    """

    next_offsets: Mapping[int, int]
    merging: Mapping[int, int] | None = None


class Start(NamedTuple):
    """Where to start serving a client: at `cursor` of the history, without the records before `position`.

    `generation` is that of the topic. Records before the cursor `repeats_until` may have arrived already, sent by a
    process that ended before it could save the position.
    """

    cursor: int
    position: Position
    generation: int
    repeats_until: int = 0


class PushContext(NamedTuple):
    """What all clients share. `evict` and `keep` may block, so they are called in `threads`."""

    history: History
    policy: PushPolicy
    counters: Metrics
    latency: TapLatency
    log: Log
    evict: Callable[[PushClient, str], None]  # frees the client's slot, for this reason
    keep: Callable[[PushClient], None]  # saves the client's position; raises KafkaError
    remove: Callable[[PushClient], None]  # ends its service
    threads: Executor


class PushClient:
    """One registered client.

    A push is attempted until the client takes it with a 2xx. After each failure comes a growing, jittered pause, or
    the pause that `Retry-After` asks for. A 410 ends the registration, and so does failing for `evict_after_seconds`.
    """

    def __init__(self, context: PushContext, client_url: str, token_hash: str, start: Start) -> None:
        """`token_hash` is the hash of the token that is needed to deregister the client; empty when there is none."""
        self.client_url = client_url
        self.token_hash = token_hash
        self.position = start.position  # replaced as a whole, so that any thread may read it
        self._context = context
        self._policy = context.policy
        self._history = context.history
        self._sender = Sender(client_url, context.policy)
        self._cursor, _, self._generation, self._repeats_until = start
        self._portion: deque[Record] = deque()  # read from the history, and before the cursor
        self._taken = dict(start.position.next_offsets)  # per partition, the offset after the last one taken
        self._waiting: MergedCounts | None = None  # taken; more is still added
        self._merged: deque[Push] = deque()  # taken; never changes any more
        self._single: Record | None = None  # taken, and being sent
        self._failing_since: float | None = None
        self._news = asyncio.Event()

    def drained(self) -> bool:
        """Whether everything in the history is done with; from any thread."""
        busy = self._single or self._merged or self._waiting or self._portion or self.position.merging
        return not busy and self._cursor >= self._history.end

    def behind(self) -> int:
        """How many records the client has not got; from any thread, which may see a number of a moment ago."""
        return self._undelivered()[1]

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
        if self._merged:
            push = self._merged[0]
        elif self._waiting:
            await self._freeze(self._waiting)
            return True
        elif record := self._next_record():
            self._single = record
            self._take(record)
            key = f"{self._policy.cluster_topic}/{record.partition}/{record.offset}"
            push = Push(key, record.value, 1, record, record.timestamp_ms)
        else:
            await self._wait_for_news()
            return bool(self._next_record()) or await self._keep_slot(await self._sender.probe())
        if not await self._deliver(push):
            return False
        self._finish(push)
        return True

    def _finish(self, push: Push) -> None:
        """Move the position past a push."""
        if push.record:
            before, record = self.position.next_offsets, push.record
            self.position = Position({**before, record.partition: record.offset + 1})
            self._single = None
        else:
            if len(self._merged) == 1:
                self.position = Position(self.position.merging or {})
            self._merged.popleft()

    def _next_record(self) -> Record | None:
        """The next record, without taking it; None when there is none."""
        while True:
            if not self._portion:
                self._read_portion()
            if not self._portion:
                return None
            record = self._portion[0]
            if record.generation != self._generation:
                if self._waiting or self._merged or self._single:
                    return None  # offsets start over, so everything before the replacement goes first
                self._generation, self._taken, self.position = record.generation, {}, Position({})
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
        """Merge all that waits, once its oldest record has waited too long, or some of it is merged already."""
        record = self._next_record()
        oldest = time.monotonic() - self._policy.merge_after_seconds
        if record is None or (record.read_at > oldest and not self._waiting):
            return
        if self._cursor - len(self._portion) < self._repeats_until:
            return  # a client recognises a repeat by its key, which a sum would hide
        if self._waiting is None:
            self._waiting = MergedCounts(self._taken)
        while record := self._next_record():
            if not self._waiting.add(record):
                self._context.counters.add("dropped")
            self._take(record)

    async def _freeze(self, waiting: MergedCounts) -> None:
        """Make pushes of the sums and save which records are in them, before the first is sent.

        After a restart the same pushes are made again. Without that, nobody would know which records were in a merged
        count that has arrived.
        """
        before = self.position
        self.position = Position(dict(waiting.start), dict(waiting.end))
        try:
            await self._in_thread(self._context.keep, self)
        except KafkaError as error:
            self.position = before
            self._context.log.warning(
                "merged counts wait: the registry topic did not take the list of their records",
                client_url=self.client_url, reason=error,
            )  # fmt: skip
            await asyncio.sleep(LONGEST_PAUSE_SECONDS)
            return
        self._merged.extend(waiting.pushes(self._policy.cluster_topic))
        self._waiting = None

    def _restore(self) -> None:
        """Make the merged counts again that were being sent when the process before this one ended."""
        start, end = self.position.next_offsets, self.position.merging
        if end is None:
            return
        again = MergedCounts(start)
        for record in self._history.after(self._cursor, self._history.end)[1]:
            if start.get(record.partition, 0) <= record.offset < end.get(record.partition, 0):
                again.add(record)
        again.end = dict(end)
        self._merged.extend(again.pushes(self._policy.cluster_topic))
        self._taken = dict(end)
        if not self._merged:
            self.position = Position(end)

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
                return await self._keep_slot(None)
            counters.add("failed_attempts")
            self._merge_if_behind()
            if not await self._keep_slot(failure):
                return False
            # Never longer than until the eviction: the attempt then shows whether the client is back.
            asked_seconds = min(retry_after_seconds, self._policy.evict_after_seconds)
            await asyncio.sleep(max(asked_seconds, pause_seconds * random.uniform(0.5, 1.0)))
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    def _undelivered(self) -> tuple[int, int]:
        """How many records are in the push that is being tried, and how many the client has not got in all."""
        merged = sum(push.records for push in self._merged.copy())
        waiting = waits.records if (waits := self._waiting) else 0
        undelivered = bool(self._single) + merged + waiting + len(self._portion) + self._history.end - self._cursor
        tried = 1 if self._single else self._merged[0].records if self._merged else 0
        return tried, undelivered

    async def _keep_slot(self, failure: str | None) -> bool:
        """Whether the client keeps its slot after an attempt that failed for this reason, or did not (None)."""
        now = time.monotonic()
        if failure is None:
            self._failing_since = None
            return True
        if self._failing_since is None:
            self._failing_since = now
            if failure != GONE:
                self._context.log.warning(
                    "a client cannot be reached; trying again", client_url=self.client_url, reason=failure
                )
        if failure == GONE:
            reason = GONE
        elif now - self._failing_since >= self._policy.evict_after_seconds:
            reason = f"it failed for {self._policy.evict_after_seconds:g} s: {failure}"
        else:
            return True
        tried, undelivered = self._undelivered()
        self._context.counters.add("lost", tried)
        self._context.counters.add("dropped", undelivered - tried)
        await self.evict(reason)  # which cancels this task
        return False

    async def _in_thread(self, function: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._context.threads, function, *arguments)
