"""emostream.operate.supervisor: supervisord in a DATA_DIR of any name, and why a process is not ready."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from emostream.operate.supervisor import Supervisor
from emostream.operate.terminal import OperatingError
from emostream.process import StopFlag, boot_seconds, heartbeat_path
from emostream.settings import Settings
from testkit.ports import free_port_block
from testkit.scripts import run_python
from testkit.settings import bare_environment, settings_with
from testkit.waiting import wait_until

# Each start of supervisord takes seconds, so a name holds as many odd characters as the path of a socket may.
ODD_NAMES = ["%2Fx %(here)s %d it's", 'a "b" $HOME;#x ü😊 [x]{y}', " \\ ", "-v", "~"]


def settings_in(data_dir: Path) -> Settings:
    port = free_port_block(5)
    return settings_with(DATA_DIR=data_dir, BROKERS=0, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9", METRICS_BASE_PORT=port)


@pytest.fixture(params=ODD_NAMES)
def odd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings with an odd DATA_DIR, in which a supervisord runs and nothing else."""
    settings = settings_in(tmp_path_factory.mktemp("d") / request.param)
    Supervisor(settings).launch(StopFlag())
    yield settings
    Supervisor(settings).shutdown()


def test_supervisord_runs_in_a_directory_of_any_name(odd: Settings) -> None:
    assert Supervisor(odd).running()
    assert (odd.data_path / "log" / "supervisord.log").exists()
    assert len(Supervisor(odd).processes()) == 14


def test_status_says_why_a_process_is_not_ready(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "it's 100%2F")
    supervisor = Supervisor(settings)
    supervisor.launch(StopFlag())
    try:
        supervisor.start(["cluster_publisher_1"])

        def reason() -> str | None:
            [process] = [one for one in supervisor.processes() if one.name == "cluster_publisher_1"]
            return process.reason

        waits = "starting, or waiting for the broker; see its log"
        wait_until("a process without a broker", lambda: reason() == waits, 30)
        wait_until("its log", lambda: "no broker at 127.0.0.1:9" in supervisor.log_of("cluster_publisher_1"), 30)
        [pid] = [one.pid for one in supervisor.processes() if one.name == "cluster_publisher_1"]
        os.kill(pid, signal.SIGSTOP)  # so that it writes no heartbeat of its own
        heartbeat = heartbeat_path(settings, "cluster_publisher_1")
        heartbeat.write_text(f"{pid} {boot_seconds():.3f}\nthe topic cannot be read")
        assert reason() == "the topic cannot be read"
        shown = run_python("-m", "emostream", "status", **bare_environment(DATA_DIR=settings.data_path))
        [line] = [line for line in shown.stdout.splitlines() if line.startswith("cluster_publisher_1 ")]
        assert line.endswith("  the topic cannot be read")
        assert shown.returncode == 1
        heartbeat.write_text(f"{pid} {boot_seconds():.3f}")
        assert reason() is None
        os.kill(pid, signal.SIGCONT)
    finally:
        supervisor.shutdown()
    assert not supervisor.running()


def test_a_data_dir_that_is_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatingError, match="is too long: the socket in it"):
        Supervisor(settings_in(tmp_path / ("ü" * 60))).launch(StopFlag())
