"""The processes of one machine, under supervisor: start, stop, status. What ./start.sh calls once all is installed.

usage: python -m emostream.operate start [kafka] | stop | status | running
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import msgspec
from supervisor.xmlrpc import Faults, SupervisorTransport

from emostream.broker import broker_missing, create_topics
from emostream.runtime import (
    STALE_AFTER_SECONDS,
    Log,
    StopFlag,
    bound_socket,
    heartbeat_path,
    start_logging,
    stop_on_signals,
)  # fmt: skip
from emostream.settings import CLUSTER_TOPICS, PROJECT_DIR, SUBSCRIBERS_PER_CLUSTER, SettingError, Settings, load

GROUPS = ("app", "main_publisher", "cluster_publisher", "subscriber", "kafka")  # in the order of the data
READY_SECONDS = 120.0
RESTART_SECONDS = 3.0
MAX_RESTARTS = 3  # while `up` waits: once may be chance, as on a machine that is busy with starting
SHOWN_LOG_LINES = 20
SUPERVISOR_CONF = PROJECT_DIR / "config" / "supervisord.conf"
BROKER_TEMPLATE = PROJECT_DIR / "config" / "kafka.properties"
# Longest path of a Unix socket on Linux is 107 characters; macOS has 103.
MAX_SOCKET_PATH = 103
OF_ONE_PROCESS = ("CLUSTER_TOPIC", "SUBSCRIBER", "PORT")


class OperatingError(Exception):
    """Something that keeps the system from starting; the text says what, where and what to do."""


@dataclass(frozen=True)
class Process:
    """One line of `status`."""

    name: str
    state: str
    pid: int
    uptime_seconds: int
    restarts: int
    ready: bool


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
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(SUPERVISOR_CONF)]
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
        """Stop everything in the order of the data, and supervisord. Each is killed when it takes too long."""
        began = time.monotonic()
        for group in GROUPS:
            self._rpc.stopProcessGroup(group, False)
            while running := [
                process.name for process in self.processes() if _group(process.name) == group and process.pid
            ]:
                _progress(f"stopping {running[0]}", began)
                time.sleep(0.1)
        pid = self._rpc.getPID()
        self._rpc.shutdown()
        while _alive(pid):
            time.sleep(0.1)
        _progress_done()

    def processes(self, ask_brokers: bool = True) -> list[Process]:
        """All processes, in the order of the data; a broker that is not asked is ready when it runs."""
        try:
            infos = self._rpc.getAllProcessInfo()
        except (OSError, Fault):
            return []
        spawned = self._spawns()
        found = {}
        for info in infos:
            # STARTING is supervisor's first second or two, in which an exit counts as a failed start.
            name, running = info["name"], info["statename"] in ("RUNNING", "STARTING")
            found[name] = Process(
                name, info["statename"], info["pid"], info["now"] - info["start"] if running else 0,
                max(0, spawned.get(name, 0) - 1), running and self._ready(name, info["pid"], ask_brokers),
            )  # fmt: skip
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


def start(settings: Settings, only_kafka: bool) -> None:
    """Start what does not run yet and return when all of it is ready. Raises OperatingError."""
    stop = stop_on_signals()
    supervisor = Supervisor(settings)
    if differing := supervisor.differing_settings(settings):
        raise SettingError(
            f"EmoStream runs already, with another {' and '.join(differing)}; ./start.sh down, then up, changes that"
        )
    running = {process.name for process in supervisor.processes() if process.state in ("RUNNING", "STARTING")}
    kafka = kafka_names(settings)
    wanted = kafka if only_kafka else all_names(settings)
    check_ports(settings, [name for name in wanted if name not in running])
    if not running.issuperset(kafka):
        for number in range(1, settings.brokers + 1):
            prepare_broker(settings, number)
    supervisor.launch(stop)
    # All at once: everything waits for the broker and its topics by itself, and so the slow starts overlap.
    supervisor.start(wanted)
    await_ready(supervisor, kafka, stop)
    if only_kafka:
        return
    if not create_topics(settings, replace=False, stop=stop, log=Log("start"), quiet=True):
        raise OperatingError("stopped while starting")
    await_ready(supervisor, wanted, stop)


def await_ready(supervisor: Supervisor, names: list[str], stop: StopFlag) -> None:
    """Return when each is ready. Raises OperatingError, with the end of the log, where one failed or takes too long."""
    began = time.monotonic()
    restarts = {process.name: process.restarts for process in supervisor.processes()}
    exited: dict[str, float] = {}
    while not stop.requested:
        processes = [process for process in supervisor.processes() if process.name in names]
        exited = {process.name: exited.get(process.name, time.monotonic()) for process in processes if process.pid == 0}
        for process in processes:
            # EXITED is also what a process is for a moment before supervisor starts it again.
            gone = process.name in exited and time.monotonic() - exited[process.name] > RESTART_SECONDS
            again = process.restarts - restarts.get(process.name, 0)
            if process.state in ("FATAL", "UNKNOWN") or (process.state == "EXITED" and gone) or again >= MAX_RESTARTS:
                raise OperatingError(f"{process.name} failed; the end of its log:\n{supervisor.log_tail(process.name)}")
        ready = {process.name for process in processes if process.ready}
        waiting = [name for name in names if name not in ready]
        if not waiting:
            _progress_done()
            return
        if time.monotonic() - began > READY_SECONDS:
            tail = supervisor.log_tail(waiting[0])
            raise OperatingError(f"{waiting[0]} was not ready after {READY_SECONDS:g} s; the end of its log:\n{tail}")
        shown = ", ".join(waiting[:2]) + (", ..." if len(waiting) > 2 else "")
        _progress(f"ready: {len(names) - len(waiting)} of {len(names)}, waiting for {shown}", began)
        stop.wait(0.2)
    raise OperatingError("stopped while starting")


def check_ports(settings: Settings, names: list[str]) -> None:
    """Raise SettingError where a port that one of these processes needs is taken."""
    for name in names:
        if name.startswith("kafka_"):
            host, port = settings.broker_address(int(name.removeprefix("kafka_")))
            for number in (port, port + 1):
                bound_socket(host, number, "KAFKA_BOOTSTRAP_SERVERS").close()
        elif name == "app":
            bound_socket(settings.bind_host, settings.app_port, "APP_PORT").close()
        elif name.startswith("subscriber_"):
            cluster, number = map(int, name.split("_")[1:])
            topic = CLUSTER_TOPICS[cluster - 1]
            bound_socket(settings.bind_host, settings.subscriber_port(topic, number), "SUBSCRIBER_BASE_PORT").close()
            bound_socket(settings.bind_host, settings.stream_port(topic, number), "STREAM_BASE_PORT").close()


def prepare_broker(settings: Settings, number: int) -> None:
    """Write a broker's properties and format its storage, where that was not done. Raises OperatingError."""
    directory = settings.data_path / "kafka"
    directory.mkdir(parents=True, exist_ok=True)
    host, port = settings.broker_address(number)
    voters = [(voter, *settings.broker_address(voter)) for voter in range(1, settings.brokers + 1)]
    values = {
        "NODE": number,
        "HOST": host,
        "PORT": port,
        "CONTROLLER_PORT": port + 1,
        "VOTERS": ",".join(f"{voter}@{at}:{on + 1}" for voter, at, on in voters),
        "DATA": directory / f"broker_{number}",
        "REPLICAS": settings.brokers,
        "MIN_INSYNC": 2 if settings.brokers == 3 else 1,
    }
    text = BROKER_TEMPLATE.read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    properties = directory / f"broker_{number}.properties"
    properties.write_text(text)
    cluster_id = directory / "cluster.id"
    if not cluster_id.exists():
        cluster_id.write_text(new_cluster_id())
    if (directory / f"broker_{number}" / "meta.properties").exists():
        return
    jars = settings.data_path / "jars" / "broker" / "*"
    formatted = subprocess.run(
        [java(), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", str(jars), "kafka.tools.StorageTool", "format",
         "--cluster-id", cluster_id.read_text(), "--config", str(properties), "--ignore-formatted"],
        capture_output=True, text=True,
    )  # fmt: skip
    if formatted.returncode != 0:
        raise OperatingError(f"the broker's storage could not be formatted: {formatted.stderr or formatted.stdout}")


def new_cluster_id() -> str:
    """A random id as Kafka makes them: 16 bytes in base64, which do not begin like an option of a command."""
    while (made := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return made


def java() -> str:
    """The java command that Spark would take as well."""
    home = os.environ.get("JAVA_HOME")
    return str(Path(home) / "bin" / "java") if home else shutil.which("java") or "java"


def show_status(settings: Settings) -> bool:
    """Print a line a process; returns whether all that should run is ready."""
    processes = Supervisor(settings).processes()
    if not processes:
        print("nothing runs; ./start.sh up starts it")
        return False
    print(f"{'process':<20} {'state':<9} {'ready':<6} {'pid':>7} {'uptime':>9} {'restarts':>9}")
    for process in processes:
        uptime = (
            f"{process.uptime_seconds // 3600}:{process.uptime_seconds // 60 % 60:02}:{process.uptime_seconds % 60:02}"
        )
        ready = "yes" if process.ready else "no"
        print(
            f"{process.name:<20} {process.state.lower():<9} {ready:<6} "
            f"{process.pid:>7} {uptime:>9} {process.restarts:>9}"
        )
    return all(process.ready for process in processes)


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


def _progress(what: str, began: float) -> None:
    """One line that a terminal keeps rewriting; elsewhere a line every 10 s."""
    seconds = time.monotonic() - began
    if sys.stderr.isatty():
        print(f"\r\033[K  {what} ({seconds:.0f} s)", end="", file=sys.stderr, flush=True)
    elif int(seconds * 10) % 100 == 50:
        print(f"  {what} ({seconds:.0f} s)", file=sys.stderr, flush=True)


def _progress_done() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Entry point of the command in the module's docstring."""
    words = [word for word in sys.argv[1:] if "=" not in word]
    start_logging()
    try:
        settings = load([word for word in sys.argv[1:] if "=" in word])
        if words in (["start"], ["start", "kafka"]):
            start(settings, only_kafka="kafka" in words)
        elif words == ["running"]:
            return 0 if Supervisor(settings).running() else 1
        elif words == ["stop"]:
            supervisor = Supervisor(settings)
            if supervisor.running():
                supervisor.shutdown()
        elif words == ["status"]:
            return 0 if show_status(settings) else 1
        else:
            print(__doc__)
            return 2
    except KeyboardInterrupt:
        _progress_done()
        print("interrupted; ./start.sh status shows what still runs", file=sys.stderr)
        return 130
    except (SettingError, OperatingError) as error:
        _progress_done()
        print(error, file=sys.stderr)
        return 2 if isinstance(error, SettingError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
