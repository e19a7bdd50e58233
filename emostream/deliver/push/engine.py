"""Registered clients → one thread with an event loop that pushes to all of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent import futures

import uvloop

from emostream.deliver.history import History
from emostream.deliver.push.client import PushClient, PushContext
from emostream.deliver.push.latency import TapLatency
from emostream.deliver.push.sender import PushPolicy
from emostream.deliver.registry import Registration
from emostream.http.client import PushError, Target, connect
from emostream.metrics.counters import Metrics
from emostream.process import Log

RESOLVERS = 8
VERIFY_SECONDS = 10.0
CLOSE_SECONDS = 10.0


class PushEngine:
    """The thread that pushes. Any thread may call the public methods."""

    def __init__(
        self, policy: PushPolicy, counters: Metrics, log: Log,
        evict: Callable[[PushClient, str], None], keep: Callable[[PushClient], None],
    ) -> None:  # fmt: skip
        """`evict` and `keep` are those of PushContext. The engine calls them in threads, so they may block."""
        self._policy = policy
        self.clients: dict[PushClient, asyncio.Task[None]] = {}
        self._broker_threads = futures.ThreadPoolExecutor(2, "push-keep")
        self._resolver_threads = futures.ThreadPoolExecutor(RESOLVERS, "push-resolve")
        self._context = PushContext(
            policy, counters, TapLatency(counters), log, evict, keep, self._remove, self._broker_threads
        )
        self._woken = False  # the clients will be told in the loop
        self._loop = uvloop.new_event_loop()
        self._loop.set_default_executor(self._resolver_threads)
        self._thread = threading.Thread(target=self._loop.run_forever, name="push", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

    def add(
        self, history: History, registration: Registration, cursor: int, generation: int, repeats_until: int = 0
    ) -> PushClient:
        """Begin to serve a client. The arguments are those of PushClient."""
        client = PushClient(self._context, history, registration, cursor, generation, repeats_until)
        self._loop.call_soon_threadsafe(self._begin, client)
        return client

    def wake(self) -> None:
        """Tell all clients that a history has new records. Many calls in a row, one for each room, wake them once."""
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._wake_all)

    def verify(self, client_url: str, challenge: str) -> None:
        """Send a challenge and return when the client has echoed it. Raises PushError."""
        answered = asyncio.run_coroutine_threadsafe(self._verify(Target.parse(client_url), challenge), self._loop)
        try:
            answered.result(VERIFY_SECONDS)
        except futures.TimeoutError:  # before Python 3.11 it is no OSError
            raise PushError(f"expected its challenge within {VERIFY_SECONDS:g} s, got no answer") from None

    def close(self) -> None:
        """Stop serving all clients and end the thread."""
        futures.wait([asyncio.run_coroutine_threadsafe(self._end_all(), self._loop)], CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        for threads in (self._broker_threads, self._resolver_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    def _remove(self, client: PushClient) -> None:
        self._loop.call_soon_threadsafe(self._end, client)

    def _begin(self, client: PushClient) -> None:
        self.clients[client] = self._loop.create_task(self._serve(client))

    def _end(self, client: PushClient) -> None:
        if task := self.clients.pop(client, None):
            task.cancel()

    async def _end_all(self) -> None:
        tasks = list(self.clients.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, client: PushClient) -> None:
        try:
            await client.run()
        except Exception as error:  # noqa: BLE001 - not swallowed: this client is evicted, with the error as the reason
            await client.evict(f"an error in the subscriber: {error!r}")
        finally:
            self.clients.pop(client, None)

    def _wake_all(self) -> None:
        self._woken = False
        for client in self.clients:
            client.tell()

    async def _verify(self, target: Target, challenge: str) -> None:
        body = b'{"challenge":"%s"}' % challenge.encode()
        headers = self._policy.headers(f"challenge/{challenge}", body)
        connection = await connect(target, self._policy.addresses)
        try:
            answer = await connection.post(target.request(headers, body))
        finally:
            connection.close()
        if not 200 <= answer.status < 300 or challenge.encode() not in answer.body:
            got = f"{answer.status} and {bytes(answer.body[:80])!r}"
            raise PushError(f'expected a 2xx with {{"challenge": "{challenge}"}}, got {got}')
