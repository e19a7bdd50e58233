"""The supervisord of one DATA_DIR: what it runs, how that is, how often it had to start it again; start and stop."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import msgspec
from supervisor.xmlrpc import Faults, SupervisorTransport

from emostream.metrics.catalogue import SUPERVISED
from emostream.metrics.counters import Histogram, Samples
from emostream.process import STALE_AFTER_SECONDS, StopFlag, heartbeat_path
from emostream.settings import CLUSTER_TOPICS, PROJECT_DIR, SUBSCRIBERS_PER_CLUSTER, Settings
from emostream.topics import broker_missing

GROUPS = ("app", "main_publisher", "cluster_publisher", "subscriber", "kafka")  # in the order of the data
# STARTING is supervisor's first second or two, in which an exit counts as a failed start.
RUNNING = ("RUNNING", "STARTING")
SHOWN_LOG_LINES = 20
SUPERVISOR_CONF = PROJECT_DIR / "config" / "supervisord.conf"
# Longest path of a Unix socket on Linux is 107 characters; macOS has 103.
MAX_SOCKET_PATH = 103
OF_ONE_PROCESS = ("CLUSTER_TOPIC", "SUBSCRIBER", "PORT")


class OperatingError(Exception):
    """Something that keeps the system from starting; the text says what, where and what to do."""


class Process(msgspec.Struct, frozen=True):
    """One line of `status`."""

    name: str
    state: str
    pid: int
    uptime_seconds: int
    restarts: int
    ready: bool = False

    @property
    def running(self) -> bool:
        """Whether supervisor has it running."""
        return self.state in RUNNING


class Supervisor:
    """The supervisord of one DATA_DIR, over its socket."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._data = settings.data_path
        self._socket = self._data / "run" / "supervisor.sock"
        self._log_file = self._data / "log" / "supervisord.log"
        self._settings_file = self._data / "run" / "settings.json"
        if self.running():
            # What the processes were started with, whatever this call was given. Those that another version of this
            # has started are known by what was given, which is enough to stop them.
            with suppress(msgspec.ValidationError):
                self._settings = msgspec.json.decode(self._settings_file.read_bytes(), type=Settings)

    @property
    def _rpc(self) -> Any:
        # A new one for each call: supervisor's transport cannot be used again after a refused connection.
        return ServerProxy("http://localhost", SupervisorTransport(None, None, f"unix://{self._socket}")).supervisor

    def differing_settings(self, settings: Settings) -> list[str]:
        """Names of settings that are not what the processes were started with."""
        ours, theirs = msgspec.to_builtins(settings), msgspec.to_builtins(self._settings)
        return [name for name in ours if ours[name] != theirs[name] and name not in OF_ONE_PROCESS]

    @property
    def all_names(self) -> list[str]:
        """Every process, in the order of the data."""
        return all_names(self._settings)

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
        environment = os.environ | {
            "DATA_DIR": str(self._data),
            "PROJECT_DIR": str(PROJECT_DIR),
            "PYTHON": sys.executable,
            "JAVA": java(),
            "BROKER_PROCESSES": str(max(1, self._settings.brokers)),  # supervisor wants at least one of each
            "STOP_SECONDS": str(round(self._settings.drain_seconds + self._settings.batch_seconds + 15)),
        }
        self._settings_file.touch(mode=0o600)  # keys and secrets are in it
        self._settings_file.write_bytes(msgspec.json.encode(self._settings))
        command = [sys.executable, "-m", "emostream.operate.supervisord", "-c", str(SUPERVISOR_CONF)]
        started = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if started.returncode != 0:
            raise OperatingError(f"supervisord did not start: {(started.stderr or started.stdout).strip()}")
        while not self.running():
            if stop.wait(0.1):
                raise OperatingError("stopped while starting")

    def start(self, names: list[str]) -> None:
        """Start these processes; those that run already are left alone."""
        for name in names:
            try:
                self._rpc.startProcess(_namespec(name), False)
            except Fault as fault:
                if fault.faultCode not in (Faults.ALREADY_STARTED, Faults.SPAWN_ERROR):
                    raise

    def hold(self, name: str) -> None:
        """Stop one process and leave it stopped until `start`."""
        self._rpc.stopProcess(_namespec(name), True)

    def shutdown(self) -> None:
        """Stop everything in the order of the data, and supervisord. Each is killed when it takes too long.

        Two who do so at the same time both return when all is stopped.
        """
        began = time.monotonic()
        pid = None
        try:
            pid = self._rpc.getPID()
            for group in GROUPS:
                self._rpc.stopProcessGroup(group, False)
                while running := [
                    process.name for process in self.processes() if _group(process.name) == group and process.pid
                ]:
                    progress(f"stopping {running[0]}", began)
                    time.sleep(0.1)
            self._rpc.shutdown()
        except OSError:
            pass  # the other one was faster
        except Fault as fault:
            if fault.faultCode != Faults.SHUTDOWN_STATE:
                raise
        while pid is not None and _alive(pid):
            time.sleep(0.1)
        progress_done()

    def processes(self, ask_brokers: bool = True) -> list[Process]:
        """All processes, in the order of the data; a broker that is not asked is ready when it runs."""
        return [
            msgspec.structs.replace(one, ready=one.running and self._ready(one.name, one.pid, ask_brokers))
            for one in self.running_or_not()
        ]

    def running_or_not(self) -> list[Process]:
        """All processes, in the order of the data, without asking any of them whether it is ready."""
        try:
            infos = self._rpc.getAllProcessInfo()
        except (OSError, Fault):
            return []
        spawned = self._spawns()
        found = {}
        for info in infos:
            name, running = info["name"], info["statename"] in RUNNING
            uptime_seconds, restarts = info["now"] - info["start"] if running else 0, max(0, spawned.get(name, 0) - 1)
            found[name] = Process(name, info["statename"], info["pid"], uptime_seconds, restarts)
        return [found[name] for name in self.all_names if name in found]

    def log_tail(self, name: str) -> str:
        """The end of a process's log."""
        path = self._data / "log" / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(f"    {line}" for line in lines[-SHOWN_LOG_LINES:]) or f"    (nothing in {path})"

    def _ready(self, name: str, pid: int, ask_brokers: bool) -> bool:
        if name.startswith("kafka_"):
            return not ask_brokers or not broker_missing(self._settings, int(name.removeprefix("kafka_")))
        path = heartbeat_path(self._settings, name)
        try:
            return path.read_text() == str(pid) and time.time() - path.stat().st_mtime < STALE_AFTER_SECONDS
        except FileNotFoundError:
            return False

    def _spawns(self) -> dict[str, int]:
        """How often each process was started by this supervisord; it counts that nowhere but in its log."""
        counts: dict[str, int] = {}
        for line in self._log_file.read_text(errors="replace").splitlines():
            if "supervisord started with pid" in line:
                counts.clear()
            elif "spawned: '" in line:
                name = line.split("'")[1]
                counts[name] = counts.get(name, 0) + 1
        return counts


class Supervised:
    """The processes that ./start.sh runs, for the app's page of metrics; nothing where it runs none."""

    series = SUPERVISED
    histograms: Mapping[str, Histogram] = {}

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def samples(self) -> Samples:
        """The numbers now."""
        processes = Supervisor(self._settings).running_or_not()
        return {
            "restarts": {process.name: process.restarts for process in processes},
            "up": {process.name: float(process.running) for process in processes},
        }


def kafka_names(settings: Settings) -> list[str]:
    """The broker processes of this machine."""
    return [f"kafka_{number}" for number in range(1, settings.brokers + 1)]


def all_names(settings: Settings) -> list[str]:
    """Every process, in the order of the data."""
    clusters = range(1, len(CLUSTER_TOPICS) + 1)
    return [
        *kafka_names(settings),
        "app",
        "main_publisher",
        *(f"cluster_publisher_{cluster}" for cluster in clusters),
        *(f"subscriber_{cluster}_{number}" for cluster in clusters for number in range(1, SUBSCRIBERS_PER_CLUSTER + 1)),
    ]


def java() -> str:
    """The java command that Spark would take as well."""
    home = os.environ.get("JAVA_HOME")
    return str(Path(home) / "bin" / "java") if home else shutil.which("java") or "java"


def _namespec(name: str) -> str:
    """Supervisor's `group:process`."""
    return f"{_group(name)}:{name}"


def _group(name: str) -> str:
    return name.rstrip("_0123456789")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def progress(what: str, began: float) -> None:
    """One line that a terminal keeps rewriting; elsewhere a line every 10 s."""
    seconds = time.monotonic() - began
    if sys.stderr.isatty():
        print(f"\r\033[K  {what} ({seconds:.0f} s)", end="", file=sys.stderr, flush=True)
    elif int(seconds * 10) % 100 == 50:
        print(f"  {what} ({seconds:.0f} s)", file=sys.stderr, flush=True)


def progress_done() -> None:
    """Wipe that line."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
