"""Who may ask for what, on every port: host names that are not ours, and the calls that are for operators only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NoReturn

import pytest

from emostream.http.access import AllowedHosts, Operators
from emostream.http.messages import Answer, Request
from emostream.operate.dashboard import timeline
from emostream.operate.dashboard.counts_reader import TopicUnreadable
from testkit.settings import settings_with
from tests.unit.field.ports import Port, Reply, every_port, talk

KEY = "s3cret-ключ"
OPERATORS_CALLS = [
    ("app", "/metrics"), ("app", "/dashboard.json"), ("app", "/timeline.json"), ("app", "/timeline.csv"),
    ("app", "/timeline.csv?minutes=1"), ("app", "/timeline"), ("app", "/dashboard/x"), ("app", "//metrics"),
    ("app", "/%6Detrics"), ("app", "/metrics?a"), ("app", "http://localhost/metrics"), ("app", "///dashboard.json"),
    ("app", "/%2Ftimeline.csv"), ("subscriber", "/metrics"), ("subscriber", "//metrics"),
    ("subscriber", "/metric%73"),
    ("publisher", "/metrics"), ("publisher", "/%2e/../metrics"), ("publisher", "//metrics"),
]  # fmt: skip
OTHER_CALLS = [
    ("app", "/livez"), ("app", "/readyz"), ("app", "/dashboard"), ("app", "/"), ("app", "/subscribers"),
    ("app", "/openapi.json"), ("subscriber", "/status"), ("publisher", "/livez"), ("stream", "/stream"),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def no_broker() -> Iterator[None]:
    """Reading the counts fails at once; a real reader would first look for a broker for seconds."""

    def fail(*_: object) -> NoReturn:
        raise TopicUnreadable("there is no broker")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeline, "read_counts", fail)
        yield


@pytest.fixture(scope="module")
def locked() -> dict[str, Port]:
    """With OPERATOR_KEY, and pages of any origin."""
    return every_port(settings_with(OPERATOR_KEY=KEY, TRUSTED_PROXIES="127.0.0.1"))


@pytest.fixture(scope="module")
def unlocked() -> dict[str, Port]:
    return every_port(settings_with())


def ask(port: Port, target: str, *headers: str, method: str = "GET", body: bytes = b"") -> Reply:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", ""]
    [reply] = talk(port.number, "\r\n".join(lines).encode() + body)
    assert reply is not None
    return reply


def assert_refused(reply: Reply, status: int, named: str) -> None:
    assert reply.status == status, reply.body
    assert named in json.loads(reply.body)["error"]
    assert (reply.header("www-authenticate") == "Bearer") == (status == 401)
    assert reply.header("access-control-allow-origin") is None


@pytest.mark.parametrize(("process", "target"), OPERATORS_CALLS)
def test_with_a_key_an_operators_call_needs_it(locked: dict[str, Port], process: str, target: str) -> None:
    for wrong in ("Accept: */*", "Authorization: Basic YTpi", "Cookie: emostream_operator=x", f"X-API-Key: {KEY}"):
        reply = ask(locked[process], target, wrong)
        if reply.status != 404:  # what nobody serves tells nothing
            assert_refused(reply, 401, "OPERATOR_KEY")
    for method in ("HEAD", "POST", "OPTIONS", "DELETE"):
        lines = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        [answered] = talk(locked[process].number, lines, head_only=method == "HEAD")
        assert answered is not None
        assert answered.status in (401, 404)


@pytest.mark.parametrize(("process", "target"), OPERATORS_CALLS)
def test_who_shows_the_key_may_make_an_operators_call(locked: dict[str, Port], process: str, target: str) -> None:
    reply = ask(locked[process], target, f"Authorization: bearer  {KEY}")
    assert reply.status in (200, 404, 503), reply.body
    assert reply.header("access-control-allow-origin") is None or reply.status == 404


@pytest.mark.parametrize(("process", "target"), OTHER_CALLS)
def test_no_other_call_needs_the_operators_key(locked: dict[str, Port], process: str, target: str) -> None:
    assert ask(locked[process], target).status in (200, 503)


def test_the_dashboard_gets_a_cookie_for_the_key_that_scripts_cannot_read(locked: dict[str, Port]) -> None:
    app = locked["app"]
    reply = sign_in(app, KEY)
    assert (reply.status, reply.header("access-control-allow-origin")) == (204, None)
    cookie, *attributes = (reply.header("set-cookie") or "").split("; ")
    assert sorted(attributes) == ["HttpOnly", "Path=/", "SameSite=Strict"]
    assert KEY not in cookie
    for process in ("app", "subscriber", "publisher"):
        assert ask(locked[process], "/metrics", f"Cookie: a=b; {cookie}").status == 200
        assert ask(locked[process], "/metrics", f"Cookie: {cookie}x").status == 401
    behind_tls = sign_in(app, KEY, "X-Forwarded-Proto: https", "X-Forwarded-For: 203.0.113.9")
    assert "; Secure" in (behind_tls.header("set-cookie") or "")


def sign_in(app: Port, key: object, *headers: str) -> Reply:
    body = json.dumps({"key": key}).encode()
    return ask(app, "/dashboard/key", "Content-Type: application/json", *headers, method="POST", body=body)


def test_a_key_is_taken_only_as_no_page_of_others_can_send_it(locked: dict[str, Port]) -> None:
    app = locked["app"]
    body = json.dumps({"key": KEY}).encode()
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        reply = ask(app, "/dashboard/key", f"Content-Type: {content_type}", method="POST", body=body)
        assert_refused(reply, 415, "application/json")
    for bad in (b"", b"[]", b'{"key": 1}', b"\xff", b'{"other": "x"}', b"[" * 5_000):
        reply = ask(app, "/dashboard/key", "Content-Type: application/json", method="POST", body=bad)
        assert_refused(reply, 400, "key")
    for method in ("GET", "OPTIONS", "PUT"):
        assert_refused(ask(app, "/dashboard/key", "Origin: http://evil.example", method=method), 405, "POST")


def test_wrong_keys_are_bounded_for_each_address(locked: dict[str, Port]) -> None:
    def tried(key: str, address: str) -> int:
        return sign_in(locked["app"], key, f"X-Forwarded-For: {address}").status

    assert [tried(f"wrong {number}", "203.0.113.1") for number in range(11)] == [401] * 10 + [429]
    assert (tried(KEY, "203.0.113.1"), tried(KEY, "203.0.113.2")) == (429, 204)


@pytest.mark.parametrize(("process", "target"), OPERATORS_CALLS)
def test_without_a_key_this_machine_may_and_a_proxy_on_it_opens_nothing(
    unlocked: dict[str, Port], process: str, target: str
) -> None:
    reply = ask(unlocked[process], target, "Origin: http://evil.example")
    assert reply.status in (200, 404, 503)
    assert reply.header("access-control-allow-origin") is None or reply.status == 404
    for header in (
        "X-Forwarded-For: 203.0.113.1", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-For:", "Via: 1.1 proxy",
        "Forwarded: for=127.0.0.1", "X-Real-IP: 127.0.0.1", "X-Forwarded-Host: emojis.example.org",
    ):  # fmt: skip
        reply = ask(unlocked[process], target, header)
        if reply.status != 404:
            assert_refused(reply, 403, "TRUSTED_PROXIES")


PROXIES = "127.0.0.1,10.9.0.0/16,203.0.113.200"


@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        *((peer, {}, 200) for peer in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "10.1.2.3", "172.16.0.1")),
        *((peer, {}, 200) for peer in ("172.31.255.255", "192.168.1.1", "fd00::1", "::ffff:10.0.0.1")),
        *((peer, {}, 403) for peer in ("203.0.113.1", "172.32.0.1", "192.169.0.1", "100.64.0.1", "11.0.0.1")),
        *((peer, {}, 403) for peer in ("2001:db8::1", "169.254.1.1", "fe80::1%eth0", "0.0.0.0", "::", "", "unix:")),
        ("127.0.0.1", {"x-forwarded-for": "192.168.1.7"}, 200),
        ("127.0.0.1", {"x-forwarded-for": "192.168.1.7:4711"}, 200),
        ("127.0.0.1", {"x-forwarded-for": "192.168.1.7, 10.9.0.1"}, 200),
        ("127.0.0.1", {"x-forwarded-for": "[fd00::1]:4711", "via": "1.1 x", "x-real-ip": "fd00::1"}, 200),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.1"}, 403),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.1, 10.9.0.1"}, 403),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.1, 10.1.0.1"}, 403),  # a proxy that is not named
        ("127.0.0.1", {"x-forwarded-for": "10.0.0.1, 203.0.113.1"}, 403),  # what stands further left anybody can write
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1,203.0.113.1,127.0.0.1"}, 403),
        ("127.0.0.1", {"x-forwarded-for": "unknown"}, 403),
        ("127.0.0.1", {"x-forwarded-for": "10.0.0.1, unknown"}, 403),
        ("127.0.0.1", {"x-forwarded-for": ""}, 403),
        ("127.0.0.1", {"x-forwarded-for": " , "}, 403),
        ("127.0.0.1", {"via": "1.1 proxy"}, 403),
        ("127.0.0.1", {"forwarded": "for=10.0.0.1"}, 403),
        ("10.9.1.1", {"x-forwarded-for": "10.1.2.3"}, 200),
        ("10.8.1.1", {"x-forwarded-for": "10.1.2.3"}, 403),
        ("203.0.113.200", {"x-forwarded-for": "10.1.2.3"}, 200),
        ("203.0.113.200", {}, 403),
        ("203.0.113.201", {"x-forwarded-for": "127.0.0.1"}, 403),
    ],
)
def test_without_a_key_callers_are_told_by_their_address(peer: str, headers: dict[str, str], status: int) -> None:
    asked = Request({name.encode(): value.encode() for name, value in headers.items()}, peer)
    refused = Operators(settings_with(TRUSTED_PROXIES=PROXIES)).refusal(asked)
    assert (refused.status if refused else 200) == status
    assert refused is None or "OPERATOR_KEY" in refused.error


def test_without_a_key_there_is_nothing_to_sign_in_to(unlocked: dict[str, Port]) -> None:
    assert sign_in(unlocked["app"], "x").status == 404


@pytest.mark.parametrize(
    ("allowed", "names", "others"),
    [
        ("", [], ["example.org", "a.example.org"]),
        ("example.org", ["example.org", "EXAMPLE.org:80", "example.org."], ["a.example.org", "anexample.org"]),
        (".example.org", ["example.org", "a.example.org", "a.b.example.org:5000"], ["anexample.org"]),
        ("*.example.org", ["a.example.org", "a.b.example.org"], ["example.org", "anexample.org"]),
        (" example.org , Example.NET ,", ["example.org", "example.net"], ["example.com", "localhost.evil"]),
        ("*", ["example.org", "anything", "evil.example:1"], []),
        ("emostream_app", ["emostream_app:5000"], ["emostream-app"]),
    ],
)
def test_names_in_allowed_hosts_are_ours_too(allowed: str, names: list[str], others: list[str]) -> None:
    check = AllowedHosts(settings_with(ALLOWED_HOSTS=allowed, BIND_HOST="emojis.internal")).check

    def refused(host: str) -> Answer | None:
        return check(host.encode())

    assert not any(map(refused, [*names, "localhost", "127.0.0.1:1", "emojis.internal", "[::1]"]))
    for other in others:
        found = refused(other)
        assert found is not None
        assert (found.status, "ALLOWED_HOSTS" in found.error, other in found.error) == (421, True, True)
    assert (found := refused("a, b")) is not None
    assert found.status == 400
