"""GET /, /overlay and /dashboard → a page; GET /web/... → a file of it; GET /subscribers → where streams are.

Each page has a folder here. Files that several pages load are in shared/.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import jinja2
import msgspec
from flask import Blueprint, Response, abort, request

from emostream.discovery import Directory, SubscriberList
from emostream.settings import SEED_EMOJIS, Settings

WEB_DIR = Path(__file__).parent
# Python's mimetypes reads the system's list, which may lack .js.
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
# The URL of a file holds the version of all files, so a browser may keep the file for good.
FOREVER = "public, max-age=31536000, immutable"
ASK_FIRST = "no-cache"
# A host name or an IPv4 address. A content security policy cannot name an IPv6 address.
_plain_host = re.compile(r"[A-Za-z0-9.-]{1,253}")


@dataclass(frozen=True)
class WebFile:
    """A file, plain and compressed."""

    body: bytes
    gzipped: bytes
    mimetype: str

    @classmethod
    def of(cls, body: bytes, suffix: str) -> WebFile:
        """Compress a body once, for all who ask for it."""
        return cls(body, gzip.compress(body, mtime=0), TYPES[suffix])

    def answer(self, cache_control: str) -> Response:
        """200 with the file, or 304 if the browser already has it."""
        compressed = request.accept_encodings["gzip"] > 0
        response = Response(self.gzipped if compressed else self.body, mimetype=self.mimetype)
        if compressed:
            response.content_encoding = "gzip"
        response.vary.add("Accept-Encoding")
        response.headers["Cache-Control"] = cache_control
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.add_etag()
        response.make_conditional(request)
        return response


def blueprint(settings: Settings, directory: Directory) -> Blueprint:
    """Return the routes. Each page and file is read, rendered and compressed once."""
    paths = [path for path in sorted(WEB_DIR.rglob("*")) if path.suffix in TYPES and path.suffix != ".html"]
    files = {path.relative_to(WEB_DIR).as_posix(): WebFile.of(path.read_bytes(), path.suffix) for path in paths}
    version = hashlib.blake2b(b"".join(file.body for file in files.values()), digest_size=6).hexdigest()
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(WEB_DIR), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip

    def page(name: str) -> WebFile:
        html = templates.get_template(f"{name}/{name}.html").render(
            files=f"/web/{version}",
            emojis=settings.allowed_emojis or SEED_EMOJIS,
            allowed_emojis=settings.allowed_emojis,
            batch_seconds=f"{settings.batch_seconds:g}",
        )
        return WebFile.of(html.encode(), ".html")

    viewer, overlay, dashboard = page("viewer"), page("overlay"), page("dashboard")
    pages = Blueprint("pages", __name__)

    @pages.get("/")
    def show_viewer() -> Response:
        return _with_policy(viewer.answer(ASK_FIRST), frame_ancestors="'self'")

    @pages.get("/overlay")
    def show_overlay() -> Response:
        # The overlay lies over pictures of other programs, so any page may frame it. OBS inserts its Custom CSS as a
        # <style> element. That is harmless, because the overlay shows no text that others wrote.
        return _with_policy(overlay.answer(ASK_FIRST), frame_ancestors="*", styles="'self' 'unsafe-inline'")

    @pages.get("/dashboard")
    def show_dashboard() -> Response:
        return _with_policy(dashboard.answer(ASK_FIRST), frame_ancestors="'self'", streams=False)

    @pages.get("/web/<asked_version>/<path:name>")
    def show_file(asked_version: str, name: str) -> Response:
        if name not in files:
            abort(404)
        # A page that was loaded before an update asks for the old version. It gets the new file, but must not keep it.
        return files[name].answer(FOREVER if asked_version == version else ASK_FIRST)

    @pages.get("/subscribers")
    def show_subscribers() -> Response:
        host = _host() or settings.client_host
        host = f"[{host}]" if ":" in host else host
        listing = SubscriberList(directory.now(host))
        return Response(
            msgspec.json.encode(listing), mimetype="application/json", headers={"Cache-Control": "no-store"}
        )

    return pages


def _host() -> str | None:
    """Return the host, without the port, by which the browser reached this app; None if it cannot be read."""
    try:
        return urlsplit(f"//{request.host}").hostname
    except ValueError:
        return None


def _with_policy(response: Response, frame_ancestors: str, streams: bool = True, styles: str = "'self'") -> Response:
    """Let the page load only our files, and call only this app and, with `streams`, the other ports of this host."""
    host = _host() or ""
    allowed = f"http://{host}:*" if _plain_host.fullmatch(host) else "http://*:*"
    connect = f"'self' {allowed}" if streams else "'self'"
    response.headers["Content-Security-Policy"] = "; ".join((
        "default-src 'none'", "script-src 'self'", f"style-src {styles}", "img-src 'self'",
        f"connect-src {connect}", "base-uri 'none'", "form-action 'none'", f"frame-ancestors {frame_ancestors}",
    ))  # fmt: skip
    return response
