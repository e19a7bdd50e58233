"""Brokers that ask for a name: the whole path of the data with the rights of docs/kafka.md, and what is said if not.

Each user has the password, or the certificate, and the rights of one kind of process.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from emostream.ingest.producer import BoundedProducer
from emostream.process import Log, why_not_ready
from emostream.roles import Role, cluster_publisher, main_publisher
from emostream.settings import Settings, load
from testkit.broker import Broker
from testkit.http_calls import call
from testkit.http_servers import http_client
from testkit.ports import listening
from testkit.processes import tree
from testkit.scripts import script
from testkit.secured_broker import (
    ADMIN_PASSWORD,
    KEY_PASSWORD,
    USERS_PASSWORD,
    SecuredBroker,
    authority,
    secured_broker,
)
from testkit.settings import PROJECT_DIR
from testkit.waiting import wait_until

SAID_WITHIN_SECONDS = 60.0  # on a busy machine; within 10 s otherwise
CLUSTER = "cluster1-emoji-topic"
# The script of each kind of process in docs/kafka.md, and its name in `./start.sh status`.
SCRIPTS = {
    "app": ("app.py", "app"),
    "main publisher": ("main_publisher.py", "main_publisher"),
    "cluster publisher": ("cluster_publisher.py", "cluster_publisher_1"),
    "subscriber": ("subscriber.py", "subscriber_1_1"),
}
PUBLISHERS: dict[str, Callable[[Settings], Role]] = {
    "main publisher": main_publisher,
    "cluster publisher": partial(cluster_publisher, cluster=1),
}


def rights() -> dict[str, list[str]]:
    """The rights of each kind of process, from the table in docs/kafka.md."""
    rows = re.findall(r"^\| ([\w ]+?)(?:, [^|]+)? \| (.*) \|$", (PROJECT_DIR / "docs" / "kafka.md").read_text(), re.M)
    found: dict[str, list[str]] = {}
    for kind, cell in rows:
        found.setdefault(kind, []).extend(re.findall(r"`([A-Z]+ [A-Z_]+ \S+)`", cell))
    return {kind: found[kind] for kind in SCRIPTS}


RIGHTS = rights()


def user(kind: str) -> str:
    return kind.replace(" ", "-")


def with_topics(broker: SecuredBroker) -> SecuredBroker:
    Broker(broker.as_user("admin", ADMIN_PASSWORD)).replace_topics()
    return broker


@pytest.fixture(scope="module")
def scram(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """Its only listener is SASL_SSL with SCRAM-SHA-512, and nobody may do anything without a right."""
    with secured_broker(tmp_path_factory.mktemp("scram"), "SASL_SSL") as broker:
        yield with_topics(broker)


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """Its only listener is SSL, and every client must show a certificate; rights as above."""
    with secured_broker(tmp_path_factory.mktemp("mutual"), "SSL") as broker:
        yield with_topics(broker)


@pytest.mark.parametrize("secured", ["scram", "mutual"])
def test_a_tap_reaches_a_client_with_the_least_rights_and_no_secret_shows(
    secured: str, request: pytest.FixtureRequest
) -> None:
    broker: SecuredBroker = request.getfixturevalue(secured)
    users = {kind: broker.add_user(user(kind), RIGHTS[kind]) for kind in SCRIPTS}
    cluster = {"CLUSTER_TOPIC": CLUSTER}
    app, subscriber = (int(broker.environment[name]) for name in ("APP_PORT", "SUBSCRIBER_BASE_PORT"))
    with (
        script(users["main publisher"], "main_publisher.py") as main_publisher,
        script(users["app"], "app.py") as ingest,
        script(users["cluster publisher"], "cluster_publisher.py", **cluster) as route,
        script(users["subscriber"], "subscriber.py", **cluster) as deliver,
        http_client() as client,
    ):
        processes = [main_publisher, ingest, route, deliver]
        wait_until("the servers listen", lambda: listening(app) and listening(subscriber + 1))
        main_publisher.wait_for("msg=aggregating", 240)
        assert call(f"http://127.0.0.1:{subscriber + 1}/register", {"client_url": client.url})[0] == 200
        tap = {"user_id": "u", "emoji_type": "🔐", "timestamp": "2026-01-31T20:15:00Z"}
        for _ in range(3):
            assert call(f"http://127.0.0.1:{app}/send-emoji", tap)[0] == 200
        wait_until("the client has all taps", lambda: sum(count["events"] for count in client.received) == 3)
        timeline = f"http://127.0.0.1:{app}/timeline.json?minutes=5"
        wait_until("the app has read the counts", lambda: "🔐" in str(call(timeline)[1]))
        arguments = [
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            for process in processes for pid in tree(process.process.pid)
        ]  # fmt: skip
        assert len(arguments) > len(processes)
    shown = "".join([*arguments, *(process.log for process in processes)])
    key = (broker.directory / f"{user('app')}.key").read_text().splitlines()[3] if secured == "mutual" else KEY_PASSWORD
    for secret in (USERS_PASSWORD, USERS_PASSWORD.replace('"', '\\"'), "battery", KEY_PASSWORD, key):
        assert secret not in shown
    assert "level=ERROR" not in shown
    assert "has no right to" not in shown


@pytest.mark.parametrize("kind", SCRIPTS)
def test_each_right_that_is_missing_is_named_until_the_process_has_it(scram: SecuredBroker, kind: str) -> None:
    name = f"{user(kind)}-without"
    environment = scram.add_user(name)
    with process_of(environment, kind) as said:
        for right in RIGHTS[kind]:
            operation, resource, of = right.split()
            if (kind, operation) == ("app", "READ"):
                continue  # it works without; only its pages for operators say that they have no counts
            said(f"{name} has no right to {operation} on {resource.lower().replace('_', ' ')} {of};")
            scram.add_user(name, [right])
        said("")


@contextmanager
def process_of(environment: dict[str, str], kind: str) -> Iterator[Callable[[str], None]]:
    """A process of this kind, and a function that waits until it says, in the status and in its log, why it waits."""
    file, name = SCRIPTS[kind]
    with script(environment, file, **({"CLUSTER_TOPIC": CLUSTER} if "_1" in name else {})) as process:
        if kind == "main publisher":
            process.wait_for("level=WARNING", 240)  # Spark starts before it asks for topics

        def reason() -> str | None:
            assert process.process.poll() is None, process.log
            return why_not_ready(load(environ=environment), name, process.process.pid)

        def said(expected: str) -> None:
            if not expected:
                wait_until(f"{kind} is ready", lambda: reason() is None)
                return
            wait_until(expected, lambda: expected in (reason() or ""), SAID_WITHIN_SECONDS)
            process.wait_for(expected, SAID_WITHIN_SECONDS)
            assert "Traceback" not in process.log
            if kind in PUBLISHERS:  # they serve this from their start; the app and subscribers only what they can do
                status, answer = call(f"http://127.0.0.1:{PUBLISHERS[kind](load(environ=environment)).port}/readyz")
                assert (status, expected in str(answer)) == (503, True)

        yield said

WRONG = {
    "a wrong password": ({"KAFKA_SASL_PASSWORD": "wrong"}, "the broker refuses user app with SCRAM-SHA-512"),
    "a mechanism that the broker has not": ({"KAFKA_SASL_MECHANISM": "PLAIN"}, "supported mechanisms: SCRAM-SHA-512"),
    "another authority": ({"KAFKA_SSL_CA": "other.crt"}, "certificate verify failed); check KAFKA_SSL_CA"),
    "no TLS": ({"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SSL_CA": ""}, "does not answer to SASL_PLAINTEXT"),
    "a host that is not there": ({"KAFKA_BOOTSTRAP_SERVERS": "kafka.invalid:9"}, "Failed to resolve 'kafka.invalid:9'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_broker_that_cannot_be_used_is_one_sentence(scram: SecuredBroker, wrong: str) -> None:
    authority(scram.directory, "other")
    settings, expected = WRONG[wrong]
    environment = scram.add_user("app", RIGHTS["app"]) | settings
    if environment["KAFKA_SSL_CA"] == "other.crt":
        environment["KAFKA_SSL_CA"] = str(scram.directory / "other.crt")
    with process_of(environment, "app") as said:
        said(expected)


def test_an_address_of_the_broker_that_is_wrong_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # nobody else can take this port, and nobody listens on it
        wrong = f"localhost:{silent.getsockname()[1]}"
        with secured_broker(tmp_path, "SASL_SSL", advertised=wrong) as broker:
            environment = broker.as_user("admin", ADMIN_PASSWORD)
            with process_of(environment, "app") as said:
                said(f"the broker at {broker.servers} says that it is at {wrong}, where nobody answers")


def test_a_right_that_is_taken_away_is_named_while_the_process_runs(scram: SecuredBroker) -> None:
    name = "subscriber-of-a-while"
    environment = scram.add_user(name, RIGHTS["subscriber"])
    port = int(environment["SUBSCRIBER_BASE_PORT"]) + 1
    with script(environment, "subscriber.py", CLUSTER_TOPIC=CLUSTER) as subscriber:
        wait_until("it is ready", lambda: listening(port) and call(f"http://127.0.0.1:{port}/readyz")[0] == 200)
        scram.take_right(name, "WRITE TOPIC subscriber-registry")
        expected = f"{name} has no right to WRITE on topic subscriber-registry"

        def said() -> bool:
            status, answer = call(f"http://127.0.0.1:{port}/readyz")
            return status == 503 and expected in str(answer)

        wait_until(expected, said, SAID_WITHIN_SECONDS)
        assert subscriber.process.poll() is None, subscriber.log


def test_an_app_that_the_broker_lets_in_no_more_says_why(scram: SecuredBroker) -> None:
    settings = load(environ=scram.add_user("app-of-a-while", RIGHTS["app"]) | {"KAFKA_SASL_PASSWORD": "changed"})
    producer = BoundedProducer(settings, settings.emoji_topic, linger_ms=5, receipts=False, log=Log("test"))
    said = wait_until("it knows why", lambda: producer.trouble, SAID_WITHIN_SECONDS)
    assert "the broker refuses user app-of-a-while with SCRAM-SHA-512" in str(said)
    wait_until("it is not connected", lambda: not producer.connected, SAID_WITHIN_SECONDS)
    producer.drain(timeout_seconds=0)
