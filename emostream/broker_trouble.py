"""Brokers that cannot be reached, or a right that is missing → one sentence that says what to do."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from kafka import KafkaAdminClient
from kafka.errors import (
    GroupAuthorizationFailedError,
    RetriableError,
    TransactionalIdAuthorizationFailedError,
    TransactionalIdNotFoundError,
)

from emostream.kafka_security import librdkafka_options
from emostream.settings import Settings

CONNECT_SECONDS = 2.0
RIGHTS_PAGE = "docs/kafka.md lists the rights that each process needs"


def why_no_connection(settings: Settings) -> str | None:
    """Return a sentence that says why the brokers cannot be reached; None if they can, or if no broker is there.

    kafka-python only says that it could not connect. librdkafka names the broker, the step and the reason.
    """
    if settings.brokers > 0 and settings.kafka_security_protocol == "PLAINTEXT":
        return None  # one of ours, which is starting or busy
    named = settings.bootstrap_servers
    advertised, trouble = _ask(settings, named)
    if trouble is not None:
        return explain(settings, trouble) or _other_protocol(settings)
    for address in advertised:
        if address not in named and (trouble := _ask(settings, [address])[1]) is not None:
            return (
                f"the broker at {', '.join(named)} says that it is at {address}, where nobody answers from here "
                f"({_plain(trouble)}); correct its advertised.listeners"
            )
    return None


def _ask(settings: Settings, servers: list[str]) -> tuple[list[str], KafkaError | None]:
    """Return the addresses that the brokers give themselves, or why they do not answer."""
    errors: list[KafkaError] = []
    options = librdkafka_options(settings) | {"bootstrap.servers": ",".join(servers), "error_cb": errors.append}
    client = AdminClient(options | {"reconnect.backoff.ms": 500, "log_level": 0})
    try:
        # Ask once: a second request would go to the address that the broker gives itself.
        brokers = client.list_topics("", timeout=CONNECT_SECONDS).brokers.values()
    except KafkaException as error:
        client.poll(0)
        said = [one for one in errors if one.code() != KafkaError._ALL_BROKERS_DOWN]
        return [], said[0] if said else error.args[0]
    hosts = [(one.host or "", one.port) for one in brokers]
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts], None


def _other_protocol(settings: Settings) -> str | None:
    """Return a sentence if the first broker takes connections and does not answer."""
    host, port = settings.bootstrap_servers[0].rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError:
        return None
    protocol = settings.kafka_security_protocol
    return f"the broker at {host}:{port} does not answer to {protocol}; check KAFKA_SECURITY_PROTOCOL"


def explain(settings: Settings, error: KafkaError) -> str | None:
    """Return a sentence for an error of librdkafka; None if the error does not say what to change."""
    code, said = error.code(), _plain(error)
    if code == KafkaError._AUTHENTICATION:
        user = f"user {settings.kafka_sasl_username} with {settings.kafka_sasl_mechanism}"
        return (
            f"the broker refuses {user} ({said}); check KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and "
            "KAFKA_SASL_MECHANISM"
        )
    if code == KafkaError._SSL or "SSL" in said:
        return (
            f"no TLS with the broker ({said}); check KAFKA_SSL_CA, KAFKA_SSL_CERTIFICATE and KAFKA_SECURITY_PROTOCOL, "
            "and that the broker's certificate names the host in KAFKA_BOOTSTRAP_SERVERS"
        )
    if code == KafkaError._RESOLVE:
        return f"no host of that name ({said}); check KAFKA_BOOTSTRAP_SERVERS"
    return None


def _plain(error: KafkaError) -> str:
    """Return the text of an error, without its duration and without librdkafka's names for our settings."""
    return error.str().partition(" (after ")[0].partition(": broker certificate could not")[0]


def missing_right(admin: KafkaAdminClient, settings: Settings, needs: Mapping[str, str], group: str = "") -> str | None:
    """Return a sentence that names a missing right; None if none is missing, or if Kafka has no users (PLAINTEXT).

    `needs` are the operations on each topic, such as "READ WRITE". `group`, if not "", is the consumer group and the
    transactional id of this process. Raises KafkaError.
    """
    if settings.kafka_security_protocol == "PLAINTEXT":
        return None
    described = {topic["name"]: topic["authorized_operations"] for topic in admin.describe_topics(list(needs))}
    for topic, operations in needs.items():
        for operation in operations.split():
            # None for a topic that this user may not describe. For a missing topic, the broker still returns them.
            if operation not in (described[topic] or ()):
                return refusal(settings, operation, f"topic {topic}")
    if group:
        try:
            # For a group that has never committed, the broker does not return the rights.
            allowed = admin.describe_groups([group])[group]["authorized_operations"]
            if allowed is not None and "READ" not in allowed:
                return refusal(settings, "READ", f"group {group}")
            admin.describe_transactions([group])
        except GroupAuthorizationFailedError:
            return refusal(settings, "READ", f"group {group}")
        except TransactionalIdAuthorizationFailedError:
            return refusal(settings, "WRITE", f"transactional id {group}")
        except TransactionalIdNotFoundError:  # it is not used yet
            pass
        except RetriableError as error:
            return f"the broker is not ready for group {group} ({error})"
    return None


def refusal(settings: Settings, operation: str, resource: str) -> str:
    """Return the sentence for a right that this user does not have."""
    user = settings.kafka_sasl_username or f"the owner of {settings.kafka_ssl_certificate}"
    return f"{user} has no right to {operation} on {resource}; give it with kafka-acls, {RIGHTS_PAGE}"
