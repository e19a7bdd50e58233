"""emostream.operate.supervisord: a process that has ended is started again without waiting for a turn of the loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from testkit.scripts import with_children_gone
from testkit.settings import PROJECT_DIR
from testkit.waiting import wait_until

# A turn of the loop without an occasion takes far longer than the test waits, but for the first ones.
SLOW = """
from supervisor import poller
from emostream.operate import supervisord

poll, turns = poller.Poller.poll, [0.1] * 5
poller.Poller.poll = lambda self, _timeout: poll(self, turns.pop() if turns else 300)
supervisord.main()
"""
CONF = """
[supervisord]
nodaemon=true
logfile={directory}/supervisord.log
pidfile={directory}/supervisord.pid

[program:sleeper]
command=/bin/sh -c "echo $$ > {directory}/pid; exec sleep 100 >/dev/null 2>&1"
startsecs=0
autorestart=true
"""


def test_a_process_that_was_killed_is_started_again_at_once(tmp_path: Path) -> None:
    conf, pid_file = tmp_path / "supervisord.conf", tmp_path / "pid"
    conf.write_text(CONF.format(directory=tmp_path))
    command = [sys.executable, "-c", SLOW, "-c", str(conf)]

    def pid() -> int:
        return int(pid_file.read_text() or 0) if pid_file.exists() else 0

    with subprocess.Popen(
        command, cwd=PROJECT_DIR, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as running:
        try:
            for _ in range(3):
                sleeping = wait_until("it runs", pid, 30)
                os.kill(sleeping, signal.SIGKILL)
                wait_until("it runs again", lambda sleeping=sleeping: pid() not in (0, sleeping), 30)  # type: ignore[misc]
        finally:
            with_children_gone(running.pid)
