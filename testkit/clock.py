"""A clock that a test can set, for a process and all its children: what NTP does, and a machine that was asleep."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

# The time of the day, moved by the seconds in a file. The monotonic clock stays what it is.
SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long long moved(void) {
    static volatile long long *seconds;
    if (!seconds) {
        int file = open(getenv("CLOCK_STEP_FILE"), O_RDONLY);
        seconds = mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
        close(file);
    }
    return *seconds;
}

int clock_gettime(clockid_t id, struct timespec *found) {
    int status = syscall(SYS_clock_gettime, id, found);
    if (status == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) found->tv_sec += moved();
    return status;
}

int gettimeofday(struct timeval *restrict found, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    found->tv_sec = now.tv_sec;
    found->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *found) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return found ? *found = now.tv_sec : now.tv_sec;
}
"""


class SteppedClock:
    """The clock of those processes that have its `environment`."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc")
        assert compiler, "expected a C compiler named cc, found none; as root: apt-get install gcc libc6-dev"
        library = directory / "clock.so"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(library)],
            input=SOURCE, text=True, check=True, timeout=60,
        )  # fmt: skip
        self._file = directory / "clock_step"
        self._file.write_bytes(struct.pack("=q", 0))
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_STEP_FILE": str(self._file)}

    def step(self, seconds: int) -> None:
        """Set the clock to the real time and so many seconds."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", seconds))
