"""The commands of an operator: set up, start, stop, show. Each takes settings and returns an exit status."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pwd import getpwuid
from typing import NoReturn

from emostream.operate.class_archive import ensure_class_archive
from emostream.operate.java import java_problem
from emostream.operate.kafka import ensure_jars, prepare_brokers
from emostream.operate.supervisor import SupervisedProcess, Supervisor
from emostream.operate.terminal import SHOWN_LINES, OperatingError, ProgressLine, say
from emostream.process import Log, StopFlag, bound_socket, end_with_reader, own_directory, stop_on_signals
from emostream.roles import Role, brokers, named, roles
from emostream.settings import INSTALLED, START_COMMAND, TOPICS_COMMAND, SettingError, Settings, from_environment
from emostream.topics import create_topics

CLIENT_COMMAND = "emostream client" if INSTALLED else ".venv/bin/python client.py"
MIN_OPEN_FILES = 1024
READY_SECONDS = 120.0
RESTART_SECONDS = 3.0  # an ended process that should run is started again sooner than that
MAX_RESTARTS = 3  # while `up` waits; a process may fail once because the machine is busy with starting the others


def setup(settings: Settings) -> int:
    """Install what is missing."""
    with one_at_a_time(settings):
        install(settings)
    say("Everything is installed.")
    return 0


def kafka(settings: Settings) -> int:
    """Start only the brokers."""
    with one_at_a_time(settings):
        install(settings)
        start(settings, brokers(settings))
    say(
        f"Kafka is ready at {settings.kafka_bootstrap_servers}; {TOPICS_COMMAND} creates the topics, "
        f"{START_COMMAND} down stops it."
    )
    return 0


def up(settings: Settings, only: str = "") -> int:
    """Start every process in the background, or only those that `only` names."""
    wanted = named(settings, only) if only else roles(settings)
    with one_at_a_time(settings):
        install(settings)
        start(settings, wanted)
    if only:
        say(f"Ready: {', '.join(role.name for role in wanted)}")
        return 0
    say(
        f"EmoStream is ready: http://{settings.bind_host}:{settings.app_port}/ in a browser, "
        f"or PORT=8001 {CLIENT_COMMAND} here, shows the stream."
    )
    return 0


def run(settings: Settings) -> int:
    """Start every process, run the client in this terminal, and stop what this call has started."""
    with ExitStack() as at_the_end:
        with one_at_a_time(settings):
            install(settings)
            joins = Supervisor(settings).running()
            if not joins:
                at_the_end.callback(down, settings)
            start(settings, roles(settings))
        if joins:
            say("EmoStream was running already; this client joins it, and leaves it running.")
        else:
            say("EmoStream is ready. This client sends 100 emojis and shows the crowd's. Ctrl-C stops everything.")
        return run_client(settings)


def run_client(settings: Settings) -> int:
    """Run the client in this terminal until it ends or a signal comes; return its exit status."""
    stop = StopFlag()
    stop.listen(patient=True)  # a second Ctrl-C ends the client, but not this process: it must still stop the others
    command = [sys.executable, "-m", "emostream", "client"]
    with subprocess.Popen(command, env=settings.environment) as client:
        while client.poll() is None and not stop.wait(0.1):
            pass
        client.terminate()
        return client.wait()


def down(settings: Settings) -> int:
    """Stop every process, in the order of the data."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Supervisor(settings).shutdown()
    say("Everything is stopped.")
    return 0


def status(settings: Settings) -> int:
    """Print one line per process, with the reason if it is not ready; return 0 if all are ready, else 1."""
    processes = [one for one in Supervisor(settings).processes() if one.started]
    end_with_reader()
    if not processes:
        print(f"nothing runs; {START_COMMAND} up starts it")
        return 1
    print(f"{'process':<20} {'state':<9} {'ready':<6} {'pid':>7} {'uptime':>9} {'restarts':>9}")
    for one in processes:
        hours, seconds = divmod(one.uptime_seconds, 3600)
        uptime, ready = f"{hours}:{seconds // 60:02}:{seconds % 60:02}", "yes" if one.ready else "no"
        line = f"{one.name:<20} {one.state.lower():<9} {ready:<6} {one.pid:>7} {uptime:>9} {one.restarts:>9}"
        print(f"{line}  {one.reason or ''}".rstrip())
    return 0 if all(one.ready for one in processes) else 1


def logs(settings: Settings, name: str = "") -> NoReturn:
    """Show the end of the log of one process, or of all, and what is added, until interrupted."""
    directory = settings.data_path / "log"
    paths = sorted(path for path in directory.glob("*.log") if name in ("", path.stem))
    if not paths:
        raise OperatingError(
            f"There is no log of {name or 'any process'} in {directory}; {START_COMMAND} status names the processes."
        )
    end_with_reader()
    os.execvp("tail", ["tail", "-n", str(SHOWN_LINES), "-F", *map(str, paths)])  # noqa: S606 - no shell is wanted


def install(settings: Settings) -> None:
    """Get what Kafka and Spark need here, if it is missing. Raises OperatingError, also if they cannot run here."""
    if problem := java_problem() or system_problem():
        raise OperatingError(problem)
    ensure_jars(settings)
    ensure_class_archive(settings)


def system_problem() -> str | None:
    """Return one sentence that says what to do if Kafka or Spark cannot run as this user."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most_files != resource.RLIM_INFINITY and most_files < MIN_OPEN_FILES:
        return (
            f"A process may open {most_files} files here (ulimit -Hn), and EmoStream needs {MIN_OPEN_FILES}. Raise the "
            "limit, for example in /etc/security/limits.conf, and log in again."
        )
    try:
        getpwuid(os.geteuid())
    except KeyError:
        return f"The user with the number {os.geteuid()} has no name here, and Spark needs one: add it to /etc/passwd."
    return None


@contextmanager
def one_at_a_time(settings: Settings) -> Iterator[None]:
    """Let only one call at a time set up or start what is in DATA_DIR. Raises SettingError."""
    try:
        settings.data_path.mkdir(parents=True, exist_ok=True)
        directory = os.open(settings.data_path, os.O_RDONLY)  # a child process does not inherit it
    except OSError as error:
        raise SettingError(f"DATA_DIR={settings.data_dir!r}: expected a directory to write in ({error})") from None
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another {START_COMMAND} is at work here; waiting for it.")
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def start(settings: Settings, wanted: Sequence[Role]) -> None:
    """Start each process of `wanted` that does not run, and return when all are ready.

    Raises OperatingError or SettingError.
    """
    if taken := from_environment():
        say(f"Settings from the environment: {taken}")
    stop = stop_on_signals()
    supervisor = Supervisor(settings)
    if differing := supervisor.differing_settings(settings):
        raise SettingError(
            f"EmoStream runs already, with another {' and '.join(differing)}; "
            f"{START_COMMAND} down, then up, changes that"
        )
    running = {process.name for process in supervisor.processes(find_reasons=False) if process.running}
    kafka = [role for role in wanted if role.kind == "kafka"]
    check_ports(role for role in wanted if role.name not in running)
    for name in ("run", "log", "spark/checkpoint"):
        own_directory(settings.data_path / name)
    if any(role.name not in running for role in kafka):
        prepare_brokers(settings)
    supervisor.launch(stop)
    # Start all together to save time: each process waits for the broker and its topics by itself.
    supervisor.start(role.name for role in wanted)
    await_ready(supervisor, kafka, stop)
    if wanted == kafka:
        return
    if not create_topics(settings, replace=False, stop=stop, log=Log("start")):
        raise OperatingError("stopped while starting")
    await_ready(supervisor, wanted, stop)


def check_ports(wanted: Iterable[Role]) -> None:
    """Raise SettingError if a port that one of these processes needs is taken, or two of them need it."""
    users: dict[int, Role] = {}
    for role in wanted:
        for address in role.addresses:
            other = users.setdefault(address.port, role)
            if other is not role:
                raise SettingError(
                    f"{address.setting}: {other.name} and {role.name} would both listen on port {address.port}; "
                    "choose other ports, or fewer CLUSTERS or SUBSCRIBERS"
                )
            bound_socket(address.host, address.port, address.setting).close()


def await_ready(supervisor: Supervisor, wanted: Sequence[Role], stop: StopFlag) -> None:
    """Return when all are ready. Raises OperatingError, with the end of the log, if one fails or takes too long."""
    names = [role.name for role in wanted]
    earlier = {process.name: process.restarts for process in supervisor.processes(find_reasons=False)}
    with ProgressLine() as line:
        while not stop.requested:
            processes = [process for process in supervisor.processes() if process.name in names]
            for process in processes:
                name = process.name
                if _failed(process, process.restarts - earlier.get(name, 0)):
                    raise OperatingError(f"{name} failed; the end of its log:\n{supervisor.log_of(name)}")
            waiting = [process for process in processes if not process.ready]
            if len(processes) == len(names) and not waiting:
                return
            if waiting and line.seconds > READY_SECONDS:
                first = waiting[0]
                raise OperatingError(
                    f"{first.name} was not ready after {READY_SECONDS:g} s ({first.reason or first.state.lower()}); "
                    f"the end of its log:\n{supervisor.log_of(first.name)}"
                )
            shown = ", ".join(process.name for process in waiting[:2]) + (", ..." if len(waiting) > 2 else "")
            ready = len(names) - len(waiting)
            line.show(f"ready: {ready} of {len(names)}, waiting for {shown} ({line.seconds} s)")
            stop.wait(0.2)
    raise OperatingError("stopped while starting")


def _failed(process: SupervisedProcess, restarts: int) -> bool:
    """Whether a process has failed for good."""
    # A process is EXITED also for a moment before supervisor restarts it.
    exited = process.state == "EXITED" and process.ended_seconds > RESTART_SECONDS
    return exited or process.state in ("FATAL", "UNKNOWN") or restarts >= MAX_RESTARTS
