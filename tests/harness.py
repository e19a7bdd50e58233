"""What tests that run real processes share: a broker, scripts, topics, clients, waiting for what should come."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import requests
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

PROJECT_DIR = Path(__file__).resolve().parent.parent
JSON = {"Content-Type": "application/json"}
T = TypeVar("T")


def wait_until(what: str, condition: Callable[[], T], timeout_seconds: float = 60.0) -> T:
    """The first true value of `condition`; AssertionError naming `what` when it never comes."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_seconds:g} s in vain: {what}"
        time.sleep(0.05)
    return value


def call(url: str, body: object = None) -> tuple[int, Any]:
    """GET, or POST with a body as JSON: the status and what the answer's JSON says."""
    answer = requests.get(url, timeout=30) if body is None else requests.post(url, json=body, timeout=30)
    return answer.status_code, answer.json()


def listening(port: int) -> bool:
    """Whether somebody on this machine listens on a TCP port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port_block(size: int) -> int:
    """The first of `size` TCP ports in a row that nobody listens on, below the range that the system hands out."""
    for first in range(15_000 + os.getpid() % 150 * 100, 32_000, size):
        try:
            for port in range(first, first + size):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError(f"no {size} free ports in a row")


def environment_for(data_dir: Path, **settings: object) -> dict[str, str]:
    """An environment with ports and a DATA_DIR of its own, and the jars of the real one."""
    first = free_port_block(100)
    data_dir.mkdir(parents=True, exist_ok=True)
    jars = data_dir / "jars"
    if not jars.exists():
        jars.symlink_to(PROJECT_DIR / ".data" / "jars")
    ours = {
        "DATA_DIR": data_dir,
        "KAFKA_BOOTSTRAP_SERVERS": f"localhost:{first}",
        "APP_PORT": first + 10,
        "PORT": first + 11,
        "SUBSCRIBER_BASE_PORT": first + 20,
        "STREAM_BASE_PORT": first + 50,
        "METRICS_BASE_PORT": first + 90,
    }
    return os.environ | {name: str(value) for name, value in (ours | settings).items()}


@dataclass
class Script:
    """A running script of ours, and what it has said."""

    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for(self, text: str, timeout_seconds: float = 60.0) -> None:
        """Return when its output holds `text`; AssertionError with the output when it ends or takes too long first."""
        deadline = time.monotonic() + timeout_seconds
        while text not in self.log:
            assert self.process.poll() is None, f"ended with {self.process.returncode} before {text!r}:\n{self.log}"
            assert time.monotonic() < deadline, f"no {text!r} after {timeout_seconds:g} s:\n{self.log}"
            time.sleep(0.05)

    def terminate(self, timeout_seconds: float = 30.0) -> int:
        """SIGTERM; its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout_seconds)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(10)


@contextmanager
def script(environment: Mapping[str, str], *command: str, **settings: object) -> Iterator[Script]:
    """Run `python COMMAND...` from the project's root; ended, with its children, at the end of the block."""
    log_dir = Path(environment["DATA_DIR"]) / "log"
    log_dir.mkdir(parents=True, exist_ok=True)
    log_path = log_dir / f"{Path(command[0]).stem}-{time.monotonic_ns()}.log"
    arguments = [f"{name}={value}" for name, value in settings.items()]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command, *arguments], cwd=PROJECT_DIR, env=dict(environment),
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    running = Script(process, log_path)
    try:
        yield running
    finally:
        with suppress(subprocess.TimeoutExpired):
            running.terminate()
        with_children_gone(process.pid)


def with_children_gone(group: int) -> None:
    """SIGKILL whatever is left of a process group."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


@dataclass
class Broker:
    """A real Kafka broker, and the environment in which our scripts use it."""

    environment: dict[str, str]

    @property
    def servers(self) -> str:
        return self.environment["KAFKA_BOOTSTRAP_SERVERS"]

    def operate(self, *command: str) -> None:
        """Run a module of ours as a command."""
        subprocess.run(
            [sys.executable, "-m", *command], cwd=PROJECT_DIR, env=self.environment, check=True,
            stdin=subprocess.DEVNULL, timeout=180,
        )  # fmt: skip

    def replace_topics(self) -> None:
        """Every topic, empty."""
        self.operate("emostream", "topics")

    def produce(self, topic: str, values: Sequence[bytes | None], partition: int | None = None) -> None:
        """Write values and return when the broker has them. A plain producer: nothing of ours."""
        producer = KafkaProducer(bootstrap_servers=self.servers, linger_ms=5)
        futures = [
            # Only a key lets kafka-python write a record without a value.
            producer.send(topic, value=value, key=b"" if value is None else None, partition=partition)
            for value in values
        ]
        for future in futures:
            future.get(timeout=30)
        producer.close()

    def produce_at_once(self, topic: str, values: list[bytes], partition: int = 0) -> None:
        """Write values as one transaction on one partition: readers of committed records see all of them or none."""
        producer = KafkaProducer(bootstrap_servers=self.servers, transactional_id=f"test-{uuid.uuid4()}")
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
        producer = KafkaProducer(bootstrap_servers=self.servers, **name)
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
                    future.get(timeout=30)
                written.extend(values)

        with ThreadPoolExecutor(1) as executor:
            writing = executor.submit(write)
            try:
                yield written
            finally:
                stop.set()
            writing.result(timeout=60)
        producer.close()

    def read(self, topic: str) -> list[Any]:
        """All committed records of a topic so far. A plain consumer: nothing of ours."""
        reader = KafkaConsumer(
            bootstrap_servers=self.servers, isolation_level="read_committed", enable_auto_commit=False, group_id=None
        )
        try:
            tps = [TopicPartition(topic, number) for number in range(3)]
            ends = reader.end_offsets(tps)
            reader.assign(tps)
            reader.seek_to_beginning()
            found = []
            deadline = time.monotonic() + 30
            while any(reader.position(tp) < end for tp, end in ends.items()):
                assert time.monotonic() < deadline, f"{topic} could not be read to its end"
                for records in reader.poll(timeout_ms=200).values():
                    found += records
            return found
        finally:
            reader.close()

    def counts(self, topic: str) -> list[dict[str, Any]]:
        """The values of a topic's records, from JSON."""
        return [json.loads(record.value) for record in self.read(topic)]


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


@dataclass
class HttpClient:
    """A client as someone else would write it against the contract: an HTTP server that notes what is POSTed to it."""

    status: int = 200
    pause_seconds: float = 0.0  # before each answer
    received: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None
    fails_after: Callable[[], float] = lambda: 0.0  # for how many seconds it thinks about a push, to take it not at all

    @property
    def url(self) -> str:
        assert self.server
        return f"http://127.0.0.1:{self.server.server_port}/"

    def emojis(self) -> list[str]:
        return [record["emoji"] for record in self.received]


@contextmanager
def http_client(status: int = 200) -> Iterator[HttpClient]:
    """An HttpClient that listens and answers everything with `status`."""
    client = HttpClient(status)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(ConnectionError):  # whoever sent it died meanwhile
                super().handle()

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if len(data) < int(self.headers["Content-Length"]):
                return  # whoever sent it died meanwhile
            if seconds := client.fails_after():
                time.sleep(seconds)
                self.close_connection = True
                return
            time.sleep(client.pause_seconds)
            body = json.loads(data)
            if 200 <= client.status < 300:
                client.received.append(body)
                client.headers.append(dict(self.headers))
                client.times.append(time.monotonic())
            self.send_response(client.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    client.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=client.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield client
    finally:
        client.server.shutdown()
        client.server.server_close()
