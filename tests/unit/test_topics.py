"""emostream.topics: they are created, by a broker that is slow to be ready too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kafka.errors import InvalidReplicationFactorError, KafkaError, TopicAlreadyExistsError

from emostream import topics
from emostream.process import Log, StopFlag
from testkit.settings import settings_with


class Admin:
    """What a broker is asked; the first answers are errors."""

    def __init__(self, *errors: KafkaError) -> None:
        self.errors = list(errors)
        self.topics: list[str] = []

    def list_topics(self) -> list[str]:
        return list(self.topics)

    def create_topics(self, topics: list[Any]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.topics += [topic.name for topic in topics]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("error", [InvalidReplicationFactorError, TopicAlreadyExistsError])
def test_a_topic_that_cannot_be_created_yet_is_tried_again(
    error: Callable[[str], KafkaError], monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, settings = Admin(error("All brokers are currently fenced")), settings_with()
    monkeypatch.setattr(topics, "admin_client", lambda *_: admin)
    assert topics.create_topics(settings, replace=False, stop=StopFlag(), log=Log("test"))
    assert admin.topics == list(settings.topics)
