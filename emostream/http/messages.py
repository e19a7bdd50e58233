"""One HTTP request and one answer, as every server of ours knows them; and the refusals that all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

JSON = "application/json"
RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True)
class Answer:
    """What a request is answered with, in JSON; `error` is what a refusal's body says."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    error: str = ""


def refusal(status: int, error: str, *headers: tuple[str, str]) -> Answer:
    """A refusal: what was expected and what came."""
    return Answer(status, msgspec.json.encode({"error": error}), headers, error)


def retry(status: int, error: str, seconds: int = RETRY_AFTER_SECONDS) -> Answer:
    """A refusal for now."""
    return refusal(status, error, ("retry-after", str(seconds)))


def too_large(most: int) -> Answer:
    """A body of more bytes than there may be."""
    return refusal(413, f"expected a body of at most {most} bytes, got a larger one")


class Request(NamedTuple):
    """One request as it came: header names in lower case, those that came several times joined by commas.

    `target` is what follows the method, `peer` an IP address. `refusal`: what it is answered without a look at it.
    """

    headers: dict[bytes, bytes]
    peer: str
    method: bytes = b""
    target: bytes = b""
    body: bytes = b""
    refusal: Answer | None = None


BUSY = retry(503, "try again: expected fewer requests at a time, got more than can be answered at once")
FAILED = refusal(500, "this should not have happened; the app's log says more")
