"""Scripts of the project as processes, and what they print."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from emostream.process import own_directory
from testkit.ports import listening
from testkit.settings import PROJECT_DIR, bare_environment
from testkit.waiting import wait_until


@dataclass
class Script:
    """A running script of ours, and what it has said."""

    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for(self, text: str, timeout_seconds: float = 60.0) -> None:
        """Return when its output holds `text`; AssertionError with the output when it ends or takes too long first."""
        deadline = time.monotonic() + timeout_seconds
        while text not in self.log:
            assert self.process.poll() is None, f"ended with {self.process.returncode} before {text!r}:\n{self.log}"
            assert time.monotonic() < deadline, f"no {text!r} after {timeout_seconds:g} s:\n{self.log}"
            time.sleep(0.05)

    def wait_for_port(self, port: int, timeout_seconds: float = 60.0) -> None:
        """Return when something listens on `port`; AssertionError when it ends or takes too long first."""

        def listens() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log}"
            return listening(port)

        wait_until(f"{self.log_path.stem} listens on {port}", listens, timeout_seconds)

    def terminate(self, timeout_seconds: float = 60.0) -> int:
        """SIGTERM; its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout_seconds)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(60)


@contextmanager
def script(environment: Mapping[str, str], *command: str, **settings: object) -> Iterator[Script]:
    """Run `python COMMAND...` from the project's root; ended, with its children, at the end of the block."""
    arguments = [f"{name}={value}" for name, value in settings.items()]
    with running([sys.executable, *command, *arguments], environment) as found:
        yield found


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Script]:
    """The same for any command. What it prints goes to a file in DATA_DIR/log."""
    log_dir = own_directory(Path(environment["DATA_DIR"]) / "log")
    name = next(Path(part).stem for part in command if part != sys.executable)
    log_path = log_dir / f"{name}-{time.monotonic_ns()}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=PROJECT_DIR, env=dict(environment),
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    found = Script(process, log_path)
    try:
        yield found
    finally:
        with suppress(subprocess.TimeoutExpired):
            found.terminate()
        with_children_gone(process.pid)


def with_children_gone(group: int) -> None:
    """SIGKILL whatever is left of a process group."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def run_python(*arguments: str, **environment: object) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS...` in the project's root, to its end."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT_DIR, env=bare_environment(**environment),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
