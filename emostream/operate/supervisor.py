"""The supervisord of one DATA_DIR: start it and its processes, ask how they are, stop them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import msgspec
from supervisor.xmlrpc import Faults, SupervisorTransport

from emostream.metrics.catalogue import SUPERVISED
from emostream.metrics.counters import Metrics, Samples
from emostream.operate.java import java
from emostream.operate.supervisord_conf import supervisord_conf
from emostream.operate.terminal import OperatingError, ProgressLine
from emostream.process import Log, StopFlag, why_not_ready
from emostream.roles import STOP_ORDER, Role, roles
from emostream.settings import CONFIG_DIR, INSTALLED, PROJECT_DIR, Settings
from emostream.topics import broker_missing

# STARTING is supervisor's first two seconds, in which an exit counts as a failed start.
RUNNING = ("RUNNING", "STARTING")
SHOWN_LOG_LINES = 20
# The longest path of a Unix socket has 107 characters on Linux and 103 on macOS.
MAX_SOCKET_PATH = 103
# Settings that differ between the processes of one system.
OF_ONE_PROCESS = ("CLUSTER_TOPIC", "SUBSCRIBER", "PORT")


class SupervisedProcess(msgspec.Struct, frozen=True):
    """One line of `status`."""

    name: str
    state: str
    pid: int
    uptime_seconds: int
    restarts: int
    ready: bool = False
    reason: str | None = None

    @property
    def running(self) -> bool:
        """Whether supervisor has it running."""
        return self.state in RUNNING


class Supervisor:
    """The supervisord of one DATA_DIR, called through its socket."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._data = settings.data_path
        self._socket = self._data / "run" / "supervisor.sock"
        self._log_file = self._data / "log" / "supervisord.log"
        self._settings_file = self._data / "run" / "settings.json"
        if self.running():
            # The settings that the processes were started with, whatever this call was given. Another version of
            # EmoStream may have others; then this call's settings are enough to stop its processes.
            with suppress(msgspec.ValidationError):
                self._settings = msgspec.json.decode(self._settings_file.read_bytes(), type=Settings)
        self._roles = {role.name: role for role in roles(self._settings)}

    @property
    def _rpc(self) -> Any:
        # A new one for each call: supervisor's transport cannot be used again after a refused connection.
        return ServerProxy("http://localhost", SupervisorTransport(None, None, f"unix://{self._socket}")).supervisor

    def differing_settings(self, settings: Settings) -> list[str]:
        """Return the names of settings that are not what the processes were started with."""
        ours, theirs = msgspec.to_builtins(settings), msgspec.to_builtins(self._settings)
        return [name for name in ours if ours[name] != theirs[name] and name not in OF_ONE_PROCESS]

    def running(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self._rpc.getState()["statename"] == "RUNNING")
        except (OSError, Fault):
            return False

    def launch(self, stop: StopFlag) -> None:
        """Start supervisord unless it runs. Raises OperatingError."""
        if self.running():
            return
        if len(str(self._socket)) > MAX_SOCKET_PATH:
            raise OperatingError(f"DATA_DIR={self._data} is too long for a socket in it: {self._socket}")
        for directory in ("run", "log"):
            (self._data / directory).mkdir(parents=True, exist_ok=True)
        for stale in (self._data / "run").glob("*.ready"):
            stale.unlink()
        self._settings_file.touch(mode=0o600)  # it holds keys and secrets
        self._settings_file.write_bytes(msgspec.json.encode(self._settings))
        configuration = self._data / "run" / "supervisord.conf"
        configuration.write_text(supervisord_conf(self._settings))
        command = [sys.executable, "-m", "emostream.operate.supervisord", "-c", str(configuration)]
        started = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if started.returncode != 0:
            raise OperatingError(f"supervisord did not start: {(started.stderr or started.stdout).strip()}")
        while not self.running():
            if stop.wait(0.1):
                raise OperatingError("stopped while starting")

    def _environment(self) -> dict[str, str]:
        """Return the environment of supervisord and of all its processes."""
        return {
            **self._settings.environment,
            "DATA_DIR": str(self._data),
            "CONFIG_DIR": str(CONFIG_DIR),
            # Where the processes find the package: a checkout, or anywhere if it is installed.
            "DIRECTORY": str(self._data if INSTALLED else PROJECT_DIR),
            "PYTHON": sys.executable,
            "JAVA": java(),
        }

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
        """Stop everything in the order of the data, then supervisord. A process that takes too long is killed.

        Two calls at the same time both return when all is stopped.
        """
        pid = None
        with ProgressLine() as line:
            try:
                pid = self._rpc.getPID()
                for kind in STOP_ORDER:
                    self._stop(kind, line)
                self._rpc.shutdown()
            except OSError:
                pass  # the other call was faster
            except Fault as fault:
                if fault.faultCode != Faults.SHUTDOWN_STATE:
                    raise
            while pid is not None and _alive(pid):
                time.sleep(0.1)

    def _stop(self, kind: str, line: ProgressLine) -> None:
        names = [role.name for role in self._roles.values() if role.kind == kind]
        if names:
            self._rpc.stopProcessGroup(kind, False)
        while running := [process.name for process in self.running_or_not() if process.name in names and process.pid]:
            line.show(f"stopping {running[0]} ({line.seconds} s)")
            time.sleep(0.1)

    def processes(self, ask_brokers: bool = True) -> list[SupervisedProcess]:
        """Return all processes, in the order of the data. A broker that is not asked is ready when it runs."""
        return [
            msgspec.structs.replace(one, ready=one.running and self._ready(one, ask_brokers))
            for one in self.running_or_not()
        ]

    def running_or_not(self) -> list[SupervisedProcess]:
        """Return all processes, in the order of the data, without finding out whether they are ready."""
        try:
            infos = self._rpc.getAllProcessInfo()
        except (OSError, Fault):
            return []
        starts = self._starts()
        found = {}
        for info in infos:
            name, running = info["name"], info["statename"] in RUNNING
            uptime_seconds, restarts = info["now"] - info["start"] if running else 0, max(0, starts.get(name, 0) - 1)
            found[name] = SupervisedProcess(name, info["statename"], info["pid"], uptime_seconds, restarts)
        return [found[name] for name in self._roles if name in found]

    def log_tail(self, name: str) -> str:
        """Return the end of a process's log."""
        path = self._data / "log" / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(f"    {line}" for line in lines[-SHOWN_LOG_LINES:]) or f"    (nothing in {path})"

    def _ready(self, process: SupervisedProcess, ask_brokers: bool) -> bool:
        role = self._roles[process.name]
        if role.kind == "kafka":
            return not ask_brokers or not broker_missing(self._settings, role.number)
        return why_not_ready(self._settings, role.name, process.pid) is None

    def _starts(self) -> dict[str, int]:
        """Count how often this supervisord has started each process; only its log tells."""
        counts: dict[str, int] = {}
        for line in self._log_file.read_text(errors="replace").splitlines():
            if "supervisord started with pid" in line:
                counts.clear()
            elif "spawned: '" in line:
                name = line.split("'")[1]
                counts[name] = counts.get(name, 0) + 1
        return counts


class SupervisedMetrics(Metrics):
    """The processes that ./start.sh runs, for the app's GET /metrics; nothing if it runs none."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(Log("operate"), SUPERVISED)
        self._settings = settings

    def samples(self) -> Samples:
        """Return the numbers of this moment."""
        processes = Supervisor(self._settings).running_or_not()
        return {
            "restarts": {process.name: process.restarts for process in processes},
            "up": {process.name: float(process.running) for process in processes},
        }


def _namespec(role: Role) -> str:
    """Return supervisor's `group:process`."""
    return f"{role.kind}:{role.name}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
