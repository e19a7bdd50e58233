"""Measure the main publisher: a backlog of events, beside bare reading of the same topic, and rates that it sustains.

backlog    the topic is filled once, by Kafka's producer-perf. In each round first consumer-perf reads all of it, then
           Spark's Kafka source with nothing behind it, then a main publisher without positions counts all of it, one
           bounded micro-batch after the other. Its time runs from the first micro-batch's start to the last one's
           commit, as its log shows them; the source's is that of its micro-batches.
sustained  producer-perf writes by the clock, one rate after the other, while a main publisher counts. It keeps up where
           it is never further behind, in the second half, than two micro-batches take.
rooms      the same for one room and for 1,000, with 20 emojis each, and for 100,000 users whose taps are capped.

Everything runs on a broker of its own, in a temporary DATA_DIR.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kafka import KafkaAdminClient

from benchmarks.machine import DATA_DIR
from benchmarks.part import Figures, Part, main
from emostream.broker import consumer
from emostream.consumers import partitions
from emostream.operate.java import java
from emostream.settings import load
from testkit.broker import Broker, running_broker
from testkit.processes import usage_of
from testkit.scripts import script
from testkit.settings import environment_for
from testkit.waiting import wait_until

TOOLS_VERSION = "4.3.0"  # the newest on Maven Central; it speaks with a broker of 4.4.0
EMOJIS = ["😊", "😂", "🔥", "👏", "❤️", *"😍🎉🤩😮😢🙌💪🥳🎵😎🤯👍😱🐐⚽"]
GROUP = "main-publisher"
# A publisher that keeps up has on average the events of one micro-batch and of the time that counting takes before it.
MAX_BATCHES_BEHIND = 2


def tools() -> Path:
    """Kafka's command-line tools from Maven Central, by the Ivy that comes with pyspark."""
    target = DATA_DIR / f"tools-{TOOLS_VERSION}"
    if not (target / ".complete").exists():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        ivy = next(Path(sys.prefix).glob("lib/python3*/site-packages/pyspark/jars/ivy-2*.jar"))
        subprocess.run(
            [java(), "-jar", str(ivy), "-cache", str(target / "cache"), "-confs", "default",
             "-dependency", "org.apache.kafka", "kafka-tools", TOOLS_VERSION,
             "-retrieve", str(target / "[artifact]-[revision](-[classifier]).[ext]")],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        (target / ".complete").touch()
    return target


def tool(name: str, *arguments: str) -> str:
    """The output of one of Kafka's tools."""
    command = [java(), "-Xmx512m", "-cp", f"{tools()}/*", f"org.apache.kafka.tools.{name}", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if ended.returncode:
        raise SystemExit(f"{name} failed:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return ended.stdout


@dataclass(frozen=True)
class Crowd:
    """Who taps what where, and the settings with which that is counted. Without `rooms` it is in the default room."""

    users: int = 1_000
    emojis: int = 5
    rooms: int = 0
    settings: dict[str, str] = field(default_factory=dict)

    def events(self) -> list[dict[str, str]]:
        """At least one of each user, and one of each emoji in each room."""
        return [
            {"user_id": f"user{n % self.users}", "emoji": EMOJIS[n % self.emojis],
             "timestamp": "2026-01-31T20:15:00+00:00"}
            | ({"room": f"room-{n // self.emojis % self.rooms}"} if self.rooms else {})
            for n in range(max(self.users, self.emojis * self.rooms))
        ]  # fmt: skip


CROWDS = {
    "one room": Crowd(emojis=20),
    "1,000 rooms": Crowd(emojis=20, rooms=1_000),
    "100,000 users, capped": Crowd(users=100_000, settings={"MAX_TAPS_PER_USER": "100"}),
}


def fill(broker: Broker, events: int, per_second: int = -1, crowd: Crowd = Crowd()) -> float:
    """Put events on emoji-topic, as fast as can be or by the clock; events/s from the first to the last."""
    payload = Path(broker.environment["DATA_DIR"]) / "events"
    values = crowd.events()
    payload.write_text("\n".join(json.dumps(it, ensure_ascii=False, separators=(",", ":")) for it in values))
    output = tool(
        "ProducerPerformance", "--topic", "emoji-topic", "--num-records", str(events),
        "--throughput", str(per_second), "--payload-file", str(payload),
        "--producer-props", f"bootstrap.servers={broker.servers}",
        "acks=all", "linger.ms=50", "batch.size=262144", "compression.type=lz4",
    )  # fmt: skip
    return float(re.findall(rf"^{events} records sent, ([\d.]+) records/sec", output, re.MULTILINE)[-1])


def read_raw(broker: Broker, events: int) -> float:
    """Events/s of consumer-perf, joining the group left out."""
    output = tool(
        "ConsumerPerformance", "--bootstrap-server", broker.servers, "--topic", "emoji-topic",
        "--messages", str(events), "--group", f"raw-{time.time_ns()}", "--timeout", "60000",
    )  # fmt: skip
    head, *_, values = (line.split(", ") for line in output.splitlines() if ", " in line)
    return float(dict(zip(head, values, strict=True))["fetch.nMsg.sec"])


def read_bare(broker: Broker) -> float:
    """Events/s of Spark's Kafka source in a JVM that has read the topic once already."""
    command = [sys.executable, "-m", "benchmarks.bare_source"]
    ended = subprocess.run(command, env=broker.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if ended.returncode:
        raise SystemExit(f"Spark's Kafka source failed:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return float(ended.stdout)


def drain(environment: dict[str, str], events: int, settings: dict[str, str]) -> tuple[float, float]:
    """Of a main publisher that counts everything on the topic: events/s, and CPU seconds per million of them."""
    with script(environment, "main_publisher.py", **settings) as publisher:
        publisher.wait_for("msg=aggregating", 120)
        with usage_of(publisher.process.pid, every_seconds=1.0) as used:
            publisher.wait_for("msg=batch ", 120)
            began = time.monotonic() - sum(map(float, re.findall(r"(?:count|commit)_seconds=([\d.]+)", publisher.log)))
            batches = r"msg=batch batch_id=\d+ events=(\d+)"
            while (counted := sum(map(int, re.findall(batches, publisher.log)))) < events:
                publisher.wait_for(f"batch_id={publisher.log.count('msg=batch ')} ", 120)
            seconds = time.monotonic() - began
    if counted != events:
        raise SystemExit(f"counted {counted} of {events} events")
    return events / seconds, 1e6 * used.cpu_seconds / events


def forget_positions(broker: Broker) -> None:
    """Delete the main publisher's group, so that the next one starts at the oldest event."""
    admin = KafkaAdminClient(bootstrap_servers=broker.servers)
    admin.delete_groups([GROUP])
    admin.close()


@contextmanager
def own_broker(settings: dict[str, str]) -> Iterator[Broker]:
    """A broker in a temporary DATA_DIR."""
    with (
        tempfile.TemporaryDirectory(prefix="emostream-benchmark-") as name,
        running_broker(environment_for(Path(name), **settings)) as broker,
    ):
        yield broker


def measure_backlog(options: Namespace) -> Figures:
    """A topic full of events, read raw and counted in turn, round after round."""
    found: dict[str, list[float]] = {"raw": [], "bare": [], "ours": [], "cpu_a_million": []}
    with own_broker(options.settings) as broker:
        filled = fill(broker, options.events)
        for number in range(options.rounds):
            found["raw"].append(read_raw(broker, options.events))
            found["bare"].append(read_bare(broker))
            forget_positions(broker)
            ours = drain(broker.environment, options.events, options.settings)
            for name, value in zip(("ours", "cpu_a_million"), ours, strict=True):
                found[name].append(value)
            print(f"  round {number}: { {name: round(values[-1], 1) for name, values in found.items()} }", flush=True)
    pairs = {peer: zip(found["ours"], found[peer], strict=True) for peer in ("raw", "bare")}
    ratios = {f"to_{peer}": [our / its for our, its in of_peer] for peer, of_peer in pairs.items()}
    return {"events": options.events, "filled": filled, "settings": options.settings, **found, **ratios}


def sustain(options: Namespace, crowd: Crowd) -> list[Figures]:
    """For each of several rates: how far the publisher is behind, all the time."""
    settings = options.settings | crowd.settings
    with own_broker(settings) as broker:
        theirs = load(environ=broker.environment)
        reader = consumer(theirs, GROUP)
        events = partitions(reader, theirs.emoji_topic)

        def behind() -> tuple[int, int]:
            """(events on the topic, of them not counted)."""
            ends = sum(reader.end_offsets(events).values())
            return ends, ends - sum(reader.committed(tp) or 0 for tp in events)

        def follow(rate: int, publisher: int) -> Figures:
            """What the publisher does while events come at this rate."""
            before = behind()[0]
            samples: list[list[float]] = []
            with usage_of(publisher, every_seconds=1.0) as used, ThreadPoolExecutor(1) as executor:
                filling = executor.submit(fill, broker, round(rate * options.seconds), rate, crowd)
                began = time.monotonic()
                while not filling.done():
                    time.sleep(0.5)
                    ends, lag = behind()
                    if ends > before:
                        samples.append([round(time.monotonic() - began, 2), ends - before, lag])
                reached = filling.result()
                wait_until("the rest is counted", lambda: behind()[1] == 0, 120)
            worst = max(lag for _, _, lag in samples[len(samples) // 2 :]) / reached
            kept_up = reached >= 0.95 * rate and worst <= MAX_BATCHES_BEHIND * theirs.batch_seconds
            print(f"  {rate:,} events/s: {'kept up' if kept_up else 'FELL BEHIND'}, by {worst:.2f} s", flush=True)
            return {
                "rate": rate, "reached": reached, "samples": samples, "behind_seconds": worst, "kept_up": kept_up,
                "cpu_a_million": 1e6 * used.cpu_seconds / (behind()[0] - before),
            }  # fmt: skip

        with script(broker.environment, "main_publisher.py", **settings) as publisher:
            publisher.wait_for("msg=aggregating", 120)
            fill(broker, 50_000 * 20, 50_000, crowd)  # the JVM has compiled the way
            wait_until("the warm-up is counted", lambda: behind()[1] == 0)
            rates = [follow(int(rate), publisher.process.pid) for rate in options.rates.split(",")]
        reader.close()
    return rates


def measure_sustained(options: Namespace) -> Figures:
    """One crowd."""
    theirs = load(environ=options.settings)
    return {
        "seconds": options.seconds, "batch_seconds": theirs.batch_seconds, "rates": sustain(options, Crowd()),
        "max_batches_behind": MAX_BATCHES_BEHIND, "max_events_per_batch": theirs.max_events_per_batch,
        "settings": options.settings,
    }  # fmt: skip


def measure_rooms(options: Namespace) -> Figures:
    """The highest rate at which each crowd is counted without falling behind."""
    crowds = {name: sustain(options, CROWDS[name]) for name in options.crowds.split(";")}
    return {"seconds": options.seconds, "crowds": crowds, "settings": options.settings}


PARTS = {
    "backlog": Part(measure_backlog, {"events": 10_000_000, "rounds": 3}, {"events": 200_000, "rounds": 1}),
    "sustained": Part(
        measure_sustained,
        {"rates": "50000,100000,200000,300000,400000,500000", "seconds": 30.0},
        {"rates": "20000", "seconds": 8.0},
    ),
    "rooms": Part(
        measure_rooms,
        {"crowds": ";".join(CROWDS), "rates": "150000,200000,240000,300000,350000", "seconds": 20.0},
        {"rates": "20000", "seconds": 8.0},
    ),
}

if __name__ == "__main__":
    main(__doc__, "aggregate", PARTS)
