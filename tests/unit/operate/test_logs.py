"""emostream.operate.terminal and ./start.sh logs: whose line it is, in colour on a terminal only."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emostream.operate.terminal import with_names
from testkit.settings import PROJECT_DIR, bare_environment

ESCAPE = "\x1b"


def test_each_line_comes_behind_the_name_of_its_file_in_a_colour_of_its_own() -> None:
    app, kafka = "==> /x/app.log <==", "==> /x/kafka_1.log <=="
    tailed = [app, "one", "", "two", "", kafka, "three", "", app, "4"]
    found = list(with_names(tailed, [Path("/x/app.log"), Path("/x/kafka_1.log")]))
    plain = [re.sub(rf"{ESCAPE}\[\d+m", "", line) for line in found]
    assert plain == ["app     one", "app     ", "app     two", "kafka_1 three", "app     4"]
    colours = [re.findall(rf"{ESCAPE}\[(\d+)m", line) for line in found]
    assert colours == [["36", "0"]] * 3 + [["32", "0"]] + [["36", "0"]]


@contextmanager
def shown(tmp_path: Path, *arguments: str, terminal: bool, **environment: str) -> Iterator[int]:
    """`./start.sh logs ARGUMENTS...` with two logs; the descriptor of what it shows."""
    (tmp_path / "log").mkdir()
    for name in ("app", "main_publisher"):
        (tmp_path / "log" / f"{name}.log").write_text(f"a line of {name}\n")
    ours, theirs = pty.openpty() if terminal else os.pipe()
    kept = {name: value for name, value in bare_environment(DATA_DIR=tmp_path).items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        ["./start.sh", "logs", *arguments], cwd=PROJECT_DIR, env=kept | environment, stdin=subprocess.DEVNULL,
        stdout=theirs, start_new_session=True,
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


def test_on_a_terminal_all_logs_are_followed_behind_coloured_names(tmp_path: Path) -> None:
    with shown(tmp_path, terminal=True) as descriptor:
        found = read_until(descriptor, "a line of app\r\n", "a line of main_publisher\r\n")
        assert f"{ESCAPE}[36mapp           {ESCAPE}[0m a line of app\r\n" in found
        with (tmp_path / "log" / "app.log").open("a") as log:
            log.write("what comes later\n")
        assert f"app           {ESCAPE}[0m what comes later" in read_until(descriptor, "later\r\n")


def test_on_a_terminal_one_log_is_followed_behind_its_coloured_name(tmp_path: Path) -> None:
    with shown(tmp_path, "main_publisher", terminal=True) as descriptor:
        found = read_until(descriptor, "a line of main_publisher\r\n")
        assert found == f"{ESCAPE}[36mmain_publisher{ESCAPE}[0m a line of main_publisher\r\n"


@pytest.mark.parametrize(("terminal", "environment"), [(True, {"NO_COLOR": "1"}), (False, {})])
def test_without_colour_it_is_what_tail_shows(tmp_path: Path, terminal: bool, environment: dict[str, str]) -> None:
    with shown(tmp_path, terminal=terminal, **environment) as descriptor:
        found = read_until(descriptor, "a line of app", "a line of main_publisher")
        assert ESCAPE not in found
        assert "app.log <==" in found


def test_one_log_on_a_pipe_is_its_lines_and_nothing_else(tmp_path: Path) -> None:
    with shown(tmp_path, "app", terminal=False) as descriptor:
        assert read_until(descriptor, "app\n") == "a line of app\n"
