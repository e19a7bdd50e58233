"""The topics: whether they are there, waiting for them and for the broker, and creating them.

As a command, `python -m emostream.topics replace [KEY=VALUE ...]` creates every topic, replacing those that are there.
"""

from __future__ import annotations

import sys
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
from emostream.process import Log, StopFlag, run_script, stop_on_signals
from emostream.settings import REGISTRY_TOPIC, Settings

REMINDER_SECONDS = 5.0
# Small segments, because the newest one is never compacted.
COMPACTED = {"cleanup.policy": "compact", "segment.ms": "600000", "min.cleanable.dirty.ratio": "0.2"}


def wait_for_topics(settings: Settings, topics: Iterable[str], stop: StopFlag, log: Log) -> bool:
    """Return True when the broker answers and has all `topics`, False when a stop was requested first.

    Says every few seconds what it is waiting for.
    """
    wanted = set(topics)

    def missing() -> str | None:
        absent = wanted - set(_list_topics(settings))
        return f"missing topics {', '.join(sorted(absent))}; ./topic.sh creates them" if absent else None

    return _wait(missing, settings, stop, log)


def wait_for_broker(settings: Settings, stop: StopFlag, log: Log) -> bool:
    """Like wait_for_topics, for no topic in particular."""
    return wait_for_topics(settings, (), stop, log)


def _wait(missing: Callable[[], str | None], settings: Settings, stop: StopFlag, log: Log) -> bool:
    began = time.monotonic()
    remind_at = began + 1.0  # what is there within a second is not worth a line
    while not stop.requested:
        try:
            what = missing()
        except RetriableError as error:
            what = f"no broker at {', '.join(settings.bootstrap_servers)} ({error}); ./start.sh kafka starts one"
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


def broker_missing(settings: Settings, number: int) -> bool:
    """Whether a broker of ./start.sh does not answer."""
    host, port = settings.broker_address(number)
    try:
        _list_topics(settings, [f"{host}:{port}"])
    except RetriableError:
        return True
    return False


def create_topics(settings: Settings, replace: bool, stop: StopFlag, log: Log, quiet: bool = False) -> bool:
    """Create every topic that is missing, after deleting all that are there where `replace` is set.

    Returns False when a stop was requested before it was done.
    """
    if not wait_for_broker(settings, stop, log):
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
            if not quiet:
                log.info("topic exists" if name in present else "topic created", topic=name, partitions=PARTITIONS)
    finally:
        admin.close()
    return wait_for_topics(settings, wanted, stop, log)


def _still_there(admin: KafkaAdminClient, topics: set[str]) -> str | None:
    left = topics & set(admin.list_topics())
    return f"the broker is deleting {', '.join(sorted(left))}" if left else None


def _create(admin: KafkaAdminClient, name: str) -> str | None:
    try:
        # -1 is the broker's own default, which start.sh sets by the number of brokers.
        configs = COMPACTED if name == REGISTRY_TOPIC else {}
        admin.create_topics([NewTopic(name, PARTITIONS, replication_factor=-1, topic_configs=configs)])
    except TopicAlreadyExistsError:
        return f"the broker is still deleting {name}"
    except UnknownTopicOrPartitionError:
        return f"the broker does not know {name} yet"
    except InvalidReplicationFactorError as error:  # a broker that has been busy is no broker until it says it is back
        return f"there are not enough brokers for {name} yet ({error.args[0] if error.args else error})"
    return None


def main() -> None:
    """Entry point of the command in the module's docstring."""
    arguments = sys.argv[2:] if sys.argv[1:2] == ["replace"] else ["--help"]
    run_script(__doc__ or "", _replace_topics, arguments)


def _replace_topics(settings: Settings) -> int:
    return 0 if create_topics(settings, replace=True, stop=stop_on_signals(), log=Log("topics")) else 1


if __name__ == "__main__":
    main()
