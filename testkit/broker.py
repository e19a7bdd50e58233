"""A real Kafka broker, with plain producers and consumers to write and read its topics."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from emostream.kafka_security import kafka_python_options
from emostream.settings import load
from testkit.settings import PROJECT_DIR
from testkit.waiting import wait_until

# On a machine that is busy with a Spark, or comes back from a stall, a broker may need many seconds for anything.
ACKNOWLEDGED_SECONDS = 60.0
READ_SECONDS = 120.0


@dataclass
class Broker:
    """A real Kafka broker, and the environment in which our scripts use it."""

    environment: dict[str, str]

    @property
    def servers(self) -> str:
        return self.environment["KAFKA_BOOTSTRAP_SERVERS"]

    @property
    def access(self) -> dict[str, Any]:
        """How kafka-python connects, as whoever the environment names."""
        return kafka_python_options(load(environ=self.environment))

    def operate(self, *command: str) -> None:
        """Run a module of ours as a command."""
        subprocess.run(
            [sys.executable, "-m", *command], cwd=PROJECT_DIR, env=self.environment, check=True,
            stdin=subprocess.DEVNULL, timeout=180,
        )  # fmt: skip

    def replace_topics(self) -> None:
        """Every topic, empty."""
        self.operate("emostream", "topics")

    def delete(self, topic: str) -> None:
        """Delete a topic, as an operator might by mistake."""
        admin = KafkaAdminClient(**self.access)
        admin.delete_topics([topic])
        admin.close()

    def produce(
        self, topic: str, values: Sequence[bytes | None], partition: int | None = None, key: bytes | None = None
    ) -> None:
        """Write values and return when the broker has them. A plain producer: nothing of ours."""
        producer = KafkaProducer(**self.access, linger_ms=5)
        futures = [
            # Only a key lets kafka-python write a record without a value.
            producer.send(topic, value=value, key=b"" if value is None else key, partition=partition)
            for value in values
        ]
        for future in futures:
            future.get(timeout=ACKNOWLEDGED_SECONDS)
        producer.close()

    def produce_at_once(self, topic: str, values: list[bytes], partition: int = 0) -> None:
        """Write values as one transaction on one partition: readers of committed records see all of them or none."""
        producer = KafkaProducer(**self.access, transactional_id=f"test-{uuid.uuid4()}")
        producer.init_transactions()
        producer.begin_transaction()
        for value in values:
            producer.send(topic, value=value, partition=partition)
        producer.commit_transaction()
        producer.close()

    @contextmanager
    def stream(
        self, topic: str, value: Callable[[int], bytes], per_second: int = 200, transactional: bool = False
    ) -> Iterator[list[bytes]]:
        """Write value(0), value(1), ... at a steady pace until the end of the block, which is given those written."""
        name = {"transactional_id": f"test-{uuid.uuid4()}"} if transactional else {}
        # So that it soon writes to new partitions, too.
        producer = KafkaProducer(**self.access, metadata_max_age_ms=1_000, **name)
        written: list[bytes] = []
        stop = threading.Event()

        def write() -> None:
            if transactional:
                producer.init_transactions()
            while not stop.wait(0.05):
                if transactional:
                    producer.begin_transaction()
                values = [value(number) for number in range(len(written), len(written) + per_second // 20)]
                futures = [producer.send(topic, value=value) for value in values]
                if transactional:
                    producer.commit_transaction()
                for future in futures:
                    future.get(timeout=ACKNOWLEDGED_SECONDS)
                written.extend(values)

        with ThreadPoolExecutor(1) as executor:
            writing = executor.submit(write)
            try:
                yield written
            finally:
                stop.set()
            writing.result(timeout=2 * ACKNOWLEDGED_SECONDS)
        producer.close()

    def read(self, topic: str) -> list[Any]:
        """All committed records of a topic so far. A plain consumer: nothing of ours."""
        reader = KafkaConsumer(
            **self.access, isolation_level="read_committed", enable_auto_commit=False, group_id=None
        )
        try:
            tps = _partitions(reader, topic)
            ends = reader.end_offsets(tps)
            reader.assign(tps)
            reader.seek_to_beginning()
            found = []
            deadline = time.monotonic() + READ_SECONDS
            while any(reader.position(tp) < end for tp, end in ends.items()):
                assert time.monotonic() < deadline, f"{topic} could not be read to its end"
                for records in reader.poll(timeout_ms=200).values():
                    found += records
            return found
        finally:
            reader.close()

    def registrations(self) -> list[Any]:
        """The records of the registry topic that are about clients; the others say where subscribers are."""
        return [one for one in self.read("subscriber-registry") if not one.key.startswith(b"subscriber/")]

    def written(self, topic: str) -> int:
        """How many records were ever written to a topic, committed or not."""
        reader = KafkaConsumer(**self.access, enable_auto_commit=False, group_id=None)
        try:
            tps = _partitions(reader, topic)
            return sum(reader.end_offsets(tps).values())
        finally:
            reader.close()

    def counts(self, topic: str) -> list[dict[str, Any]]:
        """The values of a topic's records, from JSON."""
        return [json.loads(record.value) for record in self.read(topic)]


def _partitions(reader: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """Its partitions. A broker may need a moment to know of a topic that was just made."""
    numbers = wait_until(f"the broker knows {topic}", lambda: reader.partitions_for_topic(topic))
    return [TopicPartition(topic, number) for number in numbers]


@contextmanager
def running_broker(environment: dict[str, str]) -> Iterator[Broker]:
    """A real broker with all topics, stopped at the end of the block."""
    broker = Broker(environment)
    broker.operate("emostream", "kafka")
    try:
        broker.replace_topics()
        yield broker
    finally:
        broker.operate("emostream", "down")
