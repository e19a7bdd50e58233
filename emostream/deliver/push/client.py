"""Records of a History → one HTTP POST after another to one registered client, in order, at the client's own pace.

While a client cannot keep up, what waits for it is one sum for each emoji; everything here runs in the engine's loop.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from kafka.errors import KafkaError

from emostream.deliver.history import History, Record
from emostream.deliver.push.allowed_networks import AllowedNetworks
from emostream.deliver.push.latency import TapLatency
from emostream.deliver.push.merging import Push, Waiting
from emostream.http.client import ClientConnection, ConnectionLost, PushError, Response, Target, connect
from emostream.metrics.counters import Metrics
from emostream.process import Log

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
RECORDS_AT_ONCE = 100
IDLE_SECONDS = 5.0
GONE = "it answered 410 Gone"


@dataclass(frozen=True)
class PushPolicy:
    """Who pushes, to where, when counts are merged, and when a record or a client is given up.

    `merge_after_seconds`: a count that has waited so long for its client is merged with all that wait with it.
    `max_age_seconds`: a single count that was published so long ago is not sent any more; a merged one always is.
    `evict_after_seconds`: a client that fails for so long loses its slot.
    """

    cluster_topic: str
    subscriber: int
    merge_after_seconds: float
    max_age_seconds: float
    evict_after_seconds: float
    networks: AllowedNetworks
    secret: bytes = b""


@dataclass(frozen=True)
class Position:
    """How far a client has come: per partition, the offset after the last record that it has dealt with.

    `merging`: what comes then, up to these offsets, is being sent as merged counts, and some of them may have arrived.
    """

    next_offsets: Mapping[int, int]
    merging: Mapping[int, int] | None = None


class Engine(Protocol):
    """What all clients share."""

    history: History
    policy: PushPolicy
    counters: Metrics
    latency: TapLatency
    log: Log

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host that may be pushed to. Raises OSError."""

    def headers(self, key: str, body: bytes, routed_ms: int) -> str:
        """What a push says about itself."""

    async def evict(self, client: PushClient, reason: str) -> None:
        """Free a client's slot."""

    async def keep(self, client: PushClient) -> None:
        """Make a client's position last. Raises KafkaError."""


class PushClient:
    """One registered client.

    A push is attempted until the client takes it with a 2xx, with a growing, jittered pause after each failure, or
    that which `Retry-After` asks for. 410 ends the registration, and so does failing for `evict_after_seconds`.
    """

    def __init__(
        self, engine: Engine, client_url: str, cursor: int, position: Position, generation: int, repeats_until: int = 0
    ) -> None:
        """Start at `cursor` of the history, without what lies before `position` of this `generation`.

        What lies before the cursor `repeats_until` may have arrived by a predecessor that could not note it any more.
        """
        self.client_url = client_url
        self.position = position  # replaced as a whole, so that any thread may read it
        self._engine = engine
        self._policy = engine.policy
        self._history = engine.history
        self._target = Target.parse(client_url)
        self._cursor = cursor
        self._repeats_until = repeats_until
        self._generation = generation
        self._portion: deque[Record] = deque()  # of the history, up to the cursor
        self._taken = dict(position.next_offsets)  # per partition, the offset after what was taken from there
        self._waiting: Waiting | None = None  # taken, and being added to
        self._merged: deque[Push] = deque()  # taken, and never to be changed again
        self._single: Record | None = None  # taken, and being sent
        self._failing_since: float | None = None
        self._connection: ClientConnection | None = None
        self._told: asyncio.Future[bool] | None = None

    def drained(self) -> bool:
        """Whether everything in the history was dealt with; from any thread."""
        busy = self._single or self._merged or self._waiting or self._portion or self.position.merging
        return not busy and self._cursor >= self._history.end

    def behind(self) -> int:
        """Records that the client has not got; from any thread, which may find them a moment out of date."""
        return self._undelivered()[1]

    def failing_seconds(self) -> float:
        """For how long pushes to it have failed; from any thread."""
        since = self._failing_since
        return 0.0 if since is None else time.monotonic() - since

    def tell(self) -> None:
        """There is something new."""
        self._tell(True)

    async def run(self) -> None:
        """Serve the client until it loses its slot, or this is cancelled."""
        try:
            self._restore()
            while await self._step():
                pass
        finally:
            if self._connection:
                self._connection.close()

    async def _step(self) -> bool:
        """Deal with one push, or wait for one; False where the client has lost its slot."""
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
            return await self._wait_for_news() or await self._keep(await self._probe())
        if not await self._deliver(push):
            return False
        self._finish(push)
        return True

    def _tell(self, new: bool) -> None:
        if self._told and not self._told.done():
            self._told.set_result(new)

    def _finish(self, push: Push) -> None:
        """Go past a push that was dealt with."""
        if push.record:
            before, record = self.position.next_offsets, push.record
            self.position = Position({**before, record.partition: record.offset + 1})
            self._single = None
        else:
            if len(self._merged) == 1:
                self.position = Position(self.position.merging or {})
            self._merged.popleft()

    def _next_record(self) -> Record | None:
        """The record to be taken next, which stays where it is; None where there is none."""
        while True:
            if not self._portion:
                self._read_portion()
            if not self._portion:
                return None
            record = self._portion[0]
            if record.generation != self._generation:
                if self._waiting or self._merged or self._single:
                    return None  # offsets start over, so all of before goes first
                self._generation, self._taken, self.position = record.generation, {}, Position({})
            if record.offset >= self._taken.get(record.partition, 0):
                return record
            self._portion.popleft()

    def _read_portion(self) -> None:
        first, records = self._history.after(self._cursor, RECORDS_AT_ONCE)
        if first > self._cursor:
            dropped = max(0, min(first, self._history.overflowed) - self._cursor)
            self._engine.counters.add("dropped", dropped)
            self._engine.counters.add("expired", first - self._cursor - dropped)
        self._portion.extend(records)
        self._cursor = first + len(records)

    def _take(self, record: Record) -> None:
        self._taken[record.partition] = record.offset + 1
        self._portion.popleft()

    def _merge_if_behind(self) -> None:
        """Take all that waits into the sums, where it has waited for too long or some of it is there already."""
        record = self._next_record()
        oldest = time.monotonic() - self._policy.merge_after_seconds
        if record is None or (record.read_at > oldest and not self._waiting):
            return
        if self._cursor - len(self._portion) < self._repeats_until:
            return  # in a sum a repeat could not be told from what is new
        if self._waiting is None:
            self._waiting = Waiting(self._taken)
        while record := self._next_record():
            if not self._waiting.add(record):
                self._engine.counters.add("dropped")
            self._take(record)

    async def _freeze(self, waiting: Waiting) -> None:
        """Make pushes of the sums, which stay the same until the client has them, also after a restart.

        Whoever comes after this process could not know otherwise which records were in a sum that has arrived.
        """
        before = self.position
        self.position = Position(dict(waiting.start), dict(waiting.end))
        try:
            await self._engine.keep(self)
        except KafkaError as error:
            self.position = before
            self._engine.log.warning(
                "merged counts have to wait, because what is in them could not be noted",
                client_url=self.client_url, reason=error,
            )  # fmt: skip
            await asyncio.sleep(LONGEST_PAUSE_SECONDS)
            return
        self._merged.extend(waiting.pushes(self._policy.cluster_topic))
        self._waiting = None

    def _restore(self) -> None:
        """Make the merged counts again that were being sent when this subscriber ended."""
        start, end = self.position.next_offsets, self.position.merging
        if end is None:
            return
        again = Waiting(start)
        for record in self._history.after(self._cursor, self._history.end)[1]:
            if start.get(record.partition, 0) <= record.offset < end.get(record.partition, 0):
                again.add(record)
        again.end = dict(end)
        self._merged.extend(again.pushes(self._policy.cluster_topic))
        self._taken = dict(end)
        if not self._merged:
            self.position = Position(end)

    async def _wait_for_news(self) -> bool:
        """Wait up to IDLE_SECONDS; whether there is something new."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[bool] = loop.create_future()
        self._told = told
        timer = loop.call_later(IDLE_SECONDS, self._tell, False)
        try:
            return await told
        finally:
            timer.cancel()

    async def _deliver(self, push: Push) -> bool:
        """Attempt until the client takes a push or it gets too old; False where the client has lost its slot."""
        pause_seconds, attempts, counters = FIRST_PAUSE_SECONDS, 0, self._engine.counters
        while True:
            if push.record and time.time() * 1000 - push.record.timestamp_ms > self._policy.max_age_seconds * 1000:
                counters.add("lost" if attempts else "expired")
                return True
            attempts += 1
            failure, asked_seconds = await self._attempt(push)
            if failure is None:
                counters.add("delivered")
                counters.add("merged", push.records - 1)
                if push.record:
                    self._engine.latency.took(push.record, time.time() * 1000)
                return await self._keep(None)
            counters.add("failed_attempts")
            self._merge_if_behind()
            if not await self._keep(failure):
                return False
            await asyncio.sleep(max(asked_seconds, pause_seconds * random.uniform(0.5, 1.0)))
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    def _undelivered(self) -> tuple[int, int]:
        """Records that are in the push that is being tried, and all that the client has not got."""
        merged = sum(push.records for push in self._merged.copy())
        waiting = waits.records if (waits := self._waiting) else 0
        undelivered = bool(self._single) + merged + waiting + len(self._portion) + self._history.end - self._cursor
        tried = 1 if self._single else self._merged[0].records if self._merged else 0
        return tried, undelivered

    async def _keep(self, failure: str | None) -> bool:
        """Whether the client keeps its slot after an attempt that succeeded (None) or failed."""
        now = time.monotonic()
        if failure is None:
            self._failing_since = None
            return True
        if self._failing_since is None:
            self._failing_since = now
            if failure != GONE:
                self._engine.log.warning(
                    "a client cannot be reached; trying again", client_url=self.client_url, reason=failure
                )
        if failure == GONE:
            reason = GONE
        elif now - self._failing_since >= self._policy.evict_after_seconds:
            reason = f"it failed for {self._policy.evict_after_seconds:g} s: {failure}"
        else:
            return True
        tried, undelivered = self._undelivered()
        self._engine.counters.add("lost", tried)
        self._engine.counters.add("dropped", undelivered - tried)
        await self._engine.evict(self, reason)  # which cancels this
        return False

    async def _probe(self) -> str | None:
        """Connect while there is nothing to send: a client that died must not keep its slot until somebody taps."""
        if self._connection and self._connection.usable:
            return None
        try:
            (await connect(self._target, self._engine.addresses)).close()
        except PushError as error:
            return str(error)
        return None

    async def _attempt(self, push: Push) -> tuple[str | None, float]:
        """POST once. None where the client took it, else why not; and the seconds that it asks to wait for."""
        request = self._target.request(self._engine.headers(push.key, push.body, push.routed_ms), push.body)
        try:
            answer = await self._post(request)
        except PushError as error:
            return str(error), 0.0
        if 200 <= answer.status < 300:
            return None, 0.0
        if answer.status == HTTPStatus.GONE:
            return GONE, 0.0
        # No longer than until it would be evicted: an attempt shows whether it is back.
        asked_seconds = min(answer.retry_after_seconds or 0.0, self._policy.evict_after_seconds)
        return f"it answered {answer.status}", asked_seconds

    async def _post(self, request: bytes) -> Response:
        """Raises PushError."""
        if self._connection and self._connection.usable:
            try:
                return await self._connection.post(request)
            except ConnectionLost:
                pass  # a server may end an idle connection at any time, just as it is used
        self._connection = await connect(self._target, self._engine.addresses)
        return await self._connection.post(request)


Evict = Callable[[str, PushClient, str], None]
Keep = Callable[[str, PushClient], None]
