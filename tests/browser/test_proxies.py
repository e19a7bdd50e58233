"""The real processes behind nginx, Caddy and HAProxy, with the files of docs/proxy.md: one https origin for all."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from testkit.broker import Broker
from testkit.browser import Browser
from testkit.proxies import HOST, proxy
from testkit.scripts import script
from testkit.waiting import wait_until

CLUSTER = "cluster1-emoji-topic"
PROXIES = ("nginx", "Caddy", "HAProxy")


@dataclass
class Origin:
    """What a proxy shows of a system. The authority that signed its certificate is only the test's own."""

    url: str

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", urlsplit(self.url).port or 443), timeout=60)
        return context.wrap_socket(plain, server_hostname=HOST)

    def get(self, path: str, end: bytes = b"", **headers: str) -> str:
        """The answer to a GET of a path below the app, to its end; or until it holds `end`, although it goes on."""
        parts = urlsplit(self.url)
        lines = [f"GET {parts.path}{path} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        with self.connect() as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            found = b""
            while not (end and end in found) and (data := connection.recv(65_536)):
                found += data
        return found.decode()

    def status(self, path: str) -> int:
        return int(self.get(path).split(" ")[1])


@pytest.fixture(scope="module")
def system(broker: Broker) -> Iterator[dict[str, str]]:
    """The environment of the processes of one cluster with two subscribers, behind a proxy on this machine."""
    broker.replace_topics()
    environment = broker.environment | {
        "ALLOWED_HOSTS": HOST, "TRUSTED_PROXIES": "127.0.0.1", "ADVERTISED_STREAM_URL": "/s/{cluster}-{subscriber}",
        "RATE_LIMIT_ADDRESS": "", "CLUSTERS": "1", "SUBSCRIBERS": "2",
    }  # fmt: skip
    with ExitStack() as stack:
        app = stack.enter_context(script(environment, "app.py"))
        for number in (1, 2):
            subscriber = stack.enter_context(
                script(environment, "subscriber.py", CLUSTER_TOPIC=CLUSTER, SUBSCRIBER=number)
            )
            subscriber.wait_for("msg=listening")
        stack.enter_context(script(environment, "cluster_publisher.py", CLUSTER_TOPIC=CLUSTER))
        publisher = stack.enter_context(script(environment, "main_publisher.py"))
        app.wait_for_port(int(environment["APP_PORT"]))
        publisher.wait_for("msg=aggregating", timeout_seconds=240)
        yield environment


@pytest.fixture(scope="module")
def page() -> Iterator[Browser]:
    with Browser(arguments=("--ignore-certificate-errors", f"--host-resolver-rules=MAP {HOST} 127.0.0.1")) as found:
        yield found


@pytest.fixture
def viewer(page: Browser) -> Iterator[Browser]:
    """The browser, with nothing left of the test before. Its streams end before its proxy does."""
    page.complaints()
    page.requested_hosts()
    yield page
    page.get("about:blank")


@pytest.fixture(params=[(name, prefix) for name in PROXIES for prefix in ("/match", "")], ids="".join)
def origin(request: pytest.FixtureRequest, system: dict[str, str], tmp_path: Path) -> Iterator[Origin]:
    name, prefix = request.param
    with proxy(name, prefix, system, tmp_path) as (_, url):
        yield Origin(url)


def test_viewers_tap_and_watch_through_one_https_origin_and_nothing_else_is_open(
    origin: Origin, viewer: Browser
) -> None:
    parts = urlsplit(origin.url)
    wanted = {f"{origin.url}/s/1-{number}/stream" for number in (1, 2)}

    def stream_urls() -> set[str | None]:
        listed = json.loads(origin.get("/subscribers", X_Forwarded_Host="evil.example").partition("\r\n\r\n")[2])
        return {one["stream_url"] for one in listed["subscribers"]}

    # Any worker may answer, and a subscriber that is late to tell its status has no stream for a moment.
    wait_until("both streams are listed below the one origin", lambda: stream_urls() == wanted)
    assert "connect-src 'self'; base-uri" in origin.get("/")
    for path in ("/metrics", "/dashboard.json", "/s/1-1/status", "/s/9-9/stream", "/rooms"):
        assert origin.status(path) in (404, 405), path
    # Unbuffered: the beginning of a stream comes although nothing follows it.
    assert "retry: 1000" in origin.get("/s/1-1/stream", end=b"retry: 1000\n")

    viewer.open(f"{origin.url}/")
    viewer.wait_live()
    before = len(viewer.batches())
    viewer.js("inside(`button[value='🔥']`).click()")
    wait_until("it comes back from the crowd", lambda: len(viewer.batches()) > before)
    assert viewer.js("location.protocol") == "https:"
    assert viewer.complaints() == []
    viewer.open(f"{origin.url}/overlay")
    wait_until("the overlay shows the last minute", lambda: viewer.floated())
    assert viewer.complaints() == []
    assert viewer.requested_hosts() == {parts.netloc}
