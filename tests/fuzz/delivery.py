"""Send a subscriber, its stream port and a client requests of every bad kind, and see that none of them falls or hangs.

usage: python -m tests.fuzz.delivery [--cases 50000] [--seed 1] [--slow 32] [--only NUMBER]

Starts a broker, a subscriber and a client, in a directory of their own. Each case is one connection to one of the three
ports; beside them, on each port --slow connections begin a request and never end it. --only shows what is sent and
answered for one case. Ends with status 1 and the cases that found something.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from testkit.broker import Broker, running_broker
from testkit.scripts import Script, script
from testkit.settings import environment_for
from tests.fuzz.cases import (
    ODD_BODIES,
    ODD_BYTES,
    ODD_HEADERS,
    ODD_HEADS,
    ODD_LENGTHS,
    ODD_VALUES,
    Case,
    mutated,
    request,
)
from tests.fuzz.ingest import (
    CANARY_EVERY,
    CONNECTIONS,
    INTERNALS,
    SLOW,
    Outcome,
    answers,
    examples,
    exchange,
    says_why,
    shown,
    slow_clients,
)

TOPIC = "cluster1-emoji-topic"
MAX_CLIENTS = 50
ODD_URLS = [
    "http://127.0.0.1:9/", "HTTP://LOCALHOST:9", "https://127.0.0.1:9/x?y", "http://[::1]:9/", "http://169.254.169.254/",
    "http://192.0.2.1/", "http://evil.invalid/", "http://user:pass@127.0.0.1/", "ftp://127.0.0.1/", "http://", "//",
    "http://127.0.0.1:0/", "http://127.0.0.1:99999/", "http://127.0.0.1:9/\u202e", "http://[::1", "javascript:alert(1)",
    "http://" + "a" * 300 + "/", "http://" + "a." * 200 + "b/", "http://xn--/", "http://\u00e9.invalid/", "http://0/",
    "http://2130706433:9/", "http://127.1:9/", "http://127.0.0.1:9/" + "a" * 3_000, "http://127.0.0.1:9/ b", "\0",
]  # fmt: skip
ODD_QUERIES = [
    "last_event_id=", "last_event_id=1-2-3.4.5", "lastEventId=9-01-0.0.0", "last_event_id=1--0.0.0", "recent=60",
    "recent=-1", "recent=99999", "recent=x&recent=1", "last_event_id=" + "9" * 3_000, "last_event_id=1-2-" + "3." * 900,
    "last_event_id=%00%ff&recent=%zz", "&&==&", "a" * 9_000, "recent=\u0665", "last_event_id=-1--2--3", "?",
    "room=final", "room=", "room=a/b", "room=%ff", "room=a&room=b", "room=" + "a" * 65, "room=final&recent=60",
    "room=final&last_event_id=1-2-3.4.5", "room=\u0665",
]  # fmt: skip


@dataclass(frozen=True)
class Port:
    """One of the three ports; a path that it answers to GET, one that takes a body, and fields of that body."""

    process: str
    number: int
    get: str
    post: str
    fields: dict[str, object]
    good_status: int = 200

    def body(self, r: random.Random, odd: bool) -> bytes:
        """The fields in JSON; `odd`: with a value that should not be there."""
        found = dict(self.fields)
        if odd:
            name = r.choice([*found, "token", "room", "other"])
            found[name] = r.choice(ODD_URLS if name == "client_url" and r.random() < 0.7 else ODD_VALUES)
        return json.dumps(found, ensure_ascii=r.random() < 0.5).encode("utf-8", "surrogatepass")

    def whole(self, r: random.Random, *headers: str, odd: bool = False, length: object = None) -> bytes:
        """A request, most of them with a body."""
        head = f"POST {self.post} HTTP/1.1" if r.random() < 0.7 else f"GET {self.get} HTTP/1.1"
        return request(self.body(r, odd), *headers, head=head, length=length)

    @property
    def good(self) -> bytes:
        """A request that must be answered `good_status`."""
        if self.good_status == 204:  # a client takes records and answers no GET
            return request(json.dumps(self.fields).encode(), head=f"POST {self.post} HTTP/1.1")
        return request(b"", head=f"GET {self.get} HTTP/1.1", length="")


def good(_r: random.Random, port: Port) -> Case:
    return Case("good", [port.good], statuses=[port.good_status])


def odd_head(r: random.Random, port: Port) -> Case:
    head = r.choice(ODD_HEADS).replace("/send-emojis", port.get).replace("/send-emoji", r.choice([port.post, port.get]))
    return Case("odd head", [request(port.body(r, False), head=head)])


def odd_header(r: random.Random, port: Port) -> Case:
    return Case("odd header", [port.whole(r, *r.sample(ODD_HEADERS, r.choice([1, 1, 2, 3])))])


def odd_value(r: random.Random, port: Port) -> Case:
    return Case("odd value", [port.whole(r, odd=True)])


def odd_body(r: random.Random, port: Port) -> Case:
    return Case("odd body", [request(r.choice(ODD_BODIES), head=f"POST {port.post} HTTP/1.1")])


def odd_query(r: random.Random, port: Port) -> Case:
    query = r.choice([*ODD_QUERIES, "".join(map(chr, r.sample(range(33, 127), 20)))])
    header = r.choice(["Accept: */*", f"Last-Event-ID: {r.choice(ODD_QUERIES)[:200]}", "Last-Event-ID: 1-5-1.1.1"])
    return Case("odd query", [request(b"", header, head=f"GET {port.get}?{query} HTTP/1.1", length="")])


def mutated_request(r: random.Random, port: Port) -> Case:
    return Case("mutated request", [mutated(r, port.whole(r, odd=r.random() < 0.3))])


def mutated_body(r: random.Random, port: Port) -> Case:
    return Case("mutated body", [request(mutated(r, port.body(r, False)), head=f"POST {port.post} HTTP/1.1")])


def random_bytes(r: random.Random, _port: Port) -> Case:
    start = r.choice([b"", b"GET ", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\n", *ODD_BYTES])
    return Case("random bytes", [start + r.randbytes(r.choice([1, 10, 100, 5_000]))])


def many_headers(r: random.Random, port: Port) -> Case:
    return Case("many headers", [port.whole(r, *(f"X-{n}: {n}" for n in range(r.choice([50, 99, 101, 500, 3_000]))))])


def wrong_length(r: random.Random, port: Port) -> Case:
    return Case("wrong length", [port.whole(r, length=r.choice(ODD_LENGTHS))])


def two_lengths(r: random.Random, port: Port) -> Case:
    extra = r.choice(["Transfer-Encoding: chunked", "Content-Length: 5", "Content-Length: 999"])
    return Case("two lengths", [port.whole(r, extra) + port.good])


def truncated(r: random.Random, port: Port) -> Case:
    whole = port.whole(r)
    return Case("truncated", [whole[: r.randrange(1, len(whole))]])


def in_pieces(r: random.Random, port: Port) -> Case:
    whole = port.good
    cuts = sorted(r.sample(range(1, len(whole)), r.choice([1, 2, 5])))
    pieces = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return Case("in pieces", pieces, statuses=[port.good_status])


def pipelined(r: random.Random, port: Port) -> Case:
    """Many requests at once. A stream is the last answer of its connection."""
    number = r.randint(2, 8)
    wire = b"".join(r.choice([port.good, request(b"", head="GET /nowhere HTTP/1.1", length="")]) for _ in range(number))
    if port.process == "stream":
        return Case("pipelined", [wire])
    statuses = [404 if b"/nowhere" in part else port.good_status for part in wire.split(b"\r\n\r\n")[:-1]]
    return Case("pipelined", [wire], statuses=statuses)


KINDS: list[Callable[[random.Random, Port], Case]] = [
    good, in_pieces, pipelined, odd_head, odd_header, odd_value, odd_value, odd_body, odd_query, mutated_request,
    mutated_request, mutated_body, random_bytes, many_headers, wrong_length, two_lengths, truncated,
]  # fmt: skip


def case(seed: int, number: int, ports: list[Port]) -> tuple[Port, Case]:
    """The case of this number, and the port that it is for; always the same ones."""
    r = random.Random(f"delivery-{seed}-{number}")
    port = r.choice(ports)
    return port, r.choice(KINDS)(r, port)


def asked(port: Port, sent: Case) -> bytes:
    """What a port answers to a case. Of many connections that come at once, some are closed without an answer."""
    wanted = len(sent.statuses) if sent.statuses else None
    received = exchange(port.number, sent.parts, wanted)
    return received if received or not wanted else exchange(port.number, sent.parts, wanted)


def judge(number: int, port: Port, sent: Case, received: bytes) -> Outcome:
    """What is wrong with the answers to a case."""
    outcome = Outcome(cases=1)
    found, left_over = answers(received)
    statuses = [status for status, _, _ in found]
    outcome.statuses.update(statuses)

    def wrong(what: str) -> None:
        sent_bytes = shown(b"|".join(sent.parts))
        outcome.findings.append(
            f"case {number}, {port.process}, {sent.kind}: {what}; sent {sent_bytes}, got {shown(received)}"
        )

    for status, head, body in found:
        if status >= 500 and status != 503:
            wrong(f"status {status}")
        inside = INTERNALS.search(head + body)
        # A refusal may say what came, and GET /status why clients were evicted.
        if inside and status >= 400 and inside[0] not in b"".join(sent.parts):
            wrong(f"internals ({inside[0]!r})")
        if status >= 400 and body and not says_why(body):
            wrong(f"a refusal without a reason in JSON ({body[:60]!r})")
    if sent.statuses is not None and statuses != sent.statuses and 503 not in statuses:
        wrong(f"expected {sent.statuses}, got {statuses}")
    a_stream = bool(found) and b"text/event-stream" in found[-1][1]
    if left_over and not a_stream and not re.match(rb"HTTP/1\.[01] \d{3} ", left_over + b" "):
        wrong(f"what comes is no answer ({left_over[:60]!r})")
    return outcome


def canary(port: Port, number: int) -> Outcome:
    """A good request, which must be answered whatever else goes on."""
    began = time.monotonic()
    try:
        received = asked(port, Case("good", [port.good], statuses=[port.good_status]))
    except OSError as error:
        received = str(error).encode()
    if received.startswith(b"HTTP/1.1 %d" % port.good_status):
        return Outcome()
    seconds = time.monotonic() - began
    return Outcome(
        findings=[
            f"case {number}, {port.process}, canary: no {port.good_status} after {seconds:.1f} s; got {shown(received)}"
        ]
    )


def run_case(ports: list[Port], seed: int, number: int) -> Outcome:
    """One connection, and now and then a canary on every port."""
    port, sent = case(seed, number, ports)
    try:
        received = asked(port, sent)
    except OSError as error:
        what = f"case {number}, {port.process}, {sent.kind}: the port cannot be reached: {error}"
        return Outcome(1, findings=[what])
    outcome = judge(number, port, sent, received)
    if number % CANARY_EVERY == 0:
        for other in ports:
            outcome.add(canary(other, number))
    return outcome


@contextmanager
def processes(broker: Broker) -> Iterator[tuple[list[Port], dict[str, Script]]]:
    """A subscriber and a client that run: their three ports, and the processes."""
    environment = broker.environment
    number, stream = (int(environment[name]) + 1 for name in ("SUBSCRIBER_BASE_PORT", "STREAM_BASE_PORT"))
    client_port = int(environment["PORT"])
    with (
        script(environment, "subscriber.py", CLUSTER_TOPIC=TOPIC, MAX_CLIENTS=MAX_CLIENTS) as subscriber,
        script(environment, "client.py", "--receive-only") as client,
    ):
        for process, port in ((subscriber, number), (subscriber, stream), (client, client_port)):
            process.wait_for_port(port)
        yield [
            Port("subscriber", number, "/status", "/register", {"client_url": "http://127.0.0.1:9/"}),
            Port("stream", stream, "/stream", "/stream", {"last_event_id": "1-1-1.1.1"}),
            Port("client", client_port, "/", "/", {"emoji": "😊", "count": 1}, good_status=204),
        ], {"subscriber": subscriber, "client": client}


def run(broker: Broker, seed: int, numbers: range, slow: int = SLOW) -> Outcome:
    """Start the processes and fuzz their ports, CONNECTIONS cases at a time, beside slow clients."""
    total = Outcome()
    with processes(broker) as (ports, running), ExitStack() as held:
        for port in ports:
            held.enter_context(slow_clients(port.number, slow))
        with ThreadPoolExecutor(CONNECTIONS) as executor:
            for outcome in executor.map(lambda number: run_case(ports, seed, number), numbers):
                total.add(outcome)
        for port in ports:
            total.add(canary(port, numbers.stop))
        for name, process in running.items():
            if process.process.poll() is not None:
                total.findings.append(f"{name} has ended with {process.process.returncode}")
            bad = [line for line in process.log.splitlines() if "Traceback" in line or "ERROR" in line]
            total.findings += [f"in the log of {name}: {line}" for line in bad]
    return total


def main() -> None:
    """Entry point of the command in the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slow", type=int, default=SLOW)
    parser.add_argument("--only", type=int, metavar="NUMBER")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="emostream-fuzz-") as directory,
        running_broker(environment_for(Path(directory))) as broker,
    ):
        broker.replace_topics()
        if args.only is not None:
            with processes(broker) as (ports, _):
                port, sent = case(args.seed, args.only, ports)
                print(f"{port.process}: {sent}\n{asked(port, sent)!r}")
            return
        began = time.monotonic()
        total = run(broker, args.seed, range(args.cases), args.slow)
    print(f"{total.cases} cases, seed {args.seed}, in {time.monotonic() - began:.0f} s; answers {dict(total.statuses)}")
    print(examples(total.findings) or "nothing found")
    sys.exit(bool(total.findings))


if __name__ == "__main__":
    main()
