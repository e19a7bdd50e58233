"""emostream.process: log lines, signals, a time limit for a step, heartbeats, ports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import example, given

from emostream import process as runtime
from emostream.process import Heartbeat, Log, StepTimeout, bound_socket, heartbeat_path, why_not_ready, within
from emostream.settings import SettingError
from testkit.http_servers import Answer, http_server
from testkit.logs import logged
from testkit.ports import free_port_block
from testkit.scripts import run_python
from testkit.settings import PROJECT_DIR, bare_environment, settings_with
from testkit.strategies import any_text


def line_of(message: str, **fields: object) -> str:
    with logged() as lines:
        Log("route", cluster="c1").warning(message, **fields)
    [line] = lines
    return line


def test_a_log_line_names_stage_identity_message_and_fields() -> None:
    line = line_of("skipped a record", offset=7, seconds=0.25, reason="")
    assert line == 'stage=route cluster=c1 msg="skipped a record" offset=7 seconds=0.250 reason=""'


@given(any_text, any_text)
@example("\x1b[31m", "\x9b31m")
@example("a\x0bb", "a\u2028b")
def test_whatever_is_logged_stays_one_line_that_can_be_read_back(message: str, reason: str) -> None:
    line = line_of(message, reason=reason)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", line)
    found = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^ ]*)', line)
    read = {key: json.loads(value) if value.startswith('"') else value for key, value in found}
    assert read == {"stage": "route", "cluster": "c1", "msg": message, "reason": reason}


JSON_LINE = """
import logging
from emostream.process import Log, start_logging
start_logging("json")
Log("route", cluster="c1").warning({message!r}, offset=7, seconds=0.25, reason=ValueError({reason!r}), more=None)
logging.getLogger("a.library").warning("two\\nlines of %s", "it")
"""


@pytest.mark.parametrize(("message", "reason"), [("skipped a record", ""), ("\x1b[31m \u2028", 'it\'s "\n\udc80"')])
def test_with_log_format_json_each_line_is_an_object_with_numbers_as_numbers(message: str, reason: str) -> None:
    ours, theirs = run_python("-c", JSON_LINE.format(message=message, reason=reason)).stderr.splitlines()
    assert ours.isascii()
    found = json.loads(ours)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", found.pop("time"))
    assert found == {
        "level": "WARNING", "stage": "route", "cluster": "c1", "msg": message, "offset": 7, "seconds": 0.25,
        "reason": reason, "more": None,
    }  # fmt: skip
    assert json.loads(theirs)["msg"] == "two\nlines of it"


def test_a_script_logs_as_its_setting_says() -> None:
    arguments = "CLUSTER-TOPIC=cluster1-emoji-topic", "KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9", "LOG_FORMAT=json"
    with subprocess.Popen(
        [sys.executable, "cluster_publisher.py", *arguments], cwd=PROJECT_DIR, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        line = json.loads(process.stderr.readline())
        process.terminate()
        process.wait(30)
    assert (line["stage"], line["level"]) == ("route", "WARNING")
    assert "no broker at 127.0.0.1:9" in line["msg"]


WAITS_FOR_A_STOP = """
import time
from emostream.process import stop_on_signals
stop = stop_on_signals()
print("listening", flush=True)
while not stop.wait(60): pass
print("requested", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS_FOR_A_STOP], cwd=PROJECT_DIR, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "listening\n"
        process.send_signal(number)
        assert process.stdout.readline() == "requested\n"
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(10) == -number
    finally:
        process.kill()
        process.wait(10)


STUCK_PUBLISHER = """
import time
from types import SimpleNamespace
from emostream import route
from emostream.process import run_script
route.wait_for_topics = lambda *_: True
route.transactional_producer = lambda *_: SimpleNamespace(init_transactions=lambda: time.sleep(50))
route.AssignedConsumer = lambda *_: SimpleNamespace()
route.TRANSACTION_SECONDS = 0.2
run_script("", route.run, ["CLUSTER-TOPIC=cluster1-emoji-topic", "METRICS_BASE_PORT={port}"])
"""


def test_a_step_that_gets_stuck_ends_the_process_with_70_and_is_named() -> None:
    ended = run_python("-c", STUCK_PUBLISHER.format(port=free_port_block(2)))
    assert ended.returncode == 70
    assert "starting transactions took over 0.2 s" in ended.stderr


def test_a_stuck_process_ends_although_its_standard_error_has_no_reader() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK_PUBLISHER.format(port=free_port_block(2))], cwd=PROJECT_DIR,
        env=bare_environment(), stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr
        process.stderr.close()
        assert process.wait(30) == 70
    finally:
        process.kill()
        process.wait(10)


def test_a_step_that_is_done_in_time_ends_nothing_afterwards() -> None:
    done = "import time; from emostream.process import within; within(0.5, 'the step', list); time.sleep(0.8)"
    ended = run_python("-c", done)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_step_in_a_thread_of_its_own_returns_what_it_found() -> None:
    assert within(30, "the step", lambda: threading.current_thread().name) == "the step"


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), TimeoutError("the socket")], ids=repr)
def test_a_step_in_a_thread_of_its_own_raises_what_went_wrong(error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        within(30, "the step", fail)
    assert raised.value is error


def test_a_step_in_a_thread_of_its_own_is_given_up_by_its_name() -> None:
    released = threading.Event()
    with pytest.raises(StepTimeout, match=r"^the step took over 0.05 s$"):
        within(0.05, "the step", lambda: released.wait(60))
    released.set()


def test_a_port_that_is_taken_is_refused_by_the_name_of_its_setting() -> None:
    with (
        http_server(lambda _: Answer()) as other,
        pytest.raises(SettingError, match=f"^APP_PORT: cannot listen on 127.0.0.1:{other.port}"),
    ):
        bound_socket("127.0.0.1", other.port, setting="APP_PORT")


def test_a_free_port_is_bound_and_not_listened_on_yet() -> None:
    with bound_socket("127.0.0.1", 0, setting="PORT") as bound:
        port = bound.getsockname()[1]
        # Nobody listens, so a second one may bind as well.
        bound_socket("127.0.0.1", port, setting="PORT").close()


def test_a_heartbeat_holds_the_process_id_and_goes_at_the_end(tmp_path: Path) -> None:
    settings = settings_with(DATA_DIR=tmp_path)
    path = heartbeat_path(settings, "app")
    heartbeat = Heartbeat(settings, "app")
    heartbeat.beat()
    assert (path.read_text().split()[0], path.is_relative_to(tmp_path)) == (str(os.getpid()), True)
    heartbeat.end()
    heartbeat.end()
    assert not path.exists()


@pytest.mark.parametrize(("seconds", "written_again"), [(0.0, True), (3600.0, False)])
def test_a_heartbeat_is_written_at_most_so_often(
    seconds: float, written_again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "HEARTBEAT_SECONDS", seconds)
    settings = settings_with(DATA_DIR=tmp_path)
    heartbeat = Heartbeat(settings, "app")
    heartbeat.beat()
    heartbeat_path(settings, "app").unlink()
    heartbeat.beat()
    assert heartbeat_path(settings, "app").exists() == written_again


def test_a_heartbeat_says_why_a_process_is_not_ready_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with(DATA_DIR=tmp_path)
    heartbeat = Heartbeat(settings, "app")
    heartbeat.beat()
    assert why_not_ready(settings, "app", os.getpid()) is None
    assert "starting" in str(why_not_ready(settings, "app", os.getpid() + 1))
    heartbeat.not_ready("the topic\ncannot be read")
    assert why_not_ready(settings, "app", os.getpid()) == "the topic cannot be read"
    heartbeat.beat()
    for step_seconds in (-3600, 3600):  # somebody sets the clock; the file was just written all the same
        moved = time.time() + step_seconds
        os.utime(heartbeat_path(settings, "app"), (moved, moved))
        assert why_not_ready(settings, "app", os.getpid()) is None
    now = runtime.boot_seconds()
    monkeypatch.setattr(runtime, "boot_seconds", lambda: now + 9.5)
    assert "no sign of life for" in str(why_not_ready(settings, "app", os.getpid()))
def test_a_process_says_why_it_is_not_ready_and_that_it_is_ready_again(tmp_path: Path) -> None:
    settings = settings_with(DATA_DIR=tmp_path)
    heartbeat = Heartbeat(settings, "app")
    assert why_not_ready(settings, "app", os.getpid()) == "starting, or waiting for the broker; see its log"
    heartbeat.beat()
    assert why_not_ready(settings, "app", os.getpid()) is None
    heartbeat.not_ready("the broker takes\nno events: ü")
    assert why_not_ready(settings, "app", os.getpid()) == "the broker takes no events: ü"
    heartbeat.beat()
    assert why_not_ready(settings, "app", os.getpid()) is None
    assert why_not_ready(settings, "app", os.getpid() + 1) == "starting, or waiting for the broker; see its log"
