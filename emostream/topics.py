"""The Kafka topics: wait for them and for the broker, create them, replace them by empty ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.admin import ConfigResource, NewTopic
from kafka.errors import (
    AuthorizationError,
    InvalidReplicationFactorError,
    KafkaError,
    RetriableError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)

from emostream import broker_trouble
from emostream.broker import admin_client, consumer
from emostream.consumers import partitions
from emostream.process import Log, StopFlag, stop_on_signals
from emostream.roles import Address
from emostream.settings import REGISTRY_TOPIC, START_COMMAND, TOPICS_COMMAND, Settings

REMINDER_SECONDS = 5.0
# With a second for each broker that is asked, a problem is known within 10 s.
CHECK_SECONDS = 2.0
CHECK_TIMEOUT_MS = 3_000
MIN_MESSAGE_BYTES = 1_048_588  # Kafka's default; our producers send as much at once
# Small segments, because Kafka never compacts the newest one.
COMPACTED = {"cleanup.policy": "compact", "segment.ms": "600000", "min.cleanable.dirty.ratio": "0.2"}


def wait_for_topics(
    settings: Settings, topics: Mapping[str, str], stop: StopFlag, log: Log,
    on_wait: Callable[[str], None] | None = None, group: str = "",
) -> bool:  # fmt: skip
    """Return True when the broker answers and has all `topics`, or False if a stop was requested first.

    `topics` says what the process does with each: "READ", "WRITE" or both. `group`, if it uses one, is its consumer
    group and transactional id. It waits until it may do all of that.

    Logs every few seconds what it waits for, and calls `on_wait` with it all the time.
    """
    return _wait(lambda: _missing(settings, topics, group), settings, stop, log, on_wait)


def _missing(settings: Settings, topics: Mapping[str, str], group: str = "") -> str | None:
    """What is missing of the broker, these topics and our rights, and what to do; None if nothing is."""
    try:
        with closing(admin_client(settings)) as admin:
            # First, because a topic that one may not describe is not in the list.
            if refused := broker_trouble.missing_right(admin, settings, topics, group):
                return refused
            absent = set(topics) - set(admin.list_topics())
            if absent:
                return f"missing topics {', '.join(sorted(absent))}; {TOPICS_COMMAND} creates them"
            return next(_unfit(admin, topics), None)
    except RetriableError as error:
        return _no_broker(settings, error)


def _unfit(admin: KafkaAdminClient, topics: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each setting of a topic with which the broker would refuse or delete records of ours."""
    resources = [ConfigResource("topic", name) for name in topics]
    for name, found in admin.describe_configs(resources, config_filter="all").get("topic", {}).items():
        if not found:  # whoever may not read the settings of a topic may use it all the same
            continue
        policy, max_bytes = found["cleanup.policy"]["value"], int(found["max.message.bytes"]["value"])
        # A compacted topic keeps the newest record of each key. That is right for registrations, but it would lose
        # counts, and it refuses taps, which have no key.
        if policy != "compact" if name == REGISTRY_TOPIC else "compact" in policy:
            wanted = "compact" if name == REGISTRY_TOPIC else "delete"
            yield f"{name}: expected cleanup.policy={wanted}, found {policy}; kafka-configs changes it"
        if max_bytes < MIN_MESSAGE_BYTES:
            yield (
                f"{name}: expected max.message.bytes of at least {MIN_MESSAGE_BYTES}, found {max_bytes}; "
                "kafka-configs changes it"
            )


def _no_broker(settings: Settings, error: RetriableError) -> str:
    if trouble := broker_trouble.why_no_connection(settings):
        return trouble
    return f"no broker at {', '.join(settings.bootstrap_servers)} ({error}); {START_COMMAND} kafka starts one"


def _wait(
    missing: Callable[[], str | None], settings: Settings, stop: StopFlag, log: Log,
    on_wait: Callable[[str], None] | None = None,
) -> bool:  # fmt: skip
    began = time.monotonic()
    remind_at = began + 1.0  # a shorter wait is not worth a line
    while not stop.requested:
        try:
            what = missing()
        except RetriableError as error:
            what = _no_broker(settings, error)
        if what is None:
            return True
        if on_wait:
            on_wait(what)
        if time.monotonic() >= remind_at:
            remind_at = time.monotonic() + REMINDER_SECONDS
            log.warning(f"waiting: {what}", waited_seconds=round(time.monotonic() - began))
        stop.wait(0.5)
    return False


def broker_answers(settings: Settings, address: Address) -> bool:
    """Whether the broker at this address answers."""
    try:
        with closing(admin_client(settings, [str(address)])) as admin:
            admin.list_topics()
    except RetriableError:
        return False
    return True


def create_topics(settings: Settings, replace: bool, stop: StopFlag, log: Log) -> bool:
    """Create every topic that is missing; with `replace`, delete those that are there first.

    Returns False if a stop was requested before all were created.
    """
    wanted = set(settings.topics)
    made: set[str] = set()
    unanswered: set[str] = set()  # perhaps made: the broker's answer was lost

    def delete(admin: KafkaAdminClient) -> str | None:
        if not (present := wanted & set(admin.list_topics())):
            return None
        if refusal := broker_trouble.missing_right(admin, settings, dict.fromkeys(present, "DELETE")):
            return refusal
        admin.delete_topics(sorted(present))
        left = wanted & set(admin.list_topics())
        return f"the broker is deleting {', '.join(sorted(left))}" if left else None

    def create(admin: KafkaAdminClient) -> str | None:
        listed = set(admin.list_topics())
        present = made | (listed & unanswered if replace else listed)
        for name in settings.topics:
            # -1 stands for the broker's default, which config/kafka.properties sets to the number of brokers.
            configs = COMPACTED if name == REGISTRY_TOPIC else {}
            topic = NewTopic(name, settings.partitions, replication_factor=-1, topic_configs=configs)
            if name in present:
                continue
            try:
                trouble = _create(admin, settings, topic)
            except RetriableError:
                unanswered.add(name)
                raise
            if trouble:
                return trouble
            made.add(name)
        return None

    def done(step: Callable[[KafkaAdminClient], str | None]) -> bool:
        """Try a step, each time with a new connection, because the broker of the last one may have gone."""

        def attempt() -> str | None:
            with closing(admin_client(settings)) as admin:
                return step(admin)

        return _wait(attempt, settings, stop, log)

    if not wait_for_topics(settings, {}, stop, log):
        return False
    if replace and not done(delete):
        return False
    return done(create) and wait_for_topics(settings, dict.fromkeys(wanted, "DESCRIBE"), stop, log)


def _create(admin: KafkaAdminClient, settings: Settings, topic: NewTopic) -> str | None:
    try:
        admin.create_topics([topic])
    except TopicAlreadyExistsError:
        return f"the broker is still deleting {topic.name}"
    except AuthorizationError:
        return broker_trouble.refusal(settings, "CREATE", f"topic {topic.name}")
    except UnknownTopicOrPartitionError:
        return f"the broker does not know {topic.name} yet"
    except InvalidReplicationFactorError as error:  # a busy broker does not count until it reports back
        return f"there are not enough brokers for {topic.name} yet ({error.args[0] if error.args else error})"
    return None


def replace_topics(settings: Settings) -> int:
    """Replace every topic by an empty one; return the exit status of the command that does so."""
    return _command(settings, replace=True)


def create_missing_topics(settings: Settings) -> int:
    """Create the topics that are missing and leave the others as they are; return the exit status of the command."""
    return _command(settings, replace=False)


def _command(settings: Settings, replace: bool) -> int:
    log = Log("topics")
    if not create_topics(settings, replace, stop=stop_on_signals(), log=log):
        return 1
    log.info("topics created", topics=",".join(settings.topics), partitions=settings.partitions)
    return 0


class TopicWatch:
    """Finds out again and again whether topics can be read. A consumer does not: its polls just return nothing.

    `problem` says why not, within 10 s; None if all is well. Any thread may read it.
    """

    def __init__(self, settings: Settings, topics: Mapping[str, str], log: Log, group: str = "") -> None:
        """Begin. `topics` and `group` are those of `wait_for_topics`."""
        self.problem: str | None = None
        self._settings = settings
        self._topics = topics
        self._group = group
        self._log = log
        self._reader: KafkaConsumer | None = None
        self._admin: KafkaAdminClient | None = None
        threading.Thread(target=self._watch, name="topic watch", daemon=True).start()

    def _watch(self) -> None:
        while True:
            problem = self._check()
            if problem and not self.problem:
                self._log.warning("not ready", reason=problem)
            elif self.problem and not problem:
                self._log.info("ready again")
            self.problem = problem
            time.sleep(CHECK_SECONDS)

    def _check(self) -> str | None:
        try:
            self._reader = self._reader or consumer(self._settings, group_id=None)
            found = partitions(self._reader, *self._topics)
            self._reader.end_offsets(found, timeout_ms=CHECK_TIMEOUT_MS)
            if self._settings.kafka_security_protocol != "PLAINTEXT":
                self._admin = self._admin or admin_client(self._settings)
                return broker_trouble.missing_right(self._admin, self._settings, self._topics, self._group)
        except Exception as error:  # noqa: BLE001 - not swallowed: whatever it is, it is why this is not ready
            with suppress(KafkaError):
                if missing := _missing(self._settings, self._topics, self._group):
                    return missing
            return f"{' and '.join(self._topics)} cannot be read ({error})"
        return None
