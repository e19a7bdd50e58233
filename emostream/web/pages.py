"""GET /, /overlay and /dashboard → a page; GET /web/... → a file of it; GET /emo-reactions.js → the element that other
people's pages show; GET /subscribers → where streams are.

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

from emostream import roles
from emostream.discovery import Directory, SubscriberList
from emostream.http.compressed import compressed
from emostream.http.messages import JSON, refusal
from emostream.settings import Settings

WEB_DIR = Path(__file__).parent
# Python's mimetypes reads the system's list, which may lack .js.
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
# The URL of a file holds the version of all files, so a browser may keep the file for good.
FOREVER = "public, max-age=31536000, immutable"
ASK_FIRST = "no-cache"
# The address of the element stays, so a new version reaches other people's pages within this time.
FOR_MINUTES = "public, max-age=600"
ELEMENT = "emo-reactions.js"
MAX_ORIGINS = 50
# Lines of the element that are only a comment: a quarter of what every viewer would load.
_comments = re.compile(rb"^[ ]*(//|/\*\*|\*).*\n", re.MULTILINE)
_plain_origin = re.compile(r"https?://[A-Za-z0-9.-]{1,253}(:[0-9*]+)?")
SHOWN_OF_A_URL = 200


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
        response = compressed(Response(self.body, mimetype=self.mimetype), self.gzipped, request, cache_control)
        response.headers["Referrer-Policy"] = "no-referrer"
        return response


def blueprint(settings: Settings, directory: Directory) -> Blueprint:
    """Return the routes. Each page and file is read, rendered and compressed once."""
    paths = [path for path in sorted(WEB_DIR.rglob("*")) if path.suffix in TYPES and path.suffix != ".html"]
    files = {path.relative_to(WEB_DIR).as_posix(): WebFile.of(path.read_bytes(), path.suffix) for path in paths}
    files[ELEMENT] = WebFile.of(_comments.sub(b"", files[ELEMENT].body), ".js")
    version = hashlib.blake2b(b"".join(file.body for file in files.values()), digest_size=6).hexdigest()
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(WEB_DIR), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip

    def page(name: str) -> WebFile:
        html = templates.get_template(f"{name}/{name}.html").render(
            files=f"web/{version}",  # relative, because a proxy may have put the app below a path
            allowed_emojis=settings.allowed_emojis,
        )
        return WebFile.of(html.encode(), ".html")

    def root() -> str:
        """Return the app's address as the browser knows it, without a slash at the end."""
        host = request.host if _host() else f"{roles.local_url(settings)}:{settings.app_port}".removeprefix("http://")
        prefix = request.script_root.strip("/")
        return f"{request.scheme}://{host}/{prefix}".rstrip("/")

    def origins() -> list[str]:
        """Return where a page may read streams: anywhere, if the policy cannot name all of them."""
        found = [url for url in directory.stream_origins(root()) if url != f"{request.scheme}://{request.host}"]
        # A policy cannot name an IPv6 address. And a proxy may take no more than 4 KB of headers.
        named = len(found) <= MAX_ORIGINS and all(_plain_origin.fullmatch(url) for url in found)
        return found if named else [f"{request.scheme}://*:*"]

    viewer, overlay, dashboard = page("viewer"), page("overlay"), page("dashboard")
    pages = Blueprint("pages", __name__)

    @pages.get("/")
    def show_viewer() -> Response:
        video = request.args.get("video", "")
        origin = _origin(video)
        if video and not origin:
            answer = refusal(
                400, f"video: expected an http or https URL with a plain host name, got {video[:SHOWN_OF_A_URL]}"
            )
            return Response(answer.body, answer.status, mimetype=JSON)
        return _with_policy(viewer.answer(ASK_FIRST), origins(), frame_ancestors="'self'", video_origin=origin)

    @pages.get("/overlay")
    def show_overlay() -> Response:
        # The overlay lies over pictures of other programs, so any page may frame it. OBS inserts its Custom CSS as a
        # <style> element. That is harmless, because the overlay shows no text that others wrote.
        styles = "'self' 'unsafe-inline'"
        return _with_policy(overlay.answer(ASK_FIRST), origins(), frame_ancestors="*", styles=styles)

    @pages.get("/dashboard")
    def show_dashboard() -> Response:
        return _with_policy(dashboard.answer(ASK_FIRST), [], frame_ancestors="'self'")

    @pages.get("/web/<asked_version>/<path:name>")
    def show_file(asked_version: str, name: str) -> Response:
        if name not in files:
            abort(404)
        # A page that was loaded before an update asks for the old version. It gets the new file, but must not keep it.
        return files[name].answer(FOREVER if asked_version == version else ASK_FIRST)

    @pages.get(f"/{ELEMENT}")
    def show_element() -> Response:
        response = files[ELEMENT].answer(FOR_MINUTES)
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        return response

    @pages.get("/subscribers")
    def show_subscribers() -> Response:
        listing = SubscriberList(directory.now(root()), settings.batch_seconds)
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


def _origin(url: str) -> str:
    """Return where an http or https URL points, as a policy names it; "" for any other text."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    origin = f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")
    return origin if _plain_origin.fullmatch(origin) else ""


def _with_policy(
    response: Response, origins: list[str], frame_ancestors: str, styles: str = "'self'", video_origin: str = ""
) -> Response:
    """Let the page load only our files and videos of one origin, and call only this app and these origins."""
    media = (f"media-src {video_origin}",) if video_origin else ()
    response.headers["Content-Security-Policy"] = "; ".join((
        "default-src 'none'", "script-src 'self'", f"style-src {styles}", "img-src 'self'",
        " ".join(("connect-src 'self'", *origins)), "base-uri 'none'", "form-action 'none'",
        f"frame-ancestors {frame_ancestors}", *media,
    ))  # fmt: skip
    return response
