"""What processes cost: their children, CPU and memory. Linux only."""

from __future__ import annotations

import os
from pathlib import Path


def tree(root: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it has just ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, [])
    return found


def cpu_seconds(root: int) -> dict[int, float]:
    """CPU seconds so far of a process and all its descendants, by pid."""
    return {pid: cpu_seconds_of(pid) for pid in tree(root)}


def cpu_seconds_of(pid: int) -> float:
    """CPU seconds so far of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(root: int) -> float:
    """Resident memory of a process and all its descendants, in MB; pages that they share count for each."""
    return sum(int(number_in_proc(pid, "status", "VmRSS:")) for pid in tree(root)) / 1024


def number_in_proc(pid: int, file: str, name: str) -> str:
    """The first number behind `name` in a file of /proc/<pid>."""
    return next(
        line.split()[1] for line in Path(f"/proc/{pid}/{file}").read_text().splitlines() if line.startswith(name)
    )
