"""One thread with an event loop that serves every registered client of a subscriber."""

from __future__ import annotations

import asyncio
import base64
import hmac
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import uvloop

from emostream.deliver.history import History
from emostream.deliver.push.allowed_networks import resolve
from emostream.deliver.push.client import PushClient
from emostream.deliver.push.latency import TapLatency
from emostream.deliver.push.policy import Position, PushPolicy
from emostream.http.client import PushError, Target, connect
from emostream.metrics.counters import Metrics
from emostream.process import Log

RESOLVERS = 8
VERIFY_SECONDS = 10.0

Evict = Callable[[str, PushClient, str], None]
Keep = Callable[[str, PushClient], None]


class PushEngine:
    """Serves clients; `add`, `remove`, `verify` and `close` may be called from any thread."""

    def __init__(
        self, history: History, policy: PushPolicy, counters: Metrics, log: Log, evict: Evict, keep: Keep
    ) -> None:
        """The engine calls `evict(client_url, client, reason)` when a client should lose its slot.

        It calls `keep(client_url, client)` to save a client's position, which may raise KafkaError.
        Both calls run in threads of their own, so they may block.
        """
        self.history = history
        self.policy = policy
        self.counters = counters
        self.latency = TapLatency(counters)
        self.log = log
        self._evict = evict
        self._keep = keep
        self.clients: dict[PushClient, asyncio.Task[None]] = {}
        self._broker_threads = ThreadPoolExecutor(2, "push-keep")
        self._resolver_threads = ThreadPoolExecutor(RESOLVERS, "push-resolve")
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="push", daemon=True)
        self._thread.start()
        history.on_append(self._wake)

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

    def add(self, client_url: str, cursor: int, position: Position, generation: int, repeats_until: int) -> PushClient:
        """Make a PushClient and serve it."""
        client = PushClient(self, client_url, cursor, position, generation, repeats_until)
        self.serve(client)
        return client

    def serve(self, client: PushClient) -> None:
        """Begin to serve a client."""
        self._loop.call_soon_threadsafe(self._begin, client)

    def remove(self, client: PushClient) -> None:
        """Stop serving a client, even in the middle of an attempt."""
        self._loop.call_soon_threadsafe(self._end, client)

    def verify(self, client_url: str, challenge: str) -> None:
        """Send a challenge and return when the client has echoed it. Raises PushError."""
        asyncio.run_coroutine_threadsafe(self._verify(Target.parse(client_url), challenge), self._loop).result(
            VERIFY_SECONDS
        )

    def close(self) -> None:
        """Stop serving all clients and end the thread."""
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result(VERIFY_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(VERIFY_SECONDS)
        self._broker_threads.shutdown(wait=False, cancel_futures=True)
        self._resolver_threads.shutdown(wait=False, cancel_futures=True)

    # The Engine protocol: PushClient calls these, in the loop.
    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host that may be pushed to. Raises OSError."""
        found = await self._loop.run_in_executor(self._resolver_threads, resolve, host, port)
        return self.policy.networks.check(host, found)

    def headers(self, key: str, body: bytes, routed_ms: int = 0) -> str:
        """The headers of a push whose newest record was published at `routed_ms` (0: there is no record)."""
        policy, now = self.policy, time.time()
        times = f"Routed-Ms: {routed_ms}\r\nPushed-Ms: {int(now * 1000)}\r\n" if routed_ms else ""
        # The key is the same for every attempt, also after a restart: a client recognises a repeat by it.
        lines = f"Idempotency-Key: {key}\r\nSubscriber: {policy.cluster_topic}/{policy.subscriber}\r\n{times}"
        return lines + signature(policy.secret, key, body, int(now)) if policy.secret else lines

    async def evict(self, client: PushClient, reason: str) -> None:
        """Free a client's slot."""
        await self._loop.run_in_executor(self._broker_threads, self._evict, client.client_url, client, reason)

    async def keep(self, client: PushClient) -> None:
        """Save a client's position. Raises KafkaError."""
        await self._loop.run_in_executor(self._broker_threads, self._keep, client.client_url, client)

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
        except Exception as error:  # noqa: BLE001 - it ends the service of this one client, and is reported
            await self.evict(client, f"an error in the subscriber: {error!r}")
        finally:
            self.clients.pop(client, None)

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        for client in self.clients:
            client.tell()

    async def _verify(self, target: Target, challenge: str) -> None:
        body = b'{"challenge":"%s"}' % challenge.encode()
        connection = await connect(target, self.addresses)
        try:
            answer = await connection.post(target.request(self.headers(f"challenge/{challenge}", body), body))
        finally:
            connection.close()
        if not 200 <= answer.status < 300 or challenge.encode() not in answer.body:
            got = f"{answer.status} and {bytes(answer.body[:80])!r}"
            raise PushError(f'expected a 2xx with {{"challenge": "{challenge}"}}, got {got}')


def signature(secret: bytes, message_id: str, body: bytes, now: int) -> str:
    """The signature headers of Standard Webhooks for a message that is sent at `now` (Unix seconds)."""
    signed = hmac.digest(secret, b"%s.%d.%s" % (message_id.encode(), now, body), "sha256")
    shown = base64.b64encode(signed).decode()
    return f"webhook-id: {message_id}\r\nwebhook-timestamp: {now}\r\nwebhook-signature: v1,{shown}\r\n"
