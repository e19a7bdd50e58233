"""What is made of many values, and the file that a part's figures are kept in, with the versions of everything."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.machine import BENCHMARKS_DIR, machine
from emostream.operate.java import java
from emostream.settings import PROJECT_DIR, load

PYTHON_LIBRARIES = ("confluent-kafka", "kafka-python", "pyspark", "httptools", "uvloop", "flask", "msgspec")
PEERS_OF_GO = ("github.com/IBM/sarama", "github.com/centrifugal/centrifuge")
MAX_PAIRS = 200_000


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of `values` do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]


def histogram(values: Sequence[float], width: float) -> list[list[float]]:
    """`[lower end, how many]` of every bin of this width that is not empty."""
    counts = Counter(int(value // width) for value in values)
    return [[round(number * width, 6), counts[number]] for number in sorted(counts)]


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """How much values grow per unit of time: the median over all pairs (Theil-Sen), which outliers do not move."""
    points = list(zip(times, values, strict=True))
    step = 1 + len(points) ** 2 // (2 * MAX_PAIRS)
    pairs = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points[::step], 2) if b[0] != a[0]]
    return statistics.median(pairs) if pairs else 0.0


def growth(samples: Sequence[Mapping[str, Any]], name: str, what: str, warm_up_share: float) -> float:
    """What a process has added since the warm-up, a share of the time, by the fitted slope."""
    steady = [sample for sample in samples if sample["seconds"] >= warm_up_share * samples[-1]["seconds"]]
    times = [sample["seconds"] for sample in steady]
    values = [sample["processes"][name][what] for sample in steady]
    return slope(times, values) * float(times[-1] - times[0])


def floor_of_latency(linger: float, batch: float, lead: float, points: int = 4000) -> list[float]:
    """The least that taps, evenly spread in time, can take to be counted (seconds, sorted).

    A tap waits for the app's next flush, which comes `lead` before each multiple of `linger`, and then for the next
    trigger, at a multiple of `batch`. Everything else, the counting and the way to the client, is taken as nothing.
    """
    found = []
    for number in range(points):
        tap = batch * number / points
        flush = -(-(tap + lead) // linger) * linger - lead
        found.append(-(-round(flush, 9) // batch) * batch - tap)
    return sorted(found)


def floor_unaligned(linger: float, batch: float, points: int = 200) -> list[float]:
    """The same where flushes and triggers do not know of one another, and both waits are evenly spread."""
    steps = [(number + 0.5) / points for number in range(points)]
    return sorted(linger * first + batch * second for first in steps for second in steps)


def floors(linger_ms: int, batch_seconds: float, flush_lead_seconds: float | None) -> dict[str, list[float]]:
    """By name, the least that taps can take; without a lead flushes are not aligned."""
    linger = linger_ms / 1000
    found = {"floor, were flushes not aligned": floor_unaligned(linger, batch_seconds)}
    if flush_lead_seconds is None:
        return {"floor": found.popitem()[1]}
    return found | {"floor": floor_of_latency(linger, batch_seconds, flush_lead_seconds)}


def first_line(*command: str) -> str:
    """The first line that a command prints, or "" where there is no such command."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter((ran.stdout + ran.stderr).splitlines()), "")


def versions() -> dict[str, str]:
    """Of everything that is measured, and of its peers."""
    jars = (load().data_path / "jars" / "broker").glob("kafka_2.13-*.jar")
    found = {"Kafka": next((re.sub(r".*-([\d.]+)\.jar", r"\1", jar.name) for jar in jars), "unknown")}
    found["Java"] = first_line(java(), "-version").partition('"')[2].partition('"')[0] or "unknown"
    found["Go"] = first_line("go", "version").removeprefix("go version ") if shutil.which("go") else "none"
    found |= {name: version(name) for name in PYTHON_LIBRARIES}
    for name, number in re.findall(r"^\s*(\S+) v(\S+)$", (BENCHMARKS_DIR / "go.mod").read_text(), re.MULTILINE):
        if name in PEERS_OF_GO:
            found[f"peer: {name.rsplit('/', 1)[1]}"] = number
    for name, number in re.findall(r"^(\S+)==(\S+)$", (BENCHMARKS_DIR / "peers/requirements.txt").read_text(), re.M):
        if name in ("flask", "fastapi", "aiokafka", "uvicorn"):
            found[f"peer: {name}"] = number
    return found


def commit() -> str:
    """The commit that is measured, with a + where the system itself differs from it."""
    git = ("git", "-C", str(PROJECT_DIR))
    differs = first_line(*git, "status", "--porcelain", "--", "emostream", "config", ":(glob)*.py")
    return first_line(*git, "rev-parse", "--short", "HEAD") + "+" * bool(differs)


def write(path: Path | None, part: str, figures: dict[str, Any], quick: bool) -> None:
    """Keep a part's figures as JSON with the machine, the versions, the commit and the time; nowhere for no path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "part": part,
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "quick": quick,
        "machine": machine(),
        "versions": versions(),
    }
    path.write_text(json.dumps(about | {"figures": figures}, ensure_ascii=False) + "\n")


def read(directory: Path, part: str) -> dict[str, Any] | None:
    """What `write` kept of a part; None where it was not measured."""
    path = directory / f"{part}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found
