"""How large a crowd → the processes, cores, memory and hosts that it takes, and what they send.

usage: emostream plan --viewers N --taps-per-second N [--emojis N] [--cores N] [--memory GB] [--gbit N] [--share N]

  --viewers 50e6          event streams that are open at the same time
  --taps-per-second 1e6   each is a request of its own
  --emojis 20             different ones in a micro-batch
  --cores 16 --memory 64 --gbit 10       of a host: cores, GB, Gbit/s
  --share 0.5             how much of a host, and of what one process can do, may be used

The figures in this file are those of benchmarks/REPORT.md, where their comments say. They were measured on two cores,
with the default settings; for a small crowd another machine took twice as much. A plan is where to begin, not a
promise: `benchmarks/run.sh plan` measures how near it comes.
"""

from __future__ import annotations

import argparse
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

STREAM_US = 12.6  # of a core, for each micro-batch; "as many micro-batches as the server can fan out", 2 on their way
STREAM_KB = 0.3  # "a micro-batch every 2 s"
# MB of a process: "What it costs", at 10,000/s.
WORKER_MB, BROKER_MB, SPARK_MB, CLUSTER_PUBLISHER_MB, SUBSCRIBER_MB = 173 / 2, 539, 832, 135 / 3, 501 / 9
# Bytes of a stream's event, and of each emoji in it, with the headers of TCP and IP; tests/unit/operate/test_plan.py
# makes such events.
EVENT_BYTES, EMOJI_BYTES = 260, 42
BATCH_SECONDS = 2.0
CLUSTERS = REPLICAS = 3
# The report's costs are of one broker. Beside three, at 2,000 and at 10,000 taps/s, a broker took 1.50 and 1.42 times
# as much, a publisher 1.74 and 1.64, a subscriber 1.60 and 1.53 (on one machine, in the same hour).
BROKER_FACTOR, READER_FACTOR = 1.45, 1.65

Line: TypeAlias = tuple[tuple[float, float], ...]  # (events/s, cores) of one process


@dataclass(frozen=True)
class Costs:
    """Cores of one process of each kind, beside one broker."""

    worker: Line
    spark: Line
    broker: Line
    cluster_publisher: float  # more taps are no more work for it, only more emojis are
    subscriber: float  # without streams


# "What it costs" has each process at rest, at 2,000/s and at 10,000/s. Two workers share these.
REPORTED = Costs(
    worker=((0, 0.010), (1_000, 0.096), (5_000, 0.283), (18_288, 0.463)),  # the last: "Top rate", "ours, 2 workers"
    spark=(
        (0, 0.008), (2_000, 0.096), (10_000, 0.117), (50_000, 0.335), (100_000, 0.440), (150_000, 0.495),
        (200_000, 0.600), (250_000, 0.725), (300_000, 0.810),  # from 50,000 on: "Events at a steady rate"
    ),
    broker=((0, 0.054), (10_000, 0.062)),
    cluster_publisher=0.022 / 3,
    subscriber=0.061 / 9,
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """All processes of one kind, and what they use and send together."""

    name: str
    processes: int
    cores: float
    memory_mb: float
    gbit: float = 0.0


class Parser(argparse.ArgumentParser):
    """A parser that says in one sentence what is wrong."""

    def error(self, message: str) -> NoReturn:
        """End the process."""
        self.exit(2, f"emostream plan: {message}; emostream plan --help shows an example\n")


def cores_at(points: Line, rate: float) -> float:
    """Return the cores at `rate` events/s, on straight lines between the points; the last line goes on."""
    after = min(max(1, bisect_left(points, (rate, 0.0))), len(points) - 1)
    (low_rate, low), (high_rate, high) = points[after - 1 : after + 1]
    return low + (high - low) * (rate - low_rate) / (high_rate - low_rate)


def plan(
    viewers: float, taps_per_second: float, emojis: float, share: float, costs: Costs = REPORTED
) -> list[Part]:  # fmt: skip
    """Return the parts of a system of which no process but Spark is used for more than `share` of what it can do."""
    workers = max(1, math.ceil(taps_per_second / (share * costs.worker[-1][0])))
    spark_cores = cores_at(costs.spark, taps_per_second)
    stream_cores = viewers * STREAM_US * 1e-6 / BATCH_SECONDS
    # One core is the most that a subscriber can use.
    subscribers = CLUSTERS * max(1, math.ceil(stream_cores / share / CLUSTERS))
    return [
        Part("app workers", workers, workers * cores_at(costs.worker, taps_per_second / workers), workers * WORKER_MB),
        Part("brokers", REPLICAS, BROKER_FACTOR * REPLICAS * cores_at(costs.broker, taps_per_second),
             REPLICAS * BROKER_MB),
        Part("main publisher", 1, spark_cores, SPARK_MB * max(1.0, spark_cores)),
        Part("cluster publishers", CLUSTERS, READER_FACTOR * CLUSTERS * costs.cluster_publisher,
             CLUSTERS * CLUSTER_PUBLISHER_MB),
        Part(
            "subscribers", subscribers, READER_FACTOR * subscribers * costs.subscriber + stream_cores,
            subscribers * SUBSCRIBER_MB + viewers * STREAM_KB / 1024,
            viewers * 8e-9 * (EVENT_BYTES + emojis * EMOJI_BYTES) / BATCH_SECONDS,
        ),
    ]  # fmt: skip


def table(parts: Sequence[Part], cores: float, memory_gb: float, gbit: float, share: float) -> str:
    """Return the plan as text. `cores`, `memory_gb` and `gbit` are those of a host."""
    needed = {
        part.name: max(part.cores / cores, part.memory_mb / 1024 / memory_gb, part.gbit / gbit) / share
        for part in parts
    }
    costliest = max(parts, key=lambda part: needed[part.name])
    lines = [f"{'part':<20}{'processes':>10}{'cores':>10}{'GB':>10}{'Gbit/s':>10}{'hosts':>10}"]
    lines += [
        f"{part.name:<20}{part.processes:>10,}{part.cores:>10,.1f}{part.memory_mb / 1024:>10,.1f}{part.gbit:>10,.1f}"
        f"{needed[part.name]:>10,.1f}"
        for part in parts
    ]
    return "\n".join([
        *lines,
        f"Hosts: {math.ceil(sum(needed.values())):,}, each used to {share:.0%}. "
        f"The costliest part: {costliest.name}, {needed[costliest.name] / sum(needed.values()):.0%} of that.",
    ])  # fmt: skip


def answer(arguments: Sequence[str]) -> str:
    """Return the plan that the command line asks for, or the help. Ends the process if it cannot be understood."""
    if {"-h", "--help"} & set(arguments):
        return __doc__ or ""
    parser = Parser(add_help=False)
    for name, default in (("viewers", None), ("taps-per-second", None), ("emojis", 20.0), ("cores", 16.0),
                          ("memory", 64.0), ("gbit", 10.0), ("share", 0.5)):  # fmt: skip
        parser.add_argument(f"--{name}", type=_positive, default=default, required=default is None)
    asked = parser.parse_args(arguments)
    if asked.share > 1:
        parser.error(f"argument --share: expected at most 1, got {asked.share:g}")
    parts = plan(asked.viewers, asked.taps_per_second, asked.emojis, asked.share)
    _, _, spark, _, subscribers = parts
    return (
        f"{table(parts, asked.cores, asked.memory, asked.gbit, asked.share)}\n"
        f"Settings: PARTITIONS={max(3, math.ceil(spark.cores / asked.share))} (each is one task of Spark), "
        f"MAX_STREAMS={math.ceil(asked.viewers / subscribers.processes)} or more."
    )


def _positive(text: str) -> float:
    expected = argparse.ArgumentTypeError(f"expected a number above 0, for example 50e6, got {text!r}")
    try:
        number = float(text)
    except ValueError:
        raise expected from None
    if not 0 < number < math.inf:
        raise expected
    return number
