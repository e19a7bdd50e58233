"""CORS_ORIGINS → the headers by which a browser knows whether a page may read an answer; of the app and of streams."""

from __future__ import annotations

Headers = list[tuple[str, str]]


class Cors:
    """Which web pages may read what is answered."""

    def __init__(self, origins: str) -> None:
        """`origins` is `*`, a comma-separated list, or empty for none."""
        self._origins = frozenset(filter(None, origins.split(",")))

    @property
    def asks_origin(self) -> bool:
        """Whether the headers depend on who asks."""
        return bool(self._origins - {"*"})

    def headers(self, origin: str | None) -> Headers:
        """What to say to a page of `origin`; names are in lower case."""
        if "*" in self._origins:
            return [("access-control-allow-origin", "*")]
        if not self._origins:
            return []
        # Caches must not give one origin what was meant for another.
        allowed = [("access-control-allow-origin", origin)] if origin and origin in self._origins else []
        return [*allowed, ("vary", "Origin")]
