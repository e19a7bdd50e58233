"""Where output goes: to a reader that has enough, to a closed stream, to a terminal that cannot show an emoji."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from testkit.settings import PROJECT_DIR, bare_environment

EMOSTREAM = f"{sys.executable} -m emostream"
COMMANDS = {
    "emostream --help": f"{EMOSTREAM} --help",
    "emostream --version": f"{EMOSTREAM} --version",
    "status": f"{EMOSTREAM} status",
    "logs": f"{EMOSTREAM} logs",
    "cluster-publisher --help": f"{EMOSTREAM} cluster-publisher --help",
    "client.py --help": f"{sys.executable} client.py --help",
    "a refused setting": f"{EMOSTREAM} status LINGER_MS=😊",
    "./start.sh --help": "./start.sh --help",
    "./topic.sh --help": "./topic.sh --help",
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATA_DIR with a long log in it. The commands here only read it."""
    found = tmp_path_factory.mktemp("data")
    log = found / "log" / "app.log"
    log.parent.mkdir()
    log.write_text("a line 😊\n" * 100_000)
    return found


@cache
def run_in_shell(command: str, data_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What the command did. A command that is run the same way again is not run again."""
    return subprocess.run(
        ["bash", "-c", command], cwd=PROJECT_DIR, env=bare_environment(DATA_DIR=data_dir, **environment),
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False, encoding="utf-8", errors="replace",
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_has_enough_is_no_error(command: str, data_dir: Path) -> None:
    # `true` reads nothing and is gone before the command prints; `sleep` lets it be gone.
    for reader in ("head -n 1 >/dev/null", "true"):
        ended = run_in_shell(f"{{ sleep 0.3; {COMMANDS[command]}; }} | {reader}", data_dir)
        assert "BrokenPipe" not in ended.stderr
        assert "Traceback" not in ended.stderr
        assert "rror" not in ended.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "logs"])
def test_a_closed_stream_changes_nothing(command: str, closed: str, data_dir: Path) -> None:
    usual, ended = run_in_shell(COMMANDS[command], data_dir), run_in_shell(f"{COMMANDS[command]} {closed}", data_dir)
    if ".sh" not in command:  # the shell's own commands fail without a stream
        assert ended.returncode == usual.returncode
    assert "Traceback" not in ended.stderr
    assert ended.stdout in ("", usual.stdout)


@pytest.mark.parametrize("encoding", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, {"PYTHONIOENCODING": "latin-1"},
                                      {"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "0", "LC_ALL": "C",
                                      "PYTHONCOERCECLOCALE": "0"}], ids=str)  # fmt: skip
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "logs"])
def test_a_terminal_that_cannot_show_a_character_shows_the_rest(
    command: str, encoding: dict[str, str], data_dir: Path
) -> None:
    usual, ended = run_in_shell(COMMANDS[command], data_dir), run_in_shell(COMMANDS[command], data_dir, **encoding)
    assert "Traceback" not in ended.stderr
    assert ended.returncode == usual.returncode
    assert len(ended.stdout.splitlines()) == len(usual.stdout.splitlines())
