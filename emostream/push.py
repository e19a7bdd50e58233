"""Records of a History → one HTTP POST after another to one registered client, in order, at the client's own pace."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import requests

from emostream.history import History, Record
from emostream.runtime import Counters, Log

CONNECT_SECONDS = 2.0
READ_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
RECORDS_AT_ONCE = 100
SMALL_BODY_BYTES = 1024
IDLE_SECONDS = 5.0
GONE = "410 Gone"


@dataclass(frozen=True)
class PushPolicy:
    """Who pushes, and when it gives up on a record (`max_age_seconds`) and on a client (`evict_after_seconds`)."""

    cluster_topic: str
    subscriber: int
    max_age_seconds: float
    evict_after_seconds: float


class PushClient:
    """One registered client: a thread that POSTs each record until the client takes it with a 2xx.

    A failed attempt is repeated after a growing, jittered pause. A record that gets older than `max_age_seconds`
    meanwhile is counted as expired. 410 ends the registration, and so does failing for `evict_after_seconds`.
    """

    def __init__(
        self, client_url: str, history: History, cursor: int, next_offsets: Mapping[int, int],
        generation: int, policy: PushPolicy, counters: Counters, log: Log,
        evict: Callable[[str, PushClient, str], None],
    ) -> None:  # fmt: skip
        """Start at `cursor` of the history, without what lies before `next_offsets` of this `generation`.

        `evict(client_url, self, reason)` is called, from the thread, where the client should lose its slot.
        """
        self._client_url = client_url
        self._history = history
        self._cursor = cursor
        self._next_offsets = dict(next_offsets)
        self._generation = generation
        self._policy = policy
        self._counters = counters
        self._log = log
        self._evict = evict
        self._closed = threading.Event()
        self._failing_since: float | None = None
        self._session = requests.Session()
        self._session.trust_env = False  # no proxies and no credentials from the environment
        self._thread = threading.Thread(target=self._run, name=f"push {client_url}", daemon=True)
        self._thread.start()

    def next_offsets(self) -> dict[int, int]:
        """Per partition, the offset after the last record that the client acknowledged or that expired."""
        return self._next_offsets.copy()  # one C call, so that the pushing thread cannot change it half-way

    def close(self) -> None:
        """Stop pushing; an attempt that is under way is finished, but not waited for."""
        self._closed.set()

    def drained(self) -> bool:
        """Whether everything in the history was dealt with."""
        return self._cursor >= self._history.end

    def _run(self) -> None:
        while not self._closed.is_set():
            first, records = self._history.after(self._cursor, RECORDS_AT_ONCE, timeout_seconds=IDLE_SECONDS)
            if not records and not self._keep(self._probe()):
                return
            if first > self._cursor:
                self._counters.add("expired", first - self._cursor)
                self._cursor = first
            for record in records:
                if record.generation != self._generation:
                    self._generation, self._next_offsets = record.generation, {}
                if record.offset >= self._next_offsets.get(record.partition, 0) and not self._deliver(record):
                    return
                self._next_offsets[record.partition] = max(
                    record.offset + 1, self._next_offsets.get(record.partition, 0)
                )
                self._cursor += 1

    def _deliver(self, record: Record) -> bool:
        """Attempt until the client takes the record or it expires; False where the registration has ended."""
        pause_seconds = FIRST_PAUSE_SECONDS
        while not self._closed.is_set():
            if time.time() * 1000 - record.timestamp_ms > self._policy.max_age_seconds * 1000:
                self._counters.add("expired")
                return True
            failure = self._attempt(record)
            if failure is None:
                self._counters.add("delivered")
                return self._keep(None)
            self._counters.add("failed_attempts")
            if self._keep(failure):
                self._closed.wait(pause_seconds * random.uniform(0.5, 1.0))
                pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
        return False

    def _keep(self, failure: str | None) -> bool:
        """Whether the client keeps its slot after an attempt that succeeded (None) or failed."""
        now = time.monotonic()
        if failure is None:
            self._failing_since = None
            return True
        if self._failing_since is None:
            self._failing_since = now
            self._log.warning("a client cannot be reached; trying again", client_url=self._client_url, reason=failure)
        if failure == GONE:
            self._evict(self._client_url, self, "it answered 410 Gone")
        elif now - self._failing_since >= self._policy.evict_after_seconds:
            self._evict(self._client_url, self, f"it failed for {self._policy.evict_after_seconds:g} s: {failure}")
        else:
            return True
        return False

    def _probe(self) -> str | None:
        """Connect while there is nothing to send: a client that died must not keep its slot until somebody taps."""
        parts = urlsplit(self._client_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            return type(error).__name__
        return None

    def _attempt(self, record: Record) -> str | None:
        """POST the record once; None where the client took it, else why not."""
        headers = {
            "Content-Type": "application/json",
            # The same for every attempt at a record, also after a restart: by it a client notices a repeat.
            "Idempotency-Key": f"{self._policy.cluster_topic}/{record.partition}/{record.offset}",
            "Subscriber": f"{self._policy.cluster_topic}/{self._policy.subscriber}",
        }
        try:
            with self._session.post(
                self._client_url, data=record.value, headers=headers, timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False, stream=True,  # an answer's body is of no interest, however long it is
            ) as answer:  # fmt: skip
                status, reason = answer.status_code, answer.reason
                if int(answer.headers.get("Content-Length", SMALL_BODY_BYTES + 1)) <= SMALL_BODY_BYTES:
                    answer.content  # noqa: B018 - read, so that the connection can be used again
        except (requests.RequestException, ValueError) as error:
            return type(error).__name__
        if status == HTTPStatus.GONE:
            return GONE
        return None if 200 <= status < 300 else f"{status} {reason}"
