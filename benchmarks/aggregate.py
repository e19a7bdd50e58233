#!/usr/bin/env python3
"""Measure the main publisher: a backlog of events, beside raw reading of the same topic, and rates that it sustains.

usage: .venv/bin/python benchmarks/aggregate.py backlog [--events 10000000] [--rounds 3] [--json FILE] [KEY=VALUE ...]
       .venv/bin/python benchmarks/aggregate.py sustained [--rates 50000,100000,...] [--seconds 30] [--json FILE] ...

backlog    the topic is filled once, by Kafka's producer-perf. In each round first consumer-perf reads all of it, then a
           main publisher without positions counts all of it, one bounded micro-batch after the other. Its time runs
           from the first micro-batch's start to the last one's commit, as its log shows them.
sustained  producer-perf writes by the clock, one rate after the other, while a main publisher counts. It keeps up where
           it is never further behind, in the second half, than two micro-batches take.

Everything runs on a broker of its own, in a temporary DATA_DIR.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.figures import spread, write
from benchmarks.machine import describe
from emostream.broker import consumer, partitions
from emostream.operate.java import java
from emostream.settings import load
from testkit.broker import Broker, running_broker
from testkit.processes import cpu_seconds
from testkit.scripts import script
from testkit.settings import environment_for
from testkit.waiting import wait_until

TOOLS_VERSION = "4.3.0"  # the newest on Maven Central; it speaks with a broker of 4.4.0
EMOJIS = ["😊", "😂", "🔥", "👏", "❤️"]
USERS = 1_000
GROUP = "main-publisher"
# A publisher that keeps up has on average the events of one micro-batch and of the time that counting takes before it.
MAX_BATCHES_BEHIND = 2


def fetch_tools(directory: Path) -> Path:
    """Kafka's command-line tools from Maven Central, by the Ivy that comes with pyspark."""
    target = directory / f"tools-{TOOLS_VERSION}"
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


def tool(jars: Path, name: str, *arguments: str) -> str:
    """The output of one of Kafka's tools."""
    command = [java(), "-Xmx512m", "-cp", f"{jars}/*", f"org.apache.kafka.tools.{name}", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if ended.returncode:
        raise SystemExit(f"{name} failed:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return ended.stdout


def fill(jars: Path, broker: Broker, events: int, per_second: int = -1) -> float:
    """Put events on emoji-topic, as fast as can be or by the clock; events/s from the first to the last."""
    payload = Path(broker.environment["DATA_DIR"]) / "events"
    payload.write_text(
        "\n".join(
            json.dumps(
                {"user_id": f"user{n}", "emoji": EMOJIS[n % len(EMOJIS)], "timestamp": "2026-01-31T20:15:00+00:00"},
                ensure_ascii=False, separators=(",", ":"),
            )
            for n in range(USERS)
        )
    )  # fmt: skip
    output = tool(
        jars, "ProducerPerformance", "--topic", "emoji-topic", "--num-records", str(events),
        "--throughput", str(per_second), "--payload-file", str(payload),
        "--producer-props", f"bootstrap.servers={broker.servers}",
        "acks=all", "linger.ms=50", "batch.size=262144", "compression.type=lz4",
    )  # fmt: skip
    return float(re.findall(rf"^{events} records sent, ([\d.]+) records/sec", output, re.MULTILINE)[-1])


def read_raw(jars: Path, broker: Broker, events: int) -> float:
    """Events/s of consumer-perf, joining the group left out."""
    output = tool(
        jars, "ConsumerPerformance", "--bootstrap-server", broker.servers, "--topic", "emoji-topic",
        "--messages", str(events), "--group", f"raw-{time.time_ns()}", "--timeout", "60000",
    )  # fmt: skip
    head, *_, values = (line.split(", ") for line in output.splitlines() if ", " in line)
    return float(dict(zip(head, values, strict=True))["fetch.nMsg.sec"])


def drain(environment: dict[str, str], events: int, settings: dict[str, str]) -> tuple[float, float]:
    """Of a main publisher that counts everything on the topic: events/s, and CPU seconds per million of them."""
    with script(environment, "main_publisher.py", **settings) as publisher:
        publisher.wait_for("msg=aggregating", 120)
        used = sum(cpu_seconds(publisher.process.pid).values())
        publisher.wait_for("msg=batch ", 120)
        began = time.monotonic() - sum(map(float, re.findall(r"(?:count|commit)_seconds=([\d.]+)", publisher.log)))
        while (counted := sum(map(int, re.findall(r"msg=batch batch_id=\d+ events=(\d+)", publisher.log)))) < events:
            publisher.wait_for(f"batch_id={publisher.log.count('msg=batch ')} ", 120)
        seconds = time.monotonic() - began
        used = sum(cpu_seconds(publisher.process.pid).values()) - used
    if counted != events:
        raise SystemExit(f"counted {counted} of {events} events")
    return events / seconds, 1e6 * used / events


def forget_positions(broker: Broker) -> None:
    """Delete the main publisher's group, so that the next one starts at the oldest event."""
    admin = KafkaAdminClient(bootstrap_servers=broker.servers)
    admin.delete_groups([GROUP])
    admin.close()


def measure_backlog(jars: Path, broker: Broker, args: argparse.Namespace, settings: dict[str, str]) -> dict[str, Any]:
    """A topic full of events, read raw and counted in turn, round after round."""
    filled = fill(jars, broker, args.events)
    print(f"filled at {filled:,.0f} events/s", flush=True)
    raw, ours, cost = [], [], []
    for number in range(args.rounds):
        raw.append(read_raw(jars, broker, args.events))
        forget_positions(broker)
        rate, cpu_seconds_a_million = drain(broker.environment, args.events, settings)
        ours.append(rate)
        cost.append(cpu_seconds_a_million)
        print(f"round {number + 1}: raw {raw[-1]:,.0f}/s, aggregated {rate:,.0f}/s, ratio {rate / raw[-1]:.2f}, "
              f"{cpu_seconds_a_million:.1f} s CPU per million events", flush=True)  # fmt: skip
    ratios = [ours / raw for ours, raw in zip(ours, raw, strict=True)]
    print(f"aggregated {spread(ours)} events/s, ÷ raw {spread(ratios, 2)} (min / median / max)")
    return {"events": args.events, "filled": filled, "raw": raw, "ours": ours, "ratio": ratios, "cpu_a_million": cost}


def measure_sustained(jars: Path, broker: Broker, args: argparse.Namespace, settings: dict[str, str]) -> dict[str, Any]:
    """Events that come at a rate, for each of several rates: how far the publisher is behind, all the time."""
    theirs = load(environ=broker.environment)
    reader = consumer(theirs, GROUP)
    events = partitions(theirs.emoji_topic)

    def behind() -> tuple[int, int]:
        """(events on the topic, of them not counted)."""
        ends = sum(reader.end_offsets(events).values())
        return ends, ends - sum(reader.committed(tp) or 0 for tp in events)

    rates = []
    with script(broker.environment, "main_publisher.py", **settings) as publisher:
        publisher.wait_for("msg=aggregating", 120)
        fill(jars, broker, 50_000 * 20, 50_000)  # the JVM has compiled the way
        wait_until("the warm-up is counted", lambda: behind()[1] == 0)
        for rate in [int(rate) for rate in args.rates.split(",")]:
            before, used = behind()[0], sum(cpu_seconds(publisher.process.pid).values())
            samples: list[list[float]] = []
            with ThreadPoolExecutor(1) as executor:
                filling = executor.submit(fill, jars, broker, round(rate * args.seconds), rate)
                began = time.monotonic()
                while not filling.done():
                    time.sleep(0.5)
                    ends, lag = behind()
                    if ends > before:
                        samples.append([round(time.monotonic() - began, 2), ends - before, lag])
                reached = filling.result()
            wait_until("the rest is counted", lambda: behind()[1] == 0, 120)
            cost = 1e6 * (sum(cpu_seconds(publisher.process.pid).values()) - used) / (behind()[0] - before)
            later = samples[len(samples) // 2 :]
            worst = max(lag for _, _, lag in later) / reached
            kept_up = reached >= 0.95 * rate and worst <= MAX_BATCHES_BEHIND * theirs.batch_seconds
            rates.append({"rate": rate, "reached": reached, "samples": samples, "behind_seconds": worst,
                          "kept_up": kept_up, "cpu_a_million": cost})  # fmt: skip
            print(f"{rate:,} events/s (reached {reached:,.0f}): in the second half at most {worst:.2f} s behind, "
                  f"{cost:.1f} s CPU per million events; {'kept up' if kept_up else 'FELL BEHIND'}",
                  flush=True)  # fmt: skip
    reader.close()
    return {"seconds": args.seconds, "batch_seconds": theirs.batch_seconds, "rates": rates,
            "max_batches_behind": MAX_BATCHES_BEHIND, "max_events_per_batch": theirs.max_events_per_batch}  # fmt: skip


def main() -> None:
    """Entry point of the command in the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measures = {"backlog": measure_backlog, "sustained": measure_sustained}
    parser.add_argument("what", choices=measures)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", default="50000,100000,200000,300000,400000,500000")
    parser.add_argument("--seconds", type=float, default=30, help="sustained: at each rate")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    args = parser.parse_intermixed_args()
    settings = dict(argument.split("=", 1) for argument in args.settings)
    jars = fetch_tools(load().data_path / "benchmarks")
    print(f"{describe()}; {settings or 'defaults'}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="emostream-benchmark-") as name,
        running_broker(environment_for(Path(name), **settings)) as broker,
    ):
        found = measures[args.what](jars, broker, args, settings)
    write(args.json, f"aggregate-{args.what}", found | {"settings": settings})


if __name__ == "__main__":
    main()
