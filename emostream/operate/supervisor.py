"""The table of processes → a supervisord in DATA_DIR: start it and its processes, ask how they are, stop them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import msgspec
from supervisor.xmlrpc import Faults, SupervisorTransport

from emostream.metrics.catalogue import SUPERVISED
from emostream.metrics.counters import Metrics, Samples
from emostream.operate.java import java_environment
from emostream.operate.terminal import OperatingError, ProgressLine, log_tail
from emostream.process import Log, StopFlag, own_directory, why_not_ready
from emostream.roles import STOP_ORDER, Role, roles
from emostream.settings import INSTALLED, PROJECT_DIR, Settings
from emostream.topics import broker_answers

# STARTING is supervisor's first two seconds, in which an exit counts as a failed start.
RUNNING = ("RUNNING", "STARTING")
# The longest path of a Unix socket has 107 bytes. supervisord makes it with its process id behind the name.
MAX_SOCKET_PATH = 107 - len(".4194304")
# Settings that differ between the processes of one system.
OF_ONE_PROCESS = ("CLUSTER_TOPIC", "SUBSCRIBER", "PORT")

# In a path, % and quotes mean something to supervisord. So it runs in DATA_DIR, and each path is relative to that or in
# a variable that the shell expands.
MAIN_SECTIONS = """\
[unix_http_server]
file=run/supervisor.sock
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisord]
logfile=log/supervisord.log
pidfile=run/supervisord.pid
childlogdir=log
"""
GROUP_SECTION = """
[group:{kind}]
programs={names}
priority={priority}
"""
# supervisord restarts a process that exits, but not after status 2: its settings cannot be used. It does restart after
# 3, "replaced by another process", because a process that was only held up for too long ends with 3, too. If one exits
# within startsecs, supervisord waits longer before each restart, and gives up after the tenth.
PROGRAM_SECTION = """
[program:{name}]
command=/bin/sh -c '{command}'
autostart=false
autorestart=unexpected
exitcodes=2
startsecs=2
startretries=10
stopwaitsecs={stop_seconds}
killasgroup=true
redirect_stderr=true
stdout_logfile=log/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""
BROKER_COMMAND = (
    'exec "$JAVA" -Xms128m -Xmx512m -XX:+UseG1GC -XX:-UsePerfData -Dlog4j2.configurationFile=kafka/log4j2.properties'
    ' -cp "jars/broker/*" kafka.Kafka kafka/broker_{number}.properties'
)
STAGE_COMMAND = 'cd "$DIRECTORY" && exec "$PYTHON" -m emostream {arguments}'
BROKER_STOP_SECONDS = 30


def configuration(settings: Settings) -> str:
    """Return the text of supervisord's configuration file for the table of processes."""
    table = roles(settings)
    text = MAIN_SECTIONS
    # supervisord stops the group with the highest priority first.
    for priority, kind in enumerate(reversed(STOP_ORDER), start=1):
        if names := ",".join(role.name for role in table if role.kind == kind):
            text += GROUP_SECTION.format(kind=kind, names=names, priority=priority)
    return text + "".join(_program(role, settings) for role in table)


def _program(role: Role, settings: Settings) -> str:
    if role.kind == "kafka":
        command, stop_seconds = BROKER_COMMAND.format(number=role.number), BROKER_STOP_SECONDS
    else:
        command = STAGE_COMMAND.format(arguments=" ".join(role.arguments))
        # Longer than DRAIN_SECONDS, so that a process can send what it has accepted.
        stop_seconds = round(settings.drain_seconds + settings.batch_seconds + 15)
    return PROGRAM_SECTION.format(name=role.name, command=command, stop_seconds=stop_seconds)


class SupervisedProcess(msgspec.Struct, frozen=True):
    """One line of `status`. `reason` says why a running process is not ready."""

    name: str
    state: str
    pid: int
    uptime_seconds: int
    restarts: int
    ready: bool = False
    reason: str | None = None
    ended_seconds: int = 0  # how long ago it ended
    started: bool = True  # not one that `up --only` has left out

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.state in RUNNING


class Supervisor:
    """The supervisord of one DATA_DIR, called through its socket."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._data = settings.data_path
        self._socket = self._data / "run" / "supervisor.sock"
        self._settings_file = self._data / "run" / "settings.json"
        if self.running():
            # Use the settings that the processes were started with. Those of another version of EmoStream may not be
            # readable; this call's are enough to stop its processes.
            with suppress(msgspec.ValidationError):
                self._settings = msgspec.json.decode(self._settings_file.read_bytes(), type=Settings)
        self._roles = {role.name: role for role in roles(self._settings)}

    @property
    def _rpc(self) -> Any:
        # Each call makes its own: supervisor's transport cannot be used again after a refused connection.
        return ServerProxy("http://localhost", SupervisorTransport(None, None, f"unix://{self._socket}")).supervisor

    def differing_settings(self, settings: Settings) -> list[str]:
        """Return the names of the settings whose values are different in the running processes."""
        ours, theirs = msgspec.to_builtins(settings), msgspec.to_builtins(self._settings)
        return [name for name in ours if ours[name] != theirs[name] and name not in OF_ONE_PROCESS]

    def running(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self._rpc.getState()["statename"] == "RUNNING")
        except (OSError, Fault):
            return False

    def launch(self, stop: StopFlag) -> None:
        """Start supervisord unless it runs. Raises OperatingError, or SettingError if DATA_DIR cannot be used."""
        if self.running():
            return
        if len(os.fsencode(self._socket)) > MAX_SOCKET_PATH:
            raise OperatingError(
                f"DATA_DIR={self._data} is too long: the socket in it, {self._socket}, may have {MAX_SOCKET_PATH} bytes"
            )
        run = own_directory(self._data / "run")
        own_directory(self._data / "log")
        for stale in run.glob("*.ready"):
            stale.unlink()
        self._settings_file.touch(mode=0o600)  # it holds keys and secrets
        self._settings_file.write_bytes(msgspec.json.encode(self._settings))
        (run / "supervisord.conf").write_text(configuration(self._settings))
        # Processes find the package in a checkout by their directory; an installed one they find from anywhere.
        directory = str(self._data if INSTALLED else PROJECT_DIR)
        variables = {"DATA_DIR": str(self._data), "DIRECTORY": directory, "PYTHON": sys.executable}
        started = subprocess.run(
            [sys.executable, "-m", "emostream.operate.supervisord", str(self._data), "-c", "run/supervisord.conf"],
            env=self._settings.environment | java_environment() | variables,
            cwd=directory, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if started.returncode != 0:
            raise OperatingError(f"supervisord did not start: {(started.stderr or started.stdout).strip()}")
        while not self.running():
            if stop.wait(0.1):
                raise OperatingError("stopped while starting")

    def start(self, names: Iterable[str]) -> None:
        """Start these processes, except those that run already."""
        for name in names:
            try:
                self._rpc.startProcess(_namespec(self._roles[name]), False)
            except Fault as fault:
                if fault.faultCode not in (Faults.ALREADY_STARTED, Faults.SPAWN_ERROR):
                    raise

    def hold(self, name: str) -> None:
        """Stop one process, which then stays stopped until `start`."""
        self._rpc.stopProcess(_namespec(self._roles[name]), True)

    def shutdown(self) -> None:
        """Stop everything in the order of the data, then supervisord. A process that takes too long is killed."""
        with suppress(FileNotFoundError, ValueError), ProgressLine() as line:
            pid = int((self._data / "run" / "supervisord.pid").read_text())
            with suppress(OSError, Fault):  # another call has stopped it already
                self._rpc.shutdown()
            while Path("/proc", str(pid)).exists():
                line.show(f"stopping ({line.seconds} s)")
                time.sleep(0.1)

    def processes(self, find_reasons: bool = True, ask_brokers: bool = True) -> list[SupervisedProcess]:
        """Return all processes, in the order of the data.

        Without `find_reasons`, no process is ready. Without `ask_brokers`, a broker is ready if it runs.
        """
        try:
            infos = {info["name"]: info for info in self._rpc.getAllProcessInfo()}
        except (OSError, Fault):
            return []
        starts, found = self._starts(), []
        for name, role in self._roles.items():
            if info := infos.get(name):
                state, pid, now = info["statename"], info["pid"], info["now"]
                running, restarts = state in RUNNING, max(0, starts[name] - 1)
                reason = self._reason(role, pid, ask_brokers) if running and find_reasons else None
                ready = running and find_reasons and reason is None
                up, ended = (now - info["start"], 0) if running else (0, now - info["stop"])
                was_started = bool(info["start"])
                found.append(SupervisedProcess(name, state, pid, up, restarts, ready, reason, ended, was_started))
        return found

    def _reason(self, role: Role, pid: int, ask_brokers: bool) -> str | None:
        if role.kind != "kafka":
            return why_not_ready(self._settings, role.name, pid)
        answers = not ask_brokers or broker_answers(self._settings, role.addresses[0])
        return None if answers else f"it does not answer at {role.addresses[0]}"

    def log_of(self, name: str) -> str:
        """Return the end of a process's log."""
        return log_tail(self._data / "log" / f"{name}.log")

    def _starts(self) -> Counter[str]:
        """Return how often this supervisord has started each process. Only its log says that."""
        log = (self._data / "log" / "supervisord.log").read_text(errors="replace")
        return Counter(re.findall(r"spawned: '(\w+)'", log.rpartition("supervisord started with pid")[2]))


class SupervisedMetrics(Metrics):
    """The processes that ./start.sh runs, for the app's GET /metrics. There are none without supervisord."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(Log("operate"), SUPERVISED)
        self._settings = settings

    def samples(self) -> Samples:
        """Return the numbers of this moment."""
        processes = [one for one in Supervisor(self._settings).processes(find_reasons=False) if one.started]
        return {
            "restarts": {process.name: process.restarts for process in processes},
            "up": {process.name: float(process.running) for process in processes},
        }


def _namespec(role: Role) -> str:
    """Return supervisor's `group:process`."""
    return f"{role.kind}:{role.name}"
