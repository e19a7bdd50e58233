"""DATA_DIR with files of others: nothing of theirs is deleted or overwritten, and one sentence says what to do."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from emostream.ingest.workers import metrics_path
from emostream.operate import commands, kafka
from emostream.operate.supervisor import Supervisor
from emostream.process import MARK, Heartbeat, StopFlag, fresh_directory, own_directory
from emostream.roles import roles
from emostream.settings import SettingError, Settings
from testkit.scripts import run_python
from testkit.settings import environment_for, settings_with

REFUSED = r"^DATA_DIR: expected .* to be empty or made by EmoStream, found files of somebody else"


def launch(settings: Settings) -> None:
    Supervisor(settings).launch(StopFlag())


def prepare_checkpoint(settings: Settings) -> None:
    fresh_directory(settings.data_path / "spark" / "checkpoint")


# What writes there first, by the directory that it writes in.
WRITERS = {
    "jars": kafka.ensure_jars,
    "jars.partial": kafka.ensure_jars,
    "kafka": kafka.prepare_brokers,
    "run": launch,
    "log": launch,
    "run/metrics_app": lambda settings: fresh_directory(metrics_path(settings)),
    "spark/checkpoint": prepare_checkpoint,
}
FOREIGN = ["notes.txt", "metadata", "app.log", "supervisord.conf", "app.ready", "1.json", "broker/kafka.jar", ".hidden"]


def written(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text() for path in sorted(directory.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("name", WRITERS)
def test_files_of_others_stay_and_one_sentence_refuses(name: str, foreign: str, tmp_path: Path) -> None:
    theirs = tmp_path / name / foreign
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    if "/" in name:  # the directory above is ours
        (tmp_path / name).parent.joinpath(MARK).touch()
    with pytest.raises(SettingError, match=REFUSED) as refused:
        WRITERS[name](settings_with(DATA_DIR=tmp_path))
    assert len(str(refused.value).splitlines()) == 1
    assert written(tmp_path / name) == {foreign: "theirs"}


@pytest.mark.parametrize("name", ["run", "log", "spark/checkpoint", "kafka", "jars"])
def test_up_refuses_before_it_starts_anything(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / "notes.txt").write_text("theirs")
    if name != "jars":
        (tmp_path / "jars").mkdir()
        (tmp_path / "jars" / "ivy.xml").write_bytes(kafka.IVY_FILE.read_bytes())
    refused = run_python("-m", "emostream", "up", **environment_for(tmp_path))
    assert refused.returncode == 2, refused.stderr
    assert "found files of somebody else" in refused.stderr
    assert (tmp_path / name / "notes.txt").read_text() == "theirs"
    assert not list(tmp_path.rglob("supervisord.pid"))


def test_files_of_others_beside_ours_stay(tmp_path: Path) -> None:
    settings = settings_with(DATA_DIR=tmp_path)
    (tmp_path / "notes.txt").write_text("theirs")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "metadata").write_text("theirs")
    for role in roles(settings):
        Heartbeat(settings, role.name).beat()
    prepare_checkpoint(settings)
    assert (tmp_path / "notes.txt").read_text() == (tmp_path / "checkpoint" / "metadata").read_text() == "theirs"


def test_a_fresh_directory_is_emptied_only_of_what_we_left_there(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "sub").mkdir(parents=True)
    (theirs / "sub" / "file").write_text("theirs")
    ours = own_directory(tmp_path / "checkpoint")
    (ours / "offsets").mkdir()
    (ours / "offsets" / "1").touch()
    (ours / "link").symlink_to(theirs)
    assert [path.name for path in fresh_directory(ours).iterdir()] == [MARK]
    assert (theirs / "sub" / "file").read_text() == "theirs"


@pytest.mark.parametrize(("name", "left"), [("jars", ".complete"), ("kafka", "cluster.id"), ("run", "settings.json")])
def test_a_directory_of_an_earlier_version_is_ours(name: str, left: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / left).write_text("x")
    assert own_directory(tmp_path / name).is_dir()
    assert (tmp_path / name / left).read_text() == "x"


def test_many_processes_may_make_the_same_directory_at_once(tmp_path: Path) -> None:
    errors: list[SettingError] = []
    together = threading.Barrier(8)

    def make(number: int) -> None:
        together.wait()
        try:
            (own_directory(tmp_path / "run") / f"{number}.ready").touch()
        except SettingError as error:
            errors.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_data_dir_that_is_a_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for writer in WRITERS.values():
        with pytest.raises(SettingError, match=r"^DATA_DIR") as refused:
            writer(settings_with(DATA_DIR=tmp_path / "file"))
        assert len(str(refused.value).splitlines()) == 1
    lock = commands.one_at_a_time(settings_with(DATA_DIR=tmp_path / "file"))
    with pytest.raises(SettingError, match=r"^DATA_DIR"), lock:
        pass
