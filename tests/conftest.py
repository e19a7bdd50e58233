"""Fixtures. A broker that does not start fails every test that needs it; none is skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit.broker import Broker, running_broker
from testkit.settings import environment_for


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One real broker for all tests of a run, on ports and in a directory of its own, with all topics."""
    with running_broker(environment_for(tmp_path_factory.mktemp("broker"))) as found:
        yield found


@pytest.fixture
def empty_topics(broker: Broker) -> Broker:
    """The broker, with every topic replaced by an empty one."""
    broker.replace_topics()
    return broker
