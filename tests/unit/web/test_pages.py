"""emostream.web.pages: what a browser gets, how long it may keep it, and what it may do with it."""

from __future__ import annotations

import gzip
import re
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urljoin

import pytest
from flask import Flask
from flask.testing import FlaskClient

from emostream import roles
from emostream.discovery import SubscriberStatus
from emostream.http.wsgi import serve_wsgi
from emostream.process import Log, bound_socket
from emostream.settings import SEED_EMOJIS
from emostream.web.pages import WEB_DIR, blueprint
from testkit.doubles import FakeDirectory
from testkit.settings import settings_with

FOUND = {
    roles.subscriber(settings_with(), 1, 1): None,
    roles.subscriber(settings_with(), 1, 2): SubscriberStatus(2, stream_port=7102, streams=0, available_streams=10),
}
PAGES = ("/", "/overlay", "/dashboard")
GZIP = {"Accept-Encoding": "gzip, br"}


def client(**settings: object) -> FlaskClient:
    app = Flask("test")
    app.register_blueprint(blueprint(settings_with(**settings), FakeDirectory(FOUND)))
    return app.test_client()


def files() -> list[str]:
    """The paths that the pages name, and those that their modules import."""
    app = client()
    pages = "".join(app.get(path).text for path in PAGES)
    found = set(re.findall(r'(?:src|href)="(/web/[^"]+)"', pages))
    unread = {path for path in found if path.endswith(".js")}
    while unread:
        module = unread.pop()
        imported = {urljoin(module, name) for name in re.findall(r'from "(\.[^"]+)"', app.get(module).text)}
        unread |= imported - found
        found |= imported
    return sorted(found)


def test_every_file_that_a_page_needs_is_there_and_may_be_kept_for_good() -> None:
    assert len(files()) == len([path for path in WEB_DIR.rglob("*") if path.suffix in (".js", ".css", ".svg")])
    for path in files():
        answer = client().get(path)
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.mimetype in ("text/javascript", "text/css", "image/svg+xml")


def test_a_file_of_another_version_is_not_kept() -> None:
    assert client().get("/web/000000000000/viewer/viewer.js").headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/web/x/viewer/nothing.js",
        "/web/x/viewer.js",
        "/web/x/viewer/viewer.html",
        "/web/x/..%2fpages.py",
        "/web/x/pages.py",
        "/web/x/viewer/",
        "/web/x",
    ],
)
def test_nothing_else_is_served(path: str) -> None:
    assert client().get(path).status_code == 404


@pytest.mark.parametrize("path", [*PAGES, *files()])
def test_the_compressed_body_is_the_plain_one(path: str) -> None:
    plain, compressed = client().get(path), client().get(path, headers=GZIP)
    assert compressed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert gzip.decompress(compressed.data) == plain.data
    assert plain.headers["Vary"] == compressed.headers["Vary"] == "Accept-Encoding"
    assert plain.headers["ETag"] != compressed.headers["ETag"]


@pytest.mark.parametrize("path", [*PAGES, files()[0], "/subscribers", "/web/x/y"])
def test_every_answer_has_one_date(path: str) -> None:
    app = Flask("test")
    app.register_blueprint(blueprint(settings_with(), FakeDirectory(FOUND)))
    listener = bound_socket("127.0.0.1", 0, "test")
    serve_wsgi(app, listener, Log("test"), settings_with())
    with closing(HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=10)) as connection:
        connection.request("GET", path)
        assert len(connection.getresponse().headers.get_all("Date", [])) == 1


@pytest.mark.parametrize("path", [*PAGES, files()[0]])
def test_a_file_that_the_browser_already_has_is_not_sent_again(path: str) -> None:
    first = client().get(path, headers=GZIP)
    again = client().get(path, headers=GZIP | {"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert client().get(path, headers=GZIP | {"If-None-Match": '"another"'}).status_code == 200


def buttons(page: str) -> list[str]:
    return re.findall(r'<button type="button" value="([^"]*)"', page)


def test_the_buttons_are_the_seeds_emojis_or_the_allowed_ones() -> None:
    assert buttons(client().get("/").text) == list(SEED_EMOJIS)
    assert buttons(client(EMOJIS="🏏,❤️").get("/").text) == ["🏏", "❤️"]


def test_an_allowed_emoji_cannot_break_out_of_the_page() -> None:
    page = client(EMOJIS='"><script>1</script>').get("/").text
    assert "<script>1" not in page


def policy(path: str, **headers: Any) -> dict[str, str]:
    found = client().get(path, headers=headers).headers["Content-Security-Policy"]
    return dict(directive.split(" ", 1) for directive in found.split("; "))


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_only_load_our_files_and_ask_this_host(path: str) -> None:
    found = policy(path, Host="show.example:8080")
    streams = "" if path == "/dashboard" else " http://show.example:*"
    assert found.pop("connect-src") == f"'self'{streams}"
    assert found.pop("default-src") == found.pop("base-uri") == found.pop("form-action") == "'none'"
    assert found.pop("script-src") == found.pop("img-src") == "'self'"
    # OBS inserts its Custom CSS as a <style> element.
    assert found.pop("style-src") == ("'self' 'unsafe-inline'" if path == "/overlay" else "'self'")
    assert list(found) == ["frame-ancestors"]


@pytest.mark.parametrize("host", ["[::1]:5000", "a;script-src *", "a b", "'unsafe-inline'", "[", ""])
def test_a_strange_host_adds_nothing_to_the_policy(host: str) -> None:
    answer = client().get("/", headers={"Host": host})
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert "connect-src 'self' http://*:*; base-uri" in answer.headers["Content-Security-Policy"]


def test_no_page_has_inline_scripts_or_styles() -> None:
    for path in PAGES:
        page = client().get(path).text
        assert not re.search(r"<style|style=|<script(?![^>]* src=)|\son\w+=", page)
        assert not re.search(r"https?:", page)


def test_subscribers_are_listed_at_the_host_that_was_asked() -> None:
    answer = client().get("/subscribers", headers={"Host": "show.example:5000"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json == {
        "subscribers": [
            {
                "url": "http://show.example:7002", "stream_url": "http://show.example:7102/stream", "cluster": 1,
                "subscriber": 2, "alive": True, "available_slots": 2, "available_streams": 10, "streams": 0,
            },
            {
                "url": "http://show.example:7001", "stream_url": None, "cluster": 1,
                "subscriber": 1, "alive": False, "available_slots": 0, "available_streams": None, "streams": None,
            },
        ]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("host", "url"),
    [("[::1]:5000", "http://[::1]:7002"), ("localhost", "http://localhost:7002"), ("[", "http://127.0.0.1:7002")],
)
def test_addresses_are_well_formed_whatever_the_host(host: str, url: str) -> None:
    answer = client().get("/subscribers", headers={"Host": host})
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert answer.json is not None
        assert answer.json["subscribers"][0]["url"] == url
