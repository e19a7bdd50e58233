"""An answer that caches may keep → its compressed body for those who take gzip, or 304 for those who have it."""

from __future__ import annotations

from typing import TypeVar

from werkzeug.wrappers import Request, Response

R = TypeVar("R", bound=Response)


def compressed(response: R, gzipped: bytes, request: Request, cache_control: str) -> R:
    """Complete a response with a plain body, of which `gzipped` is the same, and return it."""
    if request.accept_encodings["gzip"] > 0:
        response.data = gzipped
        response.content_encoding = "gzip"
    response.vary.add("Accept-Encoding")
    response.headers["Cache-Control"] = cache_control
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.add_etag()
    response.make_conditional(request)
    return response
