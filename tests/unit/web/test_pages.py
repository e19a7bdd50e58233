"""emostream.web.pages: what a browser gets, how long it may keep it, and what it may do with it."""

from __future__ import annotations

import gzip
import re
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urljoin

import esprima
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import Client, TestResponse

from emostream import roles
from emostream.discovery import SubscriberStatus
from emostream.http.wsgi import behind_proxies, serve_wsgi
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
    found = {f"/{path}" for path in re.findall(r'(?:src|href)="(web/[^"]+)"', pages)}
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


def test_the_buttons_are_the_allowed_emojis_or_those_of_the_element() -> None:
    assert '<emo-reactions src="."></emo-reactions>' in client().get("/").text
    assert '<emo-reactions src="." emojis="🏏 ❤️"></emo-reactions>' in client(EMOJIS="🏏,❤️").get("/").text
    listed = ", ".join(f'"{emoji}"' for emoji in SEED_EMOJIS)
    assert f"EMOJIS = [{listed}]" in (WEB_DIR / "emo-reactions.js").read_text()


def test_the_element_is_small_and_other_peoples_pages_may_load_it() -> None:
    answer = client().get("/emo-reactions.js", headers=GZIP)
    assert answer.status_code == 200
    assert answer.mimetype == "text/javascript"
    assert answer.headers["Cache-Control"] == "public, max-age=600"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert len(answer.data) <= 12_000
    again = client().get("/emo-reactions.js", headers=GZIP | {"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_the_element_without_its_comments_is_the_same_script() -> None:
    served, source = client().get("/emo-reactions.js").text, (WEB_DIR / "emo-reactions.js").read_text()
    assert "/**" not in served
    assert len(served) < 0.9 * len(source)
    assert esprima.parseModule(served).toDict() == esprima.parseModule(source).toDict()


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
        # A policy cannot name an IPv6 address. For a host that is none, the streams are listed at the app's own.
        named = "http://*:*" if host == "[::1]:5000" else "http://127.0.0.1:*"
        assert f"connect-src 'self' {named}; base-uri" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("video", "origin"),
    [
        ("https://video.example/final.mp4?token=1", "https://video.example"),
        ("HTTP://Video.Example:8080/final.m3u8", "http://video.example:8080"),
        ("http://127.0.0.1/final.webm", "http://127.0.0.1"),
        ("https://user:secret@video.example/x", "https://video.example"),
    ],
)
def test_a_page_with_a_picture_may_also_load_videos_of_its_origin(video: str, origin: str) -> None:
    without = policy("/", Host="show.example")
    assert policy(f"/?video={video}", Host="show.example") == without | {"media-src": origin}


@pytest.mark.parametrize("path", ["/", "/?video=", "/?room=final", "/overlay?video=https://video.example/x"])
def test_a_page_without_a_picture_loads_no_video(path: str) -> None:
    assert "media-src" not in policy(path)


@pytest.mark.parametrize(
    "video",
    [
        "final.mp4", "/final.mp4", "//video.example/x", "ftp://video.example/x", "javascript:1", "data:video/mp4,x",
        "blob:https://video.example/x", "https://", "https://[::1]/x", "https://[", "https://video.example:x/",
        "https://video.example:99999/", "https://a b/x", "https://a%3Bscript-src%20*/x", "https://*/x", "https:/x",
        "https://münchen.example/x", "https://a'/x",
    ],
)  # fmt: skip
def test_a_video_that_cannot_be_one_is_refused_in_a_sentence(video: str) -> None:
    answer = client().get("/", query_string={"video": video})
    assert answer.status_code == 400
    assert answer.json is not None
    expected = "video: expected an http or https URL with a plain host name, got "
    assert answer.json["error"].startswith(expected + video[:10])


def test_no_page_has_inline_scripts_or_styles() -> None:
    for path in PAGES:
        page = client().get(path).text
        assert not re.search(r"<style|style=|<script(?![^>]* src=)|\son\w+=", page)
        assert not re.search(r"https?:", page)


def test_subscribers_are_listed_at_the_host_that_was_asked() -> None:
    answer = client().get("/subscribers", headers={"Host": "show.example:5000"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json == {
        "batch_seconds": 2.0,
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


FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "fans.example.org", "X-Forwarded-Prefix": "/match"}


def proxied(path: str, forwarded: dict[str, str], advertised: str = "", peer: str = "192.0.2.1") -> TestResponse:
    """The answer to a request that a proxy at `peer` passes on; the one at 192.0.2.1 is trusted."""
    app = Flask("test")
    app.register_blueprint(blueprint(settings_with(), FakeDirectory(FOUND, ADVERTISED_STREAM_URL=advertised)))
    trusting = behind_proxies(app, settings_with(TRUSTED_PROXIES="192.0.2.0/30").trusted_networks)
    headers = {"Host": "127.0.0.1:5000"} | forwarded
    return Client(trusting).get(path, headers=headers, environ_overrides={"REMOTE_ADDR": peer})


def connects_to(answer: TestResponse) -> str:
    return answer.headers["Content-Security-Policy"].partition("connect-src ")[2].partition(";")[0]


@pytest.mark.parametrize(
    ("advertised", "forwarded", "stream_url", "origins"),
    [
        ("/s/{cluster}-{subscriber}", {}, "https://fans.example.org/match/s/1-2/stream", "'self'"),
        ("/s/{cluster}-{subscriber}", {"X-Forwarded-Prefix": ""}, "https://fans.example.org/s/1-2/stream", "'self'"),
        ("/s", {"X-Forwarded-Prefix": "match/"}, "https://fans.example.org/match/s/stream", "'self'"),
        ("/s", {"X-Forwarded-Host": "fans.example.org:8443"}, "https://fans.example.org:8443/match/s/stream", "'self'"),
        ("/s", {"X-Forwarded-Host": "evil.example, fans.example.org"}, "https://fans.example.org/match/s/stream",
         "'self'"),
        ("https://fans.example.org/s", {}, "https://fans.example.org/s/stream", "'self'"),
        ("https://s.example.org/s", {}, "https://s.example.org/s/stream", "'self' https://s.example.org"),
        ("", {}, "https://fans.example.org:7102/stream", "'self' https://fans.example.org:*"),
        ("", {"X-Forwarded-Host": "a;script-src *"}, "https://127.0.0.1:7102/stream", "'self' https://127.0.0.1:*"),
    ],
)  # fmt: skip
def test_behind_a_trusted_proxy_addresses_are_as_the_browser_sees_them(
    advertised: str, forwarded: dict[str, str], stream_url: str, origins: str
) -> None:
    listed = proxied("/subscribers", FORWARDED | forwarded, advertised).json
    assert listed is not None
    assert listed["subscribers"][0]["stream_url"] == stream_url
    for path in ("/", "/overlay"):
        assert connects_to(proxied(path, FORWARDED | forwarded, advertised)) == origins
    assert connects_to(proxied("/dashboard", FORWARDED | forwarded, advertised)) == "'self'"


def test_a_policy_that_would_get_too_long_allows_every_host() -> None:
    def policy_with(subscribers: int) -> str:
        settings = settings_with(SUBSCRIBERS=subscribers, CLUSTERS=1)
        known = dict[roles.Role, SubscriberStatus | None].fromkeys(roles.subscribers(settings))
        app = Flask("test")
        directory = FakeDirectory(known, ADVERTISED_STREAM_URL="https://s{subscriber}.example.org")
        app.register_blueprint(blueprint(settings, directory))
        return connects_to(app.test_client().get("/"))

    assert policy_with(50).count("https://s") == 50
    assert policy_with(51) == "'self' http://*:*"


def test_nobody_else_decides_what_the_browser_sees() -> None:
    answer = proxied("/subscribers", FORWARDED, "/s/{cluster}-{subscriber}", peer="192.0.2.9")
    assert answer.json is not None
    assert answer.json["subscribers"][0]["stream_url"] == "http://127.0.0.1:5000/s/1-2/stream"
    assert connects_to(proxied("/", FORWARDED, peer="192.0.2.9")) == "'self' http://127.0.0.1:*"


def test_a_page_names_no_path_from_the_root_of_its_host_so_that_a_proxy_can_put_it_below_a_path() -> None:
    names = re.compile(r"""(?:href|src)="/|(?:ask|fetch)\(["`]/|from "/""")
    for path in [*PAGES, *(file for file in files() if file.endswith(".js"))]:
        assert not names.search(client().get(path).text), path
