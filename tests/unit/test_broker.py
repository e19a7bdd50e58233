"""emostream.broker, as far as it stands on what kafka-python does not promise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kafka import KafkaProducer
from kafka.errors import InvalidProducerEpochError, KafkaConnectionError, KafkaError, ProducerFencedError

from emostream.broker import commit_transaction, is_fenced, reachable
from testkit.http_servers import http_server
from testkit.ports import free_port_block, lost_host


@pytest.fixture
def producer() -> Iterator[KafkaProducer]:
    """A real transactional producer. With a version named, kafka-python asks no broker for it."""
    made = KafkaProducer(bootstrap_servers="127.0.0.1:1", transactional_id="test", api_version=(4, 0))
    yield made
    made.close(timeout=0)


def test_a_fenced_producer_is_known_by_the_error_of_the_call_that_is_fenced(producer: KafkaProducer) -> None:
    assert is_fenced(producer, ProducerFencedError())
    assert is_fenced(producer, InvalidProducerEpochError())
    assert not is_fenced(producer, KafkaError("no coordinator"))


def test_a_fenced_producer_is_known_by_the_plain_error_of_any_later_call(producer: KafkaProducer) -> None:
    # As kafka-python does when the broker's answer to a request of the transaction is PRODUCER_FENCED.
    producer._transaction_manager.transition_to_fatal_error(ProducerFencedError())
    with pytest.raises(KafkaError) as later:
        producer.begin_transaction()
    assert type(later.value) is KafkaError
    assert is_fenced(producer, later.value)


def test_a_commit_fails_when_a_record_of_the_transaction_has_failed() -> None:
    class Record:
        def get(self, timeout: float) -> None:
            raise KafkaError("given up")

    class Producer:
        def commit_transaction(self) -> None:
            """Return as if all were well."""

    with pytest.raises(KafkaError, match="given up"):
        commit_transaction(Producer(), [Record()])


def test_of_several_brokers_only_those_that_take_a_connection_are_asked() -> None:
    nobody = f"localhost:{free_port_block(1)}"
    with lost_host() as lost, http_server(lambda _: None) as server:
        here = f"localhost:{server.port}"
        assert reachable([nobody, lost, here]) == [here]
        with pytest.raises(KafkaConnectionError, match=f"{nobody}: .*refused; {lost}: timed out"):
            reachable([nobody, lost])
    assert reachable([nobody]) == [nobody]  # kafka-python finds out by itself
