#!/usr/bin/env python3
"""Drain a backlog of events through the main publisher, beside Kafka's own consumer-perf reading the same topic.

usage: .venv/bin/python benchmarks/aggregate.py [--events 10000000] [--rounds 3] [KEY=VALUE ...]

Everything runs on a broker of its own, in a temporary DATA_DIR. The topic is filled once, by Kafka's producer-perf. In
each round first consumer-perf reads all of it, then a main publisher without positions counts all of it, one bounded
micro-batch after the other. Its time runs from the first micro-batch's start to the last one's commit, as in its log.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from kafka import KafkaAdminClient

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe, spread
from emostream.settings import load
from emostream.supervise import java
from tests.harness import Broker, environment_for, running_broker, script

TOOLS_VERSION = "4.3.0"  # the newest on Maven Central; it speaks with a broker of 4.4.0
EMOJIS = ["😊", "😂", "🔥", "👏", "❤️"]
USERS = 1_000


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


def fill(jars: Path, broker: Broker, directory: Path, events: int) -> float:
    """Put events on emoji-topic; returns events/s."""
    payload = directory / "events"
    payload.write_text(
        "\n".join(
            json.dumps(
                {"user_id": f"user{n}", "emoji": EMOJIS[n % len(EMOJIS)], "timestamp": "2026-01-31T20:15:00+00:00"},
                ensure_ascii=False, separators=(",", ":"),
            )
            for n in range(USERS)
        )
    )  # fmt: skip
    began = time.monotonic()
    tool(
        jars, "ProducerPerformance", "--topic", "emoji-topic", "--num-records", str(events), "--throughput", "-1",
        "--payload-file", str(payload), "--producer-props", f"bootstrap.servers={broker.servers}",
        "acks=all", "linger.ms=50", "batch.size=262144", "compression.type=lz4",
    )  # fmt: skip
    return events / (time.monotonic() - began)


def read_raw(jars: Path, broker: Broker, events: int) -> float:
    """Events/s of consumer-perf, joining the group left out."""
    output = tool(
        jars, "ConsumerPerformance", "--bootstrap-server", broker.servers, "--topic", "emoji-topic",
        "--messages", str(events), "--group", f"raw-{time.time_ns()}", "--timeout", "60000",
    )  # fmt: skip
    head, *_, values = (line.split(", ") for line in output.splitlines() if ", " in line)
    return float(dict(zip(head, values, strict=True))["fetch.nMsg.sec"])


def drain(environment: dict[str, str], events: int, settings: dict[str, str]) -> float:
    """Events/s of a main publisher that counts everything on the topic."""
    with script(environment, "main_publisher.py", **settings) as publisher:
        counted = 0
        while counted < events:
            publisher.wait_for("msg=batch " if not counted else f"batch_id={batches(publisher.log)} ", 120)
            counted = sum(map(int, re.findall(r"msg=batch batch_id=\d+ events=(\d+)", publisher.log)))
        lines = [line for line in publisher.log.splitlines() if "msg=batch " in line]
    first, last = lines[0], lines[-1]
    took = sum(float(value) for value in re.findall(r"(?:count|commit)_seconds=([\d.]+)", first))
    seconds = (moment(last) - moment(first)).total_seconds() + took
    if counted != events:
        raise SystemExit(f"counted {counted} of {events} events")
    return events / seconds


def batches(log: str) -> int:
    """How many micro-batches a log tells of."""
    return log.count("msg=batch ")


def moment(line: str) -> datetime:
    """When a line was logged, to the second."""
    return datetime.strptime(line.split()[0], "%Y-%m-%dT%H:%M:%S%z")


def main() -> None:
    """Entry point of the command in the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    settings = dict(argument.split("=", 1) for argument in args.settings)
    jars = fetch_tools(load().data_path / "benchmarks")
    print(f"{describe()}; {args.events:,} events, {settings or 'defaults'}", flush=True)
    with tempfile.TemporaryDirectory(prefix="emostream-benchmark-") as name:
        directory = Path(name)
        environment = environment_for(directory, **settings)
        with running_broker(environment) as broker:
            print(f"filled at {fill(jars, broker, directory, args.events):,.0f} events/s", flush=True)
            raw, ours = [], []
            for number in range(args.rounds):
                raw.append(read_raw(jars, broker, args.events))
                forget_positions(broker)
                ours.append(drain(environment, args.events, settings))
                print(f"round {number + 1}: raw {raw[-1]:,.0f}/s, aggregated {ours[-1]:,.0f}/s, "
                      f"ratio {ours[-1] / raw[-1]:.2f}", flush=True)  # fmt: skip
            print(
                f"aggregated {spread(ours)} events/s (min / median / max), "
                f"{statistics.median(ours) / statistics.median(raw):.2f} x raw reading"
            )


def forget_positions(broker: Broker) -> None:
    """Delete the main publisher's group, so that the next one starts at the oldest event."""
    admin = KafkaAdminClient(bootstrap_servers=broker.servers)
    admin.delete_groups(["main-publisher"])
    admin.close()


if __name__ == "__main__":
    main()
