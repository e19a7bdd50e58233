"""What processes use, their children included: CPU and memory; and how to let them have less. Linux only."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


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
    return _sum_mb(root, "status", "VmRSS:")


def shared_once_mb(root: int) -> float:
    """The same, with a page that n processes share counted as 1/n for each."""
    return _sum_mb(root, "smaps_rollup", "Pss:")


def _sum_mb(root: int, file: str, name: str) -> float:
    total = 0.0
    for pid in tree(root):
        with suppress(OSError, StopIteration):  # it has just ended
            total += number_in_proc(pid, file, name) / 1024
    return total


def number_in_proc(pid: int, file: str, name: str) -> int:
    """The number behind `name` in a file of /proc/<pid>."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


@dataclass
class Usage:
    """What a process and its children used."""

    memory_mb: list[float] = field(default_factory=list)  # at each sample, the first before the load
    cpu_seconds: float = 0.0


@contextmanager
def usage_of(pid: int, every_seconds: float) -> Iterator[Usage]:
    """The usage within the block; the CPU time is known at its end."""
    found, stop = Usage([resident_mb(pid)]), threading.Event()

    def sample() -> None:
        while not stop.wait(every_seconds):
            found.memory_mb.append(resident_mb(pid))

    sampling = threading.Thread(target=sample)
    sampling.start()
    before = cpu_seconds(pid)
    try:
        yield found
        found.cpu_seconds = sum(used - before.get(child, 0.0) for child, used in cpu_seconds(pid).items())
    finally:
        stop.set()
        sampling.join()


@contextmanager
def held(pids: Sequence[int], share: float) -> Iterator[None]:
    """Each of these processes gets at most `share` of a core, by a cgroup of its own. Raises OSError without the right.

    Where processes compete for cores, this shows what each makes of its share.
    """
    unified = (CGROUPS / "cgroup.controllers").exists()
    period_us = 100_000  # the kernel's default
    quota_us = round(share * period_us)
    limits = {"cpu.cfs_period_us": f"{period_us}", "cpu.cfs_quota_us": f"{quota_us}"}
    if unified:
        limits = {"cpu.max": f"{quota_us} {period_us}"}
    made: list[Path] = []
    try:
        for pid in pids:
            group = (CGROUPS if unified else CGROUPS / "cpu") / f"emostream-benchmark-{pid}"
            group.mkdir()
            made.append(group)
            for name, value in (limits | {"cgroup.procs": str(pid)}).items():
                (group / name).write_text(value)
        yield
    finally:
        for group in made:
            for left in (group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):  # it has just ended
                    (group.parent / "cgroup.procs").write_text(left)
            group.rmdir()
