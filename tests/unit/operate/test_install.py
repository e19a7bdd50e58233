"""emostream.operate.java, kafka and commands: what is installed, by whom, and what is said if that fails."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from emostream.operate import class_archive, commands, java, kafka
from emostream.operate.class_archive import ensure_class_archive
from emostream.operate.commands import one_at_a_time
from emostream.operate.kafka import IVY_FILE, ensure_jars
from emostream.operate.terminal import OperatingError
from testkit.scripts import run_python
from testkit.settings import settings_with
from testkit.waiting import wait_until

# Is called as Ivy is: -ivy FILE -cache DIRECTORY -retrieve PATTERN.
FETCHES = 'while [ "$1" != -cache ]; do shift; done; mkdir -p "$2" "$(dirname "$2")/broker"'


@pytest.fixture
def java_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose bin/java a test writes."""
    (tmp_path / "java" / "bin").mkdir(parents=True)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "java"))
    return tmp_path / "java"


def write_java(java_home: Path, script: str) -> None:
    java = java_home / "bin" / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)


@pytest.mark.parametrize(("version", "recent"), [("17.0.9", True), ("25", True), ("1.8.0_402", False), ("11", False)])
def test_java_17_or_later_is_recent_enough(java_home: Path, version: str, recent: bool) -> None:
    write_java(java_home, f"echo 'openjdk version \"{version}\"' >&2")
    checked = run_python("-m", "emostream.operate.java")
    assert checked.returncode == (0 if recent else 1)
    assert checked.stderr.startswith("" if recent else f"JAVA_HOME={java_home} holds no Java 17 or later")
    assert len(checked.stderr.splitlines()) == (0 if recent else 1)


def place_java(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("on_path", "in_usr_lib_jvm", "problem"),
    [
        ("", {}, "there is no Java"),
        ("11.0.2", {}, "is Java 11."),
        ("1.8.0_402", {"java-11": "11"}, "is Java 11."),
        ("stub", {}, "does not run as Java"),
        ("stub", {"java-21": "21.0.1"}, None),
        ("", {"java-17": "17.0.9", "java-25": "25"}, None),
        ("17.0.9", {"java-11": "11"}, None),
    ],
)
def test_the_newest_java_is_found_or_one_sentence_says_how_to_install_it(
    on_path: str, in_usr_lib_jvm: dict[str, str], problem: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # macOS and some Linux systems have a `java` that only says where to get Java.
    says = {"stub": "echo The operation could not be completed. Unable to locate a Java Runtime. >&2; exit 1"}
    if on_path:
        place_java(tmp_path / "bin" / "java", says.get(on_path, f"echo 'openjdk version \"{on_path}\"' >&2"))
    for name, version in in_usr_lib_jvm.items():
        place_java(tmp_path / "jvm" / name / "bin" / "java", f"echo 'openjdk version \"{version}\"' >&2")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(java, "INSTALLED_HERE", tmp_path / "jvm")
    found = java.java_problem()
    if problem is None:
        assert found is None
    else:
        assert found
        assert problem in found
        assert "apt-get install default-jre-headless" in found


def test_jars_are_fetched_once_and_again_when_other_ones_are_wanted(
    java_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with(DATA_DIR=tmp_path / "data")
    write_java(java_home, FETCHES)
    ensure_jars(settings)
    found = tmp_path / "data" / "jars"
    assert sorted(path.name for path in found.iterdir()) == [".emostream", "broker", "ivy.xml"]
    write_java(java_home, "exit 1")
    ensure_jars(settings)
    other = tmp_path / "ivy.xml"
    other.write_text(IVY_FILE.read_text().replace("4.4.0", "4.4.1"))
    monkeypatch.setattr(kafka, "IVY_FILE", other)
    with pytest.raises(OperatingError):
        ensure_jars(settings)
    assert (found / "ivy.xml").read_text() != other.read_text()


@pytest.mark.parametrize(
    ("printed", "advice"),
    [
        ("write error: No space left on device", "Make room, then run this again"),
        ("Server access error: Connection refused", "Check the network, the proxy and the certificates"),
        ("something else", "Mend the cause, then run this again"),
    ],
)
def test_a_fetch_that_fails_shows_the_end_of_its_log_and_what_to_do(
    java_home: Path, tmp_path: Path, printed: str, advice: str
) -> None:
    write_java(java_home, f"echo '{printed}'; exit 1")
    with pytest.raises(OperatingError, match=advice) as failed:
        ensure_jars(settings_with(DATA_DIR=tmp_path / "data"))
    assert str(failed.value).startswith(f"    {printed}\n")


def test_spark_is_prepared_once_and_again_for_another_java_or_other_jars(
    java_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, made = settings_with(DATA_DIR=tmp_path), list[object]()

    def made_it(*step: object) -> bool:
        made.append(step)
        return True

    monkeypatch.setattr(class_archive, "run_step", made_it)
    (tmp_path / "jars" / "connector").mkdir(parents=True)
    for times, version in enumerate(("17.0.15", "21.0.1", "17.0.15"), start=1):
        write_java(java_home, f"echo {version} >&2")
        for _ in range(2):
            ensure_class_archive(settings)
            assert len(made) == times
    (tmp_path / "jars" / "connector" / "other.jar").touch()
    ensure_class_archive(settings)
    assert len(made) == 4


def test_if_spark_cannot_be_prepared_that_is_said_once_and_setting_up_goes_on(
    java_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_with(DATA_DIR=tmp_path)
    write_java(java_home, "exit 1")
    (tmp_path / "jars" / "connector").mkdir(parents=True)
    sayings: tuple[list[str], ...] = (["Spark works without"], [])
    for said in sayings:
        ensure_class_archive(settings)
        lines = [line for line in capsys.readouterr().err.splitlines() if "failed" in line]
        assert [part in line for part, line in zip(said, lines, strict=True)] == [True] * len(said)


def test_two_calls_set_up_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, said, entered = settings_with(DATA_DIR=tmp_path), list[str](), threading.Event()
    monkeypatch.setattr(commands, "say", said.append)

    def second() -> None:
        with one_at_a_time(settings):
            entered.set()

    with one_at_a_time(settings):
        thread = threading.Thread(target=second)
        thread.start()
        wait_until("the second call to wait", lambda: said)
        assert not entered.is_set()
    thread.join(30)
    assert entered.is_set()
    assert said == ["Another ./start.sh is at work here; waiting for it."]
