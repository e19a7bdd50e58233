"""CORS_ORIGINS → the headers that tell a browser which pages may call us and read the answer."""

from __future__ import annotations

import re
from collections.abc import Callable

from emostream.http.messages import Answer, Request

Headers = list[tuple[str, str]]

PREFLIGHT_SECONDS = 86_400
MAX_ASKED_CHARACTERS = 2_000
_names = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+( *, *[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")


class Cors:
    """The web pages that may read our answers."""

    def __init__(self, origins: str) -> None:
        """`origins` is `*`, a comma-separated list, or empty for none."""
        self._origins = frozenset(filter(None, origins.split(",")))

    @property
    def asks_origin(self) -> bool:
        """Whether the headers differ between origins."""
        return bool(self._origins - {"*"})

    def headers(self, origin: str | None, retry_after: bool = False) -> Headers:
        """Return the headers for a page of `origin`. `retry_after`: the answer has a Retry-After."""
        # Browsers hide most headers of an answer from a page, unless the answer names them.
        exposed = [("access-control-expose-headers", "Retry-After")] if retry_after else []
        if "*" in self._origins:
            return [("access-control-allow-origin", "*"), *exposed]
        if not self._origins:
            return []
        # No cache may give the answer for one origin to another.
        if origin and origin in self._origins:
            return [("access-control-allow-origin", origin), *exposed, ("vary", "Origin")]
        return [("vary", "Origin")]

    def headed(self, answer: Answer, request: Request) -> Answer:
        """Add these headers to an answer."""
        added = self.headers(request.header("origin"), any(name == "retry-after" for name, _ in answer.headers))
        return Answer(answer.status, answer.body, (*answer.headers, *added), answer.error)

    def preflight(self, header: Callable[[str], str | None], methods: str, headers: str) -> Headers:
        """Return the headers that tell a browser, before it sends, which methods and headers a page may use.

        `header` looks up a header of the request. A page of an allowed origin may use every header that it asks for:
        tracing adds some, and none does harm here.
        """
        found = [
            ("access-control-allow-methods", methods),
            ("access-control-allow-headers", headers),
            ("access-control-max-age", str(PREFLIGHT_SECONDS)),
        ]
        if "*" in self._origins or header("origin") in self._origins:
            asked = (header("access-control-request-headers") or "").strip()
            if len(asked) <= MAX_ASKED_CHARACTERS and _names.fullmatch(asked):
                found[1] = ("access-control-allow-headers", asked)
            if header("access-control-request-private-network") == "true":
                found.append(("access-control-allow-private-network", "true"))
        return found
