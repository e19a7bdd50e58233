"""The running app against its own /openapi.json: Schemathesis sends what that allows, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from tests.harness import Broker, free_port_block, listening, script, wait_until

EXAMPLES = 150  # for each operation


@pytest.fixture(scope="module")
def described(broker: Broker) -> Iterator[Any]:
    """One running app, and what it says of itself."""
    broker.replace_topics()
    port = free_port_block(1)
    with script(broker.environment, "app.py", APP_PORT=port):
        wait_until("the app listens", lambda: listening(port))
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_what_the_document_says(case: Any) -> None:
    case.call_and_validate(timeout=30)
