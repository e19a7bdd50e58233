"""emostream.ingest.admission: who a request comes from; and that the limits count the many in bounded memory."""

from __future__ import annotations

import time

import pytest

from emostream.http import rate_limit
from emostream.http.messages import Request
from emostream.http.rate_limit import RateLimit
from emostream.ingest.admission import Admission
from testkit.settings import settings_with

PROXIES = "10.0.0.0/8,2001:db8:1::/48"


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", "198.51.100.1", "192.0.2.1"),  # no proxy of ours: anybody can write that header
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.0.0.2", "198.51.100.1"),  # what stands further left it says itself
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", "[2001:db8:2:3::1]:4711", "2001:db8:2:3::/64"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "10.0.0.2,10.0.0.3", "10.0.0.2"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("2001:db8:1::1", "198.51.100.1", "198.51.100.1"),
        ("2001:db8:2:3:4:5:6:7", None, "2001:db8:2:3::/64"),
        ("fe80::1%eth0", None, "fe80::/64"),
        ("", "198.51.100.1", ""),
    ],
)
def test_a_request_comes_from_the_last_hop_that_is_no_trusted_proxy(
    peer: str, forwarded_for: str | None, address: str
) -> None:
    headers = {} if forwarded_for is None else {b"x-forwarded-for": forwarded_for.encode()}
    assert Admission(settings_with(TRUSTED_PROXIES=PROXIES)).address(Request(headers, peer)) == address


def test_invented_users_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MAX_COUNTED", 100)
    limit = RateLimit("1/hour")
    for number in range(950):
        assert limit.take(f"user-{number}") == 0
        assert limit.counted <= 100
    assert 1 <= limit.take("user-949") <= 3600
    assert limit.exceeded("user-949")
    assert not limit.exceeded("user-950")


@pytest.mark.parametrize("step_seconds", [-3600, -120, 120])
def test_a_limit_holds_for_its_window_even_if_the_clock_is_set(
    step_seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    limit = RateLimit("2/second")
    assert limit.take("u", 2) == 0
    assert limit.take("u") == 1
    monkeypatch.setattr(time, "time", lambda: now + step_seconds)
    assert limit.take("u", 2) == 0
    assert limit.take("u") == 1
