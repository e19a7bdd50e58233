"""Fixtures. A broker that does not start fails every test that needs it; none is skipped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.harness import PROJECT_DIR, Broker, environment_for


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One real broker for all tests of a run, on ports and in a directory of its own, with all topics."""
    found = Broker(environment_for(tmp_path_factory.mktemp("broker")))
    found.operate("emostream.operate", "start", "kafka")
    found.replace_topics()
    yield found
    subprocess.run(
        [sys.executable, "-m", "emostream.operate", "stop"],
        cwd=PROJECT_DIR,
        env=found.environment,
        check=True,
        timeout=60,
    )


@pytest.fixture
def empty_topics(broker: Broker) -> Broker:
    """The broker, with every topic replaced by an empty one."""
    broker.replace_topics()
    return broker
