"""A push → one POST to the client on a connection that is kept open, and what came of it."""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple

from emostream.deliver.push.allowed_networks import AllowedNetworks, resolve
from emostream.deliver.push.slow_clients import Push
from emostream.http.client import ClientConnection, ConnectionLost, PushError, Response, Target, connect

GONE = "it answered 410 Gone"


@dataclass(frozen=True, slots=True)
class PushPolicy:
    """Who pushes, where pushes may go, when counts are merged, and when a record or a client is given up.

    `merge_after_seconds`: when a count has waited this long for its client, all counts that wait are merged.
    `max_age_seconds`: a single count that is older is not sent any more. Merged counts are always sent.
    `evict_after_seconds`: a client that fails for this long loses its slot.
    """

    cluster_topic: str
    subscriber: int
    merge_after_seconds: float
    max_age_seconds: float
    evict_after_seconds: float
    networks: AllowedNetworks
    secret: bytes = b""

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host that pushes may go to. Raises OSError."""
        return self.networks.check(host, await asyncio.get_running_loop().run_in_executor(None, resolve, host, port))

    def headers(self, key: str, body: bytes, routed_ms: int = 0) -> str:
        """The headers of a push. Its newest record was published at `routed_ms`; 0 means that it has no record."""
        now = time.time()
        times = f"Routed-Ms: {routed_ms}\r\nPushed-Ms: {int(now * 1000)}\r\n" if routed_ms else ""
        # Every attempt has the same key, also after a restart. So the client can recognise a repeat.
        lines = f"Idempotency-Key: {key}\r\nSubscriber: {self.cluster_topic}/{self.subscriber}\r\n{times}"
        return lines + signature(self.secret, key, body, int(now)) if self.secret else lines


class Attempt(NamedTuple):
    """What came of one attempt: why the client did not take the push, or None if it did."""

    failure: str | None
    retry_after_seconds: float = 0.0  # how long the client asks us to wait


TAKEN = Attempt(None)  # made once, because every push pays for it


class Sender:
    """The connection to one client."""

    def __init__(self, client_url: str, policy: PushPolicy) -> None:
        self._target = Target.parse(client_url)
        self._policy = policy
        self._connection: ClientConnection | None = None

    async def attempt(self, push: Push) -> Attempt:
        """POST a push once."""
        request = self._target.request(self._policy.headers(push.key, push.body, push.routed_ms), push.body)
        try:
            answer = await self._post(request)
        except PushError as error:
            return Attempt(str(error))
        if 200 <= answer.status < 300:
            return TAKEN
        if answer.status == HTTPStatus.GONE:
            return Attempt(GONE)
        return Attempt(f"it answered {answer.status}", answer.retry_after_seconds or 0.0)

    async def probe(self) -> str | None:
        """Connect and send nothing, to find a client that is dead. Return why that failed, or None."""
        if self._connection and self._connection.usable:
            return None
        try:
            (await connect(self._target, self._policy.addresses)).close()
        except PushError as error:
            return str(error)
        return None

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection:
            self._connection.close()

    async def _post(self, request: bytes) -> Response:
        """Raises PushError."""
        if self._connection and self._connection.usable:
            try:
                return await self._connection.post(request)
            except ConnectionLost:
                pass  # a client may close an idle connection at any time, even just before we use it: connect again
        self._connection = await connect(self._target, self._policy.addresses)
        return await self._connection.post(request)


def signature(secret: bytes, message_id: str, body: bytes, now: int) -> str:
    """The signature headers of Standard Webhooks for a message that is sent at `now` (Unix seconds)."""
    signed = hmac.digest(secret, b"%s.%d.%s" % (message_id.encode(), now, body), "sha256")
    shown = base64.b64encode(signed).decode()
    return f"webhook-id: {message_id}\r\nwebhook-timestamp: {now}\r\nwebhook-signature: v1,{shown}\r\n"
