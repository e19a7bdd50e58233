"""emostream.topics: they are created, by a broker that is slow to be ready too."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from kafka.errors import InvalidReplicationFactorError, KafkaError, KafkaTimeoutError, TopicAlreadyExistsError

from emostream import topics
from emostream.process import Log, StopFlag
from emostream.settings import REGISTRY_TOPIC
from testkit.settings import settings_with


class Admin:
    """What a broker is asked; the first answers are errors."""

    def __init__(self, *errors: KafkaError) -> None:
        self.errors = list(errors)
        self.topics: list[str] = []
        self.deleted: list[str] = []
        self.partitions: set[int] = set()
        self.configs: dict[str, str] = {}
        self.may_describe = True
        self.lose_answers = 0

    def list_topics(self) -> list[str]:
        return list(self.topics)

    def create_topics(self, topics: list[Any]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.topics += [topic.name for topic in topics]
        if self.lose_answers:
            self.lose_answers -= 1
            raise KafkaTimeoutError("the answer is lost")
        self.partitions |= {topic.num_partitions for topic in topics}

    def delete_topics(self, topics: list[str]) -> None:
        self.deleted += topics
        self.topics = [name for name in self.topics if name not in topics]

    def describe_configs(self, resources: list[Any], config_filter: str) -> dict[str, Any]:
        usual = {"cleanup.policy": "delete", "max.message.bytes": "1048588"}
        registry = {REGISTRY_TOPIC: {"cleanup.policy": "compact"}}
        told = {resource.name: usual | registry.get(resource.name, {}) | self.configs for resource in resources}
        return {
            "topic": {
                name: {key: {"value": value} for key, value in found.items()} if self.may_describe else {}
                for name, found in told.items()
            }
        }

    def close(self) -> None:
        pass


@pytest.mark.parametrize("error", [InvalidReplicationFactorError, TopicAlreadyExistsError])
def test_a_topic_that_cannot_be_created_yet_is_tried_again(
    error: Callable[[str], KafkaError], monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, settings = Admin(error("All brokers are currently fenced")), settings_with(PARTITIONS=5)
    monkeypatch.setattr(topics, "admin_client", lambda *_: admin)
    assert topics.create_topics(settings, replace=False, stop=StopFlag(), log=Log("test"))
    assert admin.topics == list(settings.topics)
    assert admin.partitions == {5}


@pytest.mark.parametrize("replace", [False, True])
def test_topics_are_made_though_each_other_connection_meets_a_broker_that_is_gone(
    replace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, settings, connections = Admin(), settings_with(), itertools.count()
    admin.topics = ["emoji-topic", "somebody-elses"]

    def connect(*_: object) -> Admin:
        if next(connections) % 2:
            raise KafkaTimeoutError("Unable to bootstrap")
        return admin

    monkeypatch.setattr(topics, "admin_client", connect)
    assert topics.create_topics(settings, replace=replace, stop=StopFlag(), log=Log("test"))
    assert sorted(admin.topics) == sorted([*settings.topics, "somebody-elses"])
    assert admin.deleted == (["emoji-topic"] if replace else [])


@pytest.mark.parametrize("replace", [False, True])
def test_a_topic_is_made_once_though_the_answer_is_lost(replace: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    admin, settings = Admin(), settings_with()
    admin.lose_answers = 2
    monkeypatch.setattr(topics, "admin_client", lambda *_: admin)
    assert topics.create_topics(settings, replace=replace, stop=StopFlag(), log=Log("test"))
    assert admin.topics == list(settings.topics)


class Waited(Exception):
    """Raised in a test instead of waiting. The text is what is waited for."""


def give_up(what: str) -> None:
    raise Waited(what)


@pytest.mark.parametrize(
    ("topic", "configs", "sentence"),
    [
        ("emoji-topic", {"cleanup.policy": "compact"},
         "emoji-topic: expected cleanup.policy=delete, found compact; kafka-configs changes it"),
        (REGISTRY_TOPIC, {"cleanup.policy": "delete"},
         "subscriber-registry: expected cleanup.policy=compact, found delete; kafka-configs changes it"),
        ("emoji-topic", {"max.message.bytes": "1000"},
         "emoji-topic: expected max.message.bytes of at least 1048588, found 1000; kafka-configs changes it"),
    ],
)  # fmt: skip
def test_a_topic_that_would_lose_records_is_waited_for_with_a_sentence(
    topic: str, configs: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = Admin()
    admin.topics, admin.configs = [topic], configs
    monkeypatch.setattr(topics, "admin_client", lambda *_: admin)
    with pytest.raises(Waited, match=f"^{sentence}$"):
        topics.wait_for_topics(settings_with(), {topic: "READ"}, StopFlag(), Log("test"), give_up)
    admin.may_describe = False  # by the access rules of its broker
    assert topics.wait_for_topics(settings_with(), {topic: "READ"}, StopFlag(), Log("test"), give_up)
