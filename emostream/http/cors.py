"""CORS_ORIGINS → the headers that tell a browser which pages may call us and read the answer."""

from __future__ import annotations

Headers = list[tuple[str, str]]

PREFLIGHT_SECONDS = 86_400


class Cors:
    """The web pages that may read our answers."""

    def __init__(self, origins: str) -> None:
        """`origins` is `*`, a comma-separated list, or empty for none."""
        self._origins = frozenset(filter(None, origins.split(",")))

    @property
    def asks_origin(self) -> bool:
        """Whether the headers depend on the origin of the page."""
        return bool(self._origins - {"*"})

    def headers(self, origin: str | None) -> Headers:
        """The headers for a page of `origin`; names are in lower case."""
        if "*" in self._origins:
            return [("access-control-allow-origin", "*")]
        if not self._origins:
            return []
        # Caches must not give one origin what was meant for another.
        allowed = [("access-control-allow-origin", origin)] if origin and origin in self._origins else []
        return [*allowed, ("vary", "Origin")]


def preflight(methods: str, headers: str) -> Headers:
    """The answer to a browser that asks before it sends: the methods and headers that a page may use."""
    return [
        ("access-control-allow-methods", methods),
        ("access-control-allow-headers", headers),
        ("access-control-max-age", str(PREFLIGHT_SECONDS)),
    ]
