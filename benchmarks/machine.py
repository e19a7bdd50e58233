"""What the benchmarks share: the machine's name, servers and what they cost, programs in Go. Linux only."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from testkit.scripts import with_children_gone
from testkit.settings import PROJECT_DIR

BENCHMARKS_DIR = Path(__file__).resolve().parent
CGROUPS = Path("/sys/fs/cgroup")
LOAD_BEFORE = os.getloadavg()[0]  # of the last minute, when this process began
CORES = len(os.sched_getaffinity(0))  # then, too: a benchmark may keep itself to some of them


def machine() -> dict[str, object]:
    """What one has to know of the machine."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "cpu": model,
        "cores": CORES,
        "memory_gib": round(memory_gb),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(LOAD_BEFORE, 1),
    }


def describe() -> str:
    """The machine in one line, for the head of a table."""
    line = "{cpu}, {cores} cores, {memory_gib} GiB, {system}, Python {python}; load {load_before} before"
    return line.format_map(machine())


@contextmanager
def held(pids: Sequence[int], share: float) -> Iterator[None]:
    """Each of these processes gets at most `share` of a core, by a cgroup of its own. Raises OSError without the right.

    Where cores are what all compete for, this shows what a process makes of its share.
    """
    unified = (CGROUPS / "cgroup.controllers").exists()
    period_us = 100_000  # the kernel's default
    quota_us = round(share * period_us)
    made: list[Path] = []
    try:
        for pid in pids:
            group = (CGROUPS if unified else CGROUPS / "cpu") / f"emostream-benchmark-{pid}"
            group.mkdir()
            made.append(group)
            if unified:
                (group / "cpu.max").write_text(f"{quota_us} {period_us}")
            else:
                (group / "cpu.cfs_period_us").write_text(str(period_us))
                (group / "cpu.cfs_quota_us").write_text(str(quota_us))
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for group in made:
            for left in (group / "cgroup.procs").read_text().split():
                (group.parent / "cgroup.procs").write_text(left)
            group.rmdir()


@contextmanager
def server_process(
    what: str, command: Sequence[str], environment: Mapping[str, str], log_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A server to measure, ended with all its children at the end of the block; what it says goes to `log_path`."""
    with log_path.open("ab") as log:
        server = subprocess.Popen(
            command, cwd=PROJECT_DIR, env=environment,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield server
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            print(f"  {what}: does not end at SIGTERM; killed", flush=True)
        with_children_gone(server.pid)


def build_go(package: str, bin_dir: Path) -> Path:
    """Build a command of benchmarks/go.mod, for example "load"; ends the script where there is no Go."""
    if not shutil.which("go"):
        sys.exit("needs Go 1.26 or later (https://go.dev/dl), for the load generators and the peers in Go")
    binary = bin_dir / Path(package).name
    bin_dir.mkdir(parents=True, exist_ok=True)
    subprocess.run(["go", "build", "-o", binary, f"./{package}"], cwd=BENCHMARKS_DIR, check=True, timeout=600)
    return binary
