"""A push → one POST to the client on a connection that is kept open, and what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple

from emostream.deliver.push.slow_clients import Push
from emostream.http.client import ClientConnection, ConnectionLost, PushError, Response, Target, connect

GONE = "it answered 410 Gone"


class Attempt(NamedTuple):
    """One attempt: `failure` says why the client did not take the push; None means that it did."""

    failure: str | None
    retry_after_seconds: float = 0.0  # what the client asks us to wait


class Sender:
    """The connection to one client."""

    def __init__(
        self, client_url: str, addresses: Callable[[str, int], Awaitable[list[str]]],
        headers: Callable[[str, bytes, int], str],
    ) -> None:  # fmt: skip
        """`addresses(host, port)` returns the addresses that may be pushed to; `headers` those of one attempt."""
        self._target = Target.parse(client_url)
        self._addresses = addresses
        self._headers = headers
        self._connection: ClientConnection | None = None

    async def attempt(self, push: Push) -> Attempt:
        """POST once."""
        request = self._target.request(self._headers(push.key, push.body, push.routed_ms), push.body)
        try:
            answer = await self._post(request)
        except PushError as error:
            return Attempt(str(error))
        if 200 <= answer.status < 300:
            return Attempt(None)
        if answer.status == HTTPStatus.GONE:
            return Attempt(GONE)
        return Attempt(f"it answered {answer.status}", answer.retry_after_seconds or 0.0)

    async def probe(self) -> str | None:
        """Connect and say nothing; returns why that failed. A dead client is found though there is nothing to send."""
        if self._connection and self._connection.usable:
            return None
        try:
            (await connect(self._target, self._addresses)).close()
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
                pass  # a server may close an idle connection at any time, even as we use it: connect anew
        self._connection = await connect(self._target, self._addresses)
        return await self._connection.post(request)
