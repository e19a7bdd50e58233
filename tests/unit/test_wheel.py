"""The wheel: built from this checkout, installed elsewhere, and run from an empty directory."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from emostream import __version__
from testkit.settings import PROJECT_DIR, bare_environment


@dataclass(frozen=True)
class Installed:
    """An environment with EmoStream in it, and the directory of a user who has never run it."""

    bin: Path
    home: Path

    def run(self, command: str, *arguments: str, **environment: object) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in bare_environment().items() if not name.startswith("XDG_")}
        given = {name: str(value) for name, value in {"HOME": self.home, **environment}.items()}
        return subprocess.run(
            [self.bin / command, *arguments], cwd=self.home, env=kept | given,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """What EmoStream requires is that of this environment; EmoStream itself is that of the wheel."""
    root = tmp_path_factory.mktemp("installed")
    environment, home = root / "venv", root / "home"
    home.mkdir()
    venv.create(environment, symlinks=True)
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "required.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(root), str(PROJECT_DIR)]
    subprocess.run([*pip, *build], check=True, timeout=120)
    [wheel] = root.glob("emostream-*.whl")
    install = ["--python", str(environment / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True, timeout=120)
    return Installed(environment / "bin", home)


def test_the_command_tells_the_version(installed: Installed) -> None:
    assert installed.run("emostream", "--version").stdout == f"emostream {__version__}\n"
    assert installed.run("python", "-m", "emostream", "--version").stdout == f"emostream {__version__}\n"


def test_the_wheel_is_what_runs_and_not_this_checkout(installed: Installed) -> None:
    where = installed.run("python", "-c", "import emostream; print(emostream.__file__)").stdout
    assert where.startswith(str(installed.bin.parent))


def test_status_says_that_nothing_runs_and_how_to_start(installed: Installed) -> None:
    shown = installed.run("emostream", "status")
    assert (shown.returncode, shown.stdout, shown.stderr) == (1, "nothing runs; emostream up starts it\n", "")


@pytest.mark.parametrize("process", ["app", "main-publisher", "cluster-publisher", "subscriber", "client", "topics"])
def test_each_process_says_what_it_does(installed: Installed, process: str) -> None:
    shown = installed.run("emostream", process, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"usage: emostream {process} ")


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["up", "more"], ["logs", "app", "more"]])
def test_a_command_that_does_not_exist_is_answered_with_those_that_do(
    installed: Installed, arguments: list[str]
) -> None:
    refused = installed.run("emostream", *arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("usage: emostream COMMAND")


def test_the_number_of_brokers_is_checked(installed: Installed) -> None:
    refused = installed.run("emostream", "status", "--brokers", "2")
    assert (refused.returncode, refused.stderr) == (2, "BROKERS='2': expected one of 0, 1, 3\n")


def test_data_and_local_settings_are_in_the_users_own_directory(installed: Installed, tmp_path: Path) -> None:
    ask = ("-c", "from emostream.settings import load; print(load().data_path, load().linger_ms, sep='\\n')")
    (tmp_path / "emostream").mkdir()
    (tmp_path / "emostream" / ".env").write_text("LINGER_MS=7\n")
    assert installed.run("python", *ask).stdout == f"{installed.home}/.local/share/emostream\n500\n"
    assert installed.run("python", *ask, XDG_DATA_HOME=tmp_path).stdout == f"{tmp_path}/emostream\n7\n"
    assert installed.run("python", *ask, XDG_DATA_HOME="relative").stdout.startswith(f"{installed.home}/.local")
