"""The machine that is measured on, and the programs in Go that run on it. Linux only."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from emostream.settings import load
from testkit.processes import usage_of

Report = dict[str, Any]
BENCHMARKS_DIR = Path(__file__).resolve().parent
DATA_DIR = load().data_path / "benchmarks"
LOAD_BEFORE = os.getloadavg()[0]  # of the last minute, when this process began
CORES = len(os.sched_getaffinity(0))  # then, too: a benchmark may keep itself to some of them
MACHINE = "{cpu}, {cores} cores, {memory_gib} GiB of memory, {system}, Python {python}"


def machine() -> dict[str, object]:
    """What one has to know of the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    return {
        "cpu": model,
        "cores": CORES,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(LOAD_BEFORE, 1),
    }


def go_command(package: str, **flags: object) -> list[str]:
    """Build a command of benchmarks/go.mod, for example "load", and return how it is called.

    Ends the script where there is no Go. Raises SubprocessError where it cannot be built.
    """
    if not shutil.which("go"):
        sys.exit("needs Go 1.26 or later (https://go.dev/dl), for the load generators and the peers in Go")
    binary = DATA_DIR / "bin" / Path(package).name
    binary.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["go", "build", "-o", binary, f"./{package}"], cwd=BENCHMARKS_DIR, check=True, timeout=600)
    return [str(binary), *(f"-{name}={value}" for name, value in flags.items())]


def report_of(command: list[str], server: int, every_seconds: float) -> Report:
    """What a load generator reports, with what the server used meanwhile: cpu (s), memory (MB at each sample)."""
    with usage_of(server, every_seconds) as used:
        answered = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=400)
    report: Report = json.loads(answered.stdout)
    return report | {"cpu": used.cpu_seconds, "memory": used.memory_mb}


def start_load(port: int, rate: float, seconds: float, warm_seconds: float = 0.0) -> subprocess.Popen[str]:
    """Taps of five emojis by the clock, in a process of its own."""
    command = go_command("load", port=port, rate=rate, warm=warm_seconds, seconds=seconds)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
