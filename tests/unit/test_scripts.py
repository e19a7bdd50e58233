"""The commands: --help, size, and exit status 2 with one sentence for a setting that cannot be used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from testkit.scripts import run_python
from testkit.settings import PROJECT_DIR

SCRIPTS = sorted(path.name for path in PROJECT_DIR.glob("*.py"))
SHELL_SCRIPTS = [*PROJECT_DIR.glob("*.sh"), *PROJECT_DIR.glob("*/*.sh"), PROJECT_DIR / ".ci" / "run"]
CLUSTER_SCRIPTS = ["cluster_publisher.py", "subscriber.py"]


def test_the_root_scripts_are_those_of_the_contract() -> None:
    assert SCRIPTS == ["app.py", "client.py", "cluster_publisher.py", "main_publisher.py", "subscriber.py"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_root_script_has_at_most_25_lines(script: str) -> None:
    assert len((PROJECT_DIR / script).read_text().splitlines()) <= 25


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_what_it_does(script: str) -> None:
    shown = run_python(script, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert script in shown.stdout


@pytest.mark.parametrize("command", ["start.sh", "topic.sh", "tests/run.sh", "benchmarks/run.sh"])
def test_a_shell_command_says_what_it_does(command: str) -> None:
    shown = subprocess.run([PROJECT_DIR / command, "--help"], capture_output=True, text=True, timeout=30, check=True)
    assert f"usage: {'' if '/' in command else './'}{command}" in shown.stdout


def assert_refused(refused: subprocess.CompletedProcess[str], setting: str) -> None:
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(setting)
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_bad_value_in_the_environment_ends_a_script_with_2(script: str) -> None:
    assert_refused(run_python(script, LINGER_MS="abc"), "LINGER_MS")


def test_a_bad_argument_ends_a_script_with_2() -> None:
    assert_refused(run_python("app.py", "LINGER-MS=abc"), "LINGER_MS")


@pytest.mark.parametrize("script", CLUSTER_SCRIPTS)
@pytest.mark.parametrize("topic", ["", "cluster9-emoji-topic"])
def test_a_missing_or_unknown_cluster_topic_ends_a_script_with_2(script: str, topic: str) -> None:
    assert_refused(run_python(script, CLUSTER_TOPIC=topic), "CLUSTER_TOPIC")


def test_the_client_takes_settings_on_both_sides_of_its_options() -> None:
    assert_refused(run_python("client.py", "PORT=8001", "--events", "3", "LINGER_MS=abc"), "LINGER_MS")


def test_a_script_runs_from_any_directory(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, PROJECT_DIR / "app.py", "LINGER_MS=abc"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (shown.returncode, shown.stderr.split("=")[0]) == (2, "LINGER_MS")


def test_shellcheck_has_nothing_to_say_about_the_shell_scripts() -> None:
    command = [Path(sys.executable).parent / "shellcheck", *SHELL_SCRIPTS]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_every_target_of_the_makefile_says_what_it_does() -> None:
    makefile = (PROJECT_DIR / "Makefile").read_text()
    explained = re.findall(r"^([a-z]+):.*## \w", makefile, flags=re.MULTILINE)
    assert explained == re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE)
    assert f".PHONY: {' '.join(explained)}\n" in makefile
