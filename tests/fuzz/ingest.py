"""Send a running app bad requests of every kind. It must not stop, reveal its inside, or lose a tap.

usage: python -m tests.fuzz.ingest [--cases 100000] [--seed 1] [--slow 32] [--only NUMBER]

Starts a broker and the app, in a directory of their own. Each case is one connection with one or more requests; beside
them, --slow connections begin a request and never end it. --only shows what is sent and answered for one case. Ends
with status 1 and the cases that found something.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testkit.broker import Broker, running_broker
from testkit.ports import listening
from testkit.scripts import script
from testkit.settings import environment_for
from testkit.waiting import wait_until
from tests.fuzz.cases import Case, case, good_request

CONNECTIONS = 64
QUIET_SECONDS = 0.1  # after this long without a byte nothing more is expected of a request that never ended
ANSWER_SECONDS = 60.0  # within which a whole request is answered
CANARY_EVERY = 200
SLOW = 32
# What nobody outside should read. "Kafka" alone is part of the answer to a tap.
INTERNALS = re.compile(
    rb'Traceback|File \\?"|\.py\b|site-packages|[Ww]erkzeug|[Ff]lask|msgspec|ciso8601|httptools|llhttp|uvloop|'
    rb"kafka-python|librdkafka|confluent|Exception|Error:|codec can|object at 0x|/root/|/tmp/|/home/"
)


@dataclass
class Outcome:
    """What the answers to many cases say."""

    cases: int = 0
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    taken: list[str] = field(default_factory=list)  # users of good events that were answered 200
    accepted: int = 0  # events by all answers, good or mutated
    uncertain: int = 0  # events that may have been taken though no answer was read
    findings: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.cases += other.cases
        self.statuses += other.statuses
        self.taken += other.taken
        self.accepted += other.accepted
        self.uncertain += other.uncertain
        self.findings += other.findings


def exchange(port: int, parts: list[bytes], wanted: int | None) -> bytes:
    """Send, and read until `wanted` answers, the end, or nothing for a while."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for number, part in enumerate(parts):
                if number:
                    time.sleep(0.005)
                connection.sendall(part)
        except ConnectionError:
            pass  # refused before all of it was sent; there may be an answer
        connection.settimeout(ANSWER_SECONDS if wanted else QUIET_SECONDS)
        try:
            while data := connection.recv(65_536):
                received += data
                if wanted and len(answers(received)[0]) >= wanted:
                    break
        except OSError:
            pass
    return received


def answers(received: bytes) -> tuple[list[tuple[int, bytes, bytes]], bytes]:
    """[(status, head, body)] of whole answers, and what is left over."""
    found = []
    while received:
        head, separator, rest = received.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.[01] (\d{3}) ?", head)
        if not separator or not status:
            break
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        code = int(status[1])
        if code in (100, 204, 304):
            size = 0
        if len(rest) < size:
            break
        if code != 100:
            found.append((code, head, rest[:size]))
        received = rest[size:]
    return found, received


def judge(number: int, sent: Case, received: bytes) -> Outcome:
    """What is wrong with the answers to a case."""
    outcome = Outcome(cases=1)
    found, left_over = answers(received)
    statuses = [status for status, _, _ in found]
    outcome.statuses.update(statuses)

    def wrong(what: str) -> None:
        outcome.findings.append(
            f"case {number}, {sent.kind}: {what}; sent {shown(b'|'.join(sent.parts))}, got {shown(received)}"
        )

    for status, head, body in found:
        if status >= 500 and status != 503:
            wrong(f"status {status}")
        inside = INTERNALS.search(head + body)
        a_page = status == 200 and b"text/html" in head  # a file of ours, which may name others
        if inside and not a_page and inside[0] not in b"".join(sent.parts):  # a refusal may say what came
            wrong(f"internals ({inside[0]!r})")
        if status == 503 and b"retry-after" not in head.lower():
            wrong("503 without Retry-After")
        if status == 200 and body.startswith(b'{"status":"success"'):
            outcome.accepted += json.loads(body).get("accepted", 1)
        elif status >= 400 and body and not says_why(body):
            wrong(f"a refusal without a reason in JSON ({body[:60]!r})")
    if sent.statuses is not None and statuses != sent.statuses and 503 not in statuses:
        wrong(f"expected {sent.statuses}, got {statuses}")
    if left_over and not re.match(rb"HTTP/1\.[01] \d{3} ", left_over + b" "):
        wrong(f"what comes is no answer ({left_over[:60]!r})")
    if sent.statuses is not None and statuses == sent.statuses and 503 not in statuses:
        outcome.taken += sent.good
    # What the app took of a request that its client left, or whose answer was cut off, cannot be known.
    if sent.statuses is None or statuses != sent.statuses:
        outcome.uncertain += b"".join(sent.parts).count(b"user_id")
    return outcome


def says_why(body: bytes) -> bool:
    """Whether a refusal is {"error": "..."}."""
    try:
        return isinstance(json.loads(body)["error"], str)
    except (ValueError, KeyError, TypeError):
        return False


def shown(data: bytes) -> str:
    return repr(data if len(data) <= 400 else data[:300] + b" ... " + data[-60:])


def run_case(port: int, seed: int, number: int, batches: bool) -> Outcome:
    """One connection."""
    sent = case(seed, number, batches)
    try:
        received = exchange(port, sent.parts, len(sent.statuses) if sent.statuses else None)
    except OSError as error:
        return Outcome(1, findings=[f"case {number}, {sent.kind}: the app cannot be reached: {error}"])
    outcome = judge(number, sent, received)
    if number % CANARY_EVERY == 0:
        outcome.add(canary(port, f"canary-{seed}-{number}"))
    return outcome


def canary(port: int, user: str) -> Outcome:
    """A good tap, which must be taken whatever else goes on."""
    began = time.monotonic()
    try:
        received = exchange(port, [good_request(user)], 1)
    except OSError as error:
        received = str(error).encode()
    if received.startswith(b"HTTP/1.1 200"):
        return Outcome(0, taken=[user], accepted=1)
    what = f"a good tap was not taken after {time.monotonic() - began:.1f} s; got {shown(received)}"
    return Outcome(0, findings=[what], uncertain=1)


@contextmanager
def slow_clients(port: int, number: int) -> Iterator[None]:
    """Connections that begin a request and never end it, half of them in the head, half in the body."""
    whole = good_request("slow")
    held = []
    for n in range(number):
        connection = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS)
        connection.sendall(whole[: 40 if n % 2 else len(whole) - 5])
        held.append(connection)
    try:
        yield
    finally:
        for connection in held:
            connection.close()


def fuzz(port: int, seed: int, numbers: range, batches: bool, slow: int) -> Outcome:
    """All these cases, CONNECTIONS at a time, beside slow clients."""
    total = Outcome()
    with slow_clients(port, slow), ThreadPoolExecutor(CONNECTIONS) as executor:
        for outcome in executor.map(lambda number: run_case(port, seed, number, batches), numbers):
            total.add(outcome)
    total.add(canary(port, f"canary-{seed}-last"))
    return total


def balance(broker: Broker, total: Outcome, before: int) -> list[str]:
    """What is wrong on the topic: good taps that were answered 200 and are not there, or more than could be."""
    deadline = time.monotonic() + 60
    # The last tap was sent when all others had been answered; those that nobody knows of may be there before it.
    while True:
        events = broker.counts("emoji-topic")
        there = {event["user_id"] for event in events}
        if (len(events) - before >= total.accepted and there.issuperset(total.taken)) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    users = collections.Counter(event["user_id"] for event in events)
    found = [f"answered 200, and {users[user]} times on the topic: {user}" for user in total.taken if users[user] != 1]
    if not 0 <= len(events) - before - total.accepted <= total.uncertain:
        found.append(
            f"{len(events) - before} events on the topic, {total.accepted} accepted, {total.uncertain} uncertain"
        )
    return found


@contextmanager
def app_to_fuzz(broker: Broker, port: int) -> Iterator[tuple[bool, list[str]]]:
    """A running app: whether it takes batches, and a list that says at the end what is wrong in its log."""
    troubles: list[str] = []
    with script(broker.environment, "app.py", APP_PORT=port) as app:
        wait_until("the app listens", lambda: listening(port))
        wait_until("the app takes taps", lambda: not canary(port, "ready").findings)
        probe = exchange(port, [good_request("ready").replace(b"/send-emoji ", b"/send-emojis ")], 1)
        yield b" 404 " not in probe[:20], troubles
        troubles += [line for line in app.log.splitlines() if "Traceback" in line or "level=ERROR" in line]


def run(broker: Broker, port: int, seed: int, numbers: range, slow: int = SLOW) -> Outcome:
    """Start the app, fuzz it, and balance what it took."""
    with app_to_fuzz(broker, port) as (batches, troubles):
        wait_until("the first tap is on the topic", lambda: broker.read("emoji-topic"))
        before = len(broker.read("emoji-topic"))
        total = fuzz(port, seed, numbers, batches, slow)
        total.findings += balance(broker, total, before)
    total.findings += [f"in the app's log: {line}" for line in troubles]
    return total


def examples(findings: list[str], each: int = 3) -> str:
    """A few findings of each sort, and how many there are of it."""
    sorts: dict[str, list[str]] = {}
    for finding in findings:
        sorts.setdefault(re.sub(r"\d+", "N", finding.split("; sent")[0].partition(", ")[2] or finding), []).append(
            finding
        )
    return "\n".join(
        f"{len(found)} × {sort}\n  " + "\n  ".join(found[:each]) for sort, found in sorted(sorts.items())
    )  # fmt: skip


def main() -> None:
    """Entry point of the command in the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slow", type=int, default=SLOW)
    parser.add_argument("--only", type=int, metavar="NUMBER")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="emostream-fuzz-") as directory:
        environment = environment_for(Path(directory))
        with running_broker(environment) as broker:
            port = int(environment["APP_PORT"])
            if args.only is not None:
                with app_to_fuzz(broker, port) as (batches, _):
                    sent = case(args.seed, args.only, batches)
                    received = exchange(port, sent.parts, len(sent.statuses) if sent.statuses else None)
                    print(f"{sent}\n{received!r}")
                return
            began = time.monotonic()
            total = run(broker, port, args.seed, range(args.cases), args.slow)
    print(f"{total.cases} cases, seed {args.seed}, in {time.monotonic() - began:.0f} s; answers {dict(total.statuses)}")
    print(f"{total.accepted} events accepted, {len(total.taken)} of them known by name and on the topic once")
    print(examples(total.findings) or "nothing found")
    sys.exit(bool(total.findings))


if __name__ == "__main__":
    main()
