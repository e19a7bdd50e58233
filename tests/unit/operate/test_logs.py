"""./start.sh logs: what tail shows."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testkit.settings import PROJECT_DIR, bare_environment


@contextmanager
def shown(tmp_path: Path, *arguments: str) -> Iterator[int]:
    """`./start.sh logs ARGUMENTS...` with two logs; the descriptor of what it shows."""
    (tmp_path / "log").mkdir()
    for name in ("app", "main_publisher"):
        (tmp_path / "log" / f"{name}.log").write_text(f"a line of {name}\n")
    ours, theirs = os.pipe()
    process = subprocess.Popen(
        ["./start.sh", "logs", *arguments], cwd=PROJECT_DIR, env=bare_environment(DATA_DIR=tmp_path),
        stdin=subprocess.DEVNULL, stdout=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        yield ours
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        os.close(ours)


def read_until(descriptor: int, *texts: str) -> str:
    found = ""
    while not all(text in found for text in texts):
        chunk = os.read(descriptor, 4096).decode()
        assert chunk, found
        found += chunk
    return found


def test_all_logs_are_followed_below_their_names(tmp_path: Path) -> None:
    with shown(tmp_path) as descriptor:
        found = read_until(descriptor, "a line of app", "a line of main_publisher")
        assert "app.log <==" in found
        with (tmp_path / "log" / "app.log").open("a") as log:
            log.write("what comes later\n")
        read_until(descriptor, "what comes later\n")


def test_one_log_is_its_lines_and_nothing_else(tmp_path: Path) -> None:
    with shown(tmp_path, "app") as descriptor:
        assert read_until(descriptor, "app\n") == "a line of app\n"
