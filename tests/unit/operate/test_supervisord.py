"""emostream.operate.supervisord: a process that has ended is started again without waiting for supervisord's second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from testkit.scripts import with_children_gone
from testkit.settings import PROJECT_DIR
from testkit.waiting import wait_until

# Its output does not go to supervisord, which would wake up at the end of it.
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
    command = [sys.executable, "-m", "emostream.operate.supervisord", str(PROJECT_DIR), "-c", str(conf)]

    def pid() -> int:
        return int(pid_file.read_text() or 0) if pid_file.exists() else 0

    with subprocess.Popen(
        command, cwd=PROJECT_DIR, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as running:
        gaps = []
        try:
            for _ in range(5):
                sleeping = wait_until("it runs", pid, 30)
                os.kill(sleeping, signal.SIGKILL)
                killed_at = time.monotonic()
                wait_until("it runs again", lambda sleeping=sleeping: pid() not in (0, sleeping), 30)  # type: ignore[misc]
                gaps.append(time.monotonic() - killed_at)
        finally:
            with_children_gone(running.pid)
    assert min(gaps) < 0.9  # supervisord alone needs more than a second, also on an idle machine
