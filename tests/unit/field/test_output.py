"""Where output goes: to a reader that has enough, to a closed stream, to a terminal that cannot show an emoji."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

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


CLOSED = [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"]
ENCODINGS = [
    {"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"},
    {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
]  # fmt: skip
ENDING = [name for name in COMMANDS if name != "logs"]

Ended: TypeAlias = "dict[tuple[str, str], subprocess.CompletedProcess[str]]"


def run_in_shell(command: str, data_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    if not (log := data_dir / "log" / "app.log").exists():
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("a line 😊\n" * 100_000)
    return subprocess.run(
        ["bash", "-c", command], cwd=PROJECT_DIR, env=bare_environment(DATA_DIR=data_dir, **environment),
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False, encoding="utf-8", errors="replace",
    )  # fmt: skip


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """How each command ends: usually (""), with closed streams, and with other encodings. Two run at a time."""
    running = {}
    with ThreadPoolExecutor(2) as pool:
        for name in ENDING:
            data_dir = tmp_path_factory.mktemp("d")
            for closed in ("", *CLOSED):
                running[name, closed] = pool.submit(run_in_shell, f"{COMMANDS[name]} {closed}", data_dir)
            for encoding in ENCODINGS:
                running[name, str(encoding)] = pool.submit(run_in_shell, COMMANDS[name], data_dir, **encoding)
    return {key: future.result() for key, future in running.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_has_enough_is_no_error(command: str, tmp_path: Path) -> None:
    # `true` reads nothing and is gone before the command prints; `sleep` lets it be gone.
    for reader in ("head -n 1 >/dev/null", "true"):
        found = run_in_shell(f"{{ sleep 0.3; {COMMANDS[command]}; }} | {reader}", tmp_path)
        assert "BrokenPipe" not in found.stderr
        assert "Traceback" not in found.stderr
        assert "rror" not in found.stderr


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("command", ENDING)
def test_a_closed_stream_changes_nothing(command: str, closed: str, ended: Ended) -> None:
    usual, found = ended[command, ""], ended[command, closed]
    if ".sh" not in command:  # the shell's own commands fail without a stream
        assert found.returncode == usual.returncode
    assert "Traceback" not in found.stderr
    assert found.stdout in ("", usual.stdout)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.parametrize("command", ENDING)
def test_a_terminal_that_cannot_show_a_character_shows_the_rest(
    command: str, encoding: dict[str, str], ended: Ended
) -> None:
    usual, found = ended[command, ""], ended[command, str(encoding)]
    assert "Traceback" not in found.stderr
    assert found.returncode == usual.returncode
    assert len(found.stdout.splitlines()) == len(usual.stdout.splitlines())
