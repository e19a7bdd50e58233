"""What a system costs while it runs: memory, threads, descriptors and CPU of each process, and files. Linux only."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import slope
from emostream.operate.supervisor import Supervisor
from emostream.settings import Settings
from testkit.processes import cpu_seconds_of, number_in_proc, tree

Sample = dict[str, Any]


def look_at(settings: Settings, supervisor: Supervisor, began: float) -> Sample:
    """Memory, threads, descriptors and CPU so far by process, its children included, and what is in DATA_DIR."""
    processes = {}
    pids = {process.name: tree(process.pid) for process in supervisor.processes()}
    pids["supervisord"] = [int((settings.data_path / "run" / "supervisord.pid").read_text())]
    for name, those in pids.items():
        found = {"memory_mb": 0.0, "threads": 0, "descriptors": 0, "cpu_seconds": 0.0}
        for pid in those:
            try:
                found["memory_mb"] += int(number_in_proc(pid, "status", "VmRSS:")) / 1024
                found["threads"] += int(number_in_proc(pid, "status", "Threads:"))
                found["descriptors"] += len(os.listdir(f"/proc/{pid}/fd"))
                found["cpu_seconds"] += cpu_seconds_of(pid)
            except (OSError, StopIteration):  # it has just ended
                continue
        processes[name] = {what: round(value, 2) for what, value in found.items()}
    data = settings.data_path
    checkpoint = sum(len(names) for _, _, names in os.walk(data / "checkpoint"))
    kafka_mb = megabytes(data / "kafka")
    return {
        "seconds": round(time.monotonic() - began, 1),
        "processes": processes,
        "checkpoint_files": checkpoint,
        "kafka_mb": round(kafka_mb, 1),
        "other_mb": round(megabytes(data) - kafka_mb, 1),
    }


def megabytes(directory: Path) -> float:
    """What the files below a directory take on the disk; links are not followed."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total / 2**20


def growth(samples: list[Sample], name: str, what: str, warm_up_share: float) -> float:
    """What a process has added since the warm-up, a share of the time, by the fitted slope."""
    steady = [sample for sample in samples if sample["seconds"] >= warm_up_share * samples[-1]["seconds"]]
    times = [sample["seconds"] for sample in steady]
    values = [sample["processes"][name][what] for sample in steady]
    return slope(times, values) * float(times[-1] - times[0])
