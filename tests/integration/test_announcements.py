"""Subscribers on other hosts, which are other loopback addresses here → the app's list, the dashboard, client.py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emostream.announcements import FORGET_SECONDS
from testkit.broker import Broker, running_broker
from testkit.http_calls import call
from testkit.ports import free_port_block
from testkit.scripts import Script, script
from testkit.settings import environment_for
from testkit.waiting import wait_until

CLUSTER = "cluster1-emoji-topic"
HOST = "127.0.0.2"
# Within 10 s on a machine with time. Whoever only says nothing any more is forgotten later than this.
NOTICED_SECONDS = FORGET_SECONDS


class Listing:
    """What an app that expects one subscriber on its own host says of all of them."""

    def __init__(self, broker: Broker) -> None:
        self.url = f"http://127.0.0.1:{broker.environment['APP_PORT']}"

    def entry(self, number: int) -> dict[str, Any]:
        """The entry of a subscriber of the first cluster; empty if it is not listed."""
        found = call(f"{self.url}/subscribers")[1]["subscribers"]
        return next((one for one in found if (one["cluster"], one["subscriber"]) == (1, number)), {})

    def alive(self, number: int) -> bool:
        return bool(self.entry(number).get("alive"))

    def at(self, number: int) -> tuple[str | None, str | None]:
        """The addresses of a subscriber and of its streams."""
        entry = self.entry(number)
        return entry.get("url"), entry.get("stream_url")

    def clients(self, number: int) -> float | None:
        """How many clients it has, as the dashboard says; None while the dashboard has no numbers of it."""
        processes = call(f"{self.url}/dashboard.json")[1]["processes"]
        page = next((one["page"] for one in processes if one["name"] == f"subscriber_1_{number}"), None)
        return page["series"]["emostream_deliver_clients"] if page else None


@contextmanager
def running_app(broker: Broker) -> Iterator[Listing]:
    # One worker: each has a list of its own, and two may know of a change at different moments.
    with script(broker.environment, "app.py", CLUSTERS=1, SUBSCRIBERS=1, APP_WORKERS=1) as app:
        app.wait_for_port(int(broker.environment["APP_PORT"]))
        yield Listing(broker)


@contextmanager
def elsewhere(broker: Broker, number: int, **settings: object) -> Iterator[tuple[Script, str]]:
    """A subscriber of the first cluster on another host, and its address."""
    port = free_port_block(2)
    with script(
        broker.environment, "subscriber.py", CLUSTER_TOPIC=CLUSTER, SUBSCRIBER=number, BIND_HOST=HOST,
        SUBSCRIBER_PORT=port, STREAM_PORT=port + 1, **settings,
    ) as process:  # fmt: skip
        process.wait_for("msg=listening")
        yield process, f"http://{HOST}:{port}"


def seconds_until(what: str, condition: Any) -> float:
    began = time.monotonic()
    wait_until(what, condition)
    return round(time.monotonic() - began, 2)


def test_a_subscriber_on_another_host_is_listed_used_watched_and_missed(empty_topics: Broker) -> None:
    with running_app(empty_topics) as listing:
        wait_until("the one of this host is listed by its formula", lambda: listing.entry(1))
        took = {}
        with elsewhere(empty_topics, 7) as (process, url):
            took["listed"] = seconds_until("it is listed", lambda: listing.alive(7))
            stream_url = f"http://{HOST}:{int(url.rpartition(':')[2]) + 1}/stream"
            # As a whole: an answer of GET /status that is late leaves a subscriber without a stream for a moment.
            wait_until("it is where it said", lambda: listing.at(7) == (url, stream_url))
            with script(empty_topics.environment, "client.py", "--receive-only", "--app", listing.url) as client:
                client.wait_for(f"registered with {url}")
                wait_until("the dashboard has its numbers", lambda: listing.clients(7) == 1)
                assert listing.clients(1) is None
                process.kill()
                took["killed"] = seconds_until("it is missed", lambda: not listing.alive(7))
            assert listing.entry(7)["url"] == url
        with elsewhere(empty_topics, 7, ADVERTISED_STREAM_URL="/s/{cluster}-{subscriber}") as (process, url):
            wait_until("it is back", lambda: listing.at(7) == (url, f"{listing.url}/s/1-7/stream"))
            process.process.terminate()
            took["stopped"] = seconds_until("it has gone", lambda: not listing.entry(7))
        assert listing.entry(1) == listing.entry(1) | {"alive": False}
        print("seconds until a subscriber is", took)
        assert max(took.values()) < NOTICED_SECONDS


def test_while_the_broker_is_away_the_last_known_list_holds(tmp_path: Path) -> None:
    with running_broker(environment_for(tmp_path)) as broker, running_app(broker) as listing, elsewhere(broker, 7):
        wait_until("it is listed", lambda: listing.alive(7))
        broker.operate("emostream", "down")
        wait_until("the app knows", lambda: call(f"{listing.url}/readyz")[0] == 503)
        # Not at once: a subscriber that answers late is not alive for a moment.
        wait_until("it is still listed", lambda: listing.alive(7))
        broker.operate("emostream", "kafka")
        with elsewhere(broker, 8):
            wait_until("a new one is listed beside it", lambda: listing.alive(8) and listing.alive(7))
