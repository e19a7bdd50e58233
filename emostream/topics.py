"""The Kafka topics: wait for them and for the broker, create them, replace them by empty ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import (
    InvalidReplicationFactorError,
    RetriableError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)

from emostream.broker import PARTITIONS, admin_client
from emostream.process import Log, StopFlag, stop_on_signals
from emostream.roles import Address
from emostream.settings import REGISTRY_TOPIC, START_COMMAND, TOPICS_COMMAND, Settings

REMINDER_SECONDS = 5.0
# Small segments, because Kafka never compacts the newest one.
COMPACTED = {"cleanup.policy": "compact", "segment.ms": "600000", "min.cleanable.dirty.ratio": "0.2"}


def wait_for_topics(settings: Settings, topics: Iterable[str], stop: StopFlag, log: Log) -> bool:
    """Return True when the broker answers and has all `topics`, or False if a stop was requested first.

    Logs every few seconds what it waits for.
    """
    wanted = set(topics)

    def missing() -> str | None:
        absent = wanted - set(_list_topics(settings))
        return f"missing topics {', '.join(sorted(absent))}; {TOPICS_COMMAND} creates them" if absent else None

    return _wait(missing, settings, stop, log)


def _wait(missing: Callable[[], str | None], settings: Settings, stop: StopFlag, log: Log) -> bool:
    began = time.monotonic()
    remind_at = began + 1.0  # a shorter wait is not worth a line
    while not stop.requested:
        try:
            what = missing()
        except RetriableError as error:
            what = f"no broker at {', '.join(settings.bootstrap_servers)} ({error}); {START_COMMAND} kafka starts one"
        if what is None:
            return True
        if time.monotonic() >= remind_at:
            remind_at = time.monotonic() + REMINDER_SECONDS
            log.warning(f"waiting: {what}", waited_seconds=round(time.monotonic() - began))
        stop.wait(0.5)
    return False


def _list_topics(settings: Settings, brokers: list[str] | None = None) -> list[str]:
    admin = admin_client(settings, brokers)
    try:
        return list(admin.list_topics())
    finally:
        admin.close()


def broker_answers(settings: Settings, address: Address) -> bool:
    """Whether the broker at this address answers."""
    try:
        _list_topics(settings, [str(address)])
    except RetriableError:
        return False
    return True


def create_topics(settings: Settings, replace: bool, stop: StopFlag, log: Log) -> bool:
    """Create every topic that is missing; with `replace`, delete those that are there first.

    Returns False if a stop was requested before all were created.
    """
    if not wait_for_topics(settings, (), stop, log):
        return False
    admin = admin_client(settings)
    try:
        wanted = set(settings.topics)
        present = wanted & set(admin.list_topics())
        if replace and present:
            admin.delete_topics(sorted(present))
            if not _wait(lambda: _still_there(admin, wanted), settings, stop, log):
                return False
            present = set()
        for name in settings.topics:
            if name not in present and not _wait(lambda name=name: _create(admin, name), settings, stop, log):  # type: ignore[misc]
                return False
    finally:
        admin.close()
    return wait_for_topics(settings, wanted, stop, log)


def _still_there(admin: KafkaAdminClient, topics: set[str]) -> str | None:
    left = topics & set(admin.list_topics())
    return f"the broker is deleting {', '.join(sorted(left))}" if left else None


def _create(admin: KafkaAdminClient, name: str) -> str | None:
    try:
        # -1 stands for the broker's default, which config/kafka.properties sets to the number of brokers.
        configs = COMPACTED if name == REGISTRY_TOPIC else {}
        admin.create_topics([NewTopic(name, PARTITIONS, replication_factor=-1, topic_configs=configs)])
    except TopicAlreadyExistsError:
        return f"the broker is still deleting {name}"
    except UnknownTopicOrPartitionError:
        return f"the broker does not know {name} yet"
    except InvalidReplicationFactorError as error:  # a busy broker does not count until it reports back
        return f"there are not enough brokers for {name} yet ({error.args[0] if error.args else error})"
    return None


def replace_topics(settings: Settings) -> int:
    """Replace every topic by an empty one; return the exit status of the command that does so."""
    log = Log("topics")
    if not create_topics(settings, replace=True, stop=stop_on_signals(), log=log):
        return 1
    log.info("topics created", topics=",".join(settings.topics), partitions=PARTITIONS)
    return 0
