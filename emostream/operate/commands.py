"""The commands of an operator: set up, start, stop, show. `./start.sh` and `emostream` pass them on to here."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from emostream.operate.jars import ensure_jars
from emostream.operate.java import java_problem
from emostream.operate.logs import follow
from emostream.operate.start import start
from emostream.operate.supervisor import Supervisor
from emostream.operate.terminal import OperatingError, say
from emostream.process import EXIT_BAD_SETTING, StopFlag, start_logging
from emostream.settings import INSTALLED, START_COMMAND, TOPICS_COMMAND, SettingError, Settings, load

CLIENT_COMMAND = "emostream client" if INSTALLED else ".venv/bin/python client.py"


def operate(command: str, overrides: list[str], name: str = "") -> int:
    """Do one of COMMANDS with these KEY=VALUE settings and return the exit status; `name` is for `logs`."""
    start_logging()
    try:
        settings = load(overrides)
        start_logging(settings.log_format)
        return logs(settings, name) if command == "logs" else COMMANDS[command](settings)
    except KeyboardInterrupt:
        say(f"interrupted; {START_COMMAND} status shows what still runs")
        return 130
    except (SettingError, OperatingError) as error:
        say(str(error))
        return EXIT_BAD_SETTING if isinstance(error, SettingError) else 1


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
        start(settings, only_kafka=True)
    say(
        f"Kafka is ready at {settings.kafka_bootstrap_servers}; {TOPICS_COMMAND} creates the topics, "
        f"{START_COMMAND} down stops it."
    )
    return 0


def up(settings: Settings) -> int:
    """Start every process in the background."""
    with one_at_a_time(settings):
        install(settings)
        start(settings)
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
            start(settings)
        if joins:
            say("EmoStream was running already; this client joins it, and leaves it running.")
        else:
            say(
                "EmoStream is ready. This is the client: it sends 100 emojis and shows the crowd's. "
                "Ctrl-C stops everything."
            )
        return run_client(settings)


def run_client(settings: Settings) -> int:
    """Run the client in this terminal until it ends or a signal comes; return its exit status."""
    stop = StopFlag()
    stop.listen(patient=True)  # a second Ctrl-C ends the client, which gets it too, and what comes after is ours
    command = [sys.executable, "-m", "emostream", "client"]
    with subprocess.Popen(command, env=settings.environment) as client:
        while client.poll() is None and not stop.wait(0.1):
            pass
        client.terminate()
        return client.wait()


def down(settings: Settings) -> int:
    """Stop every process, in the order of the data."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    supervisor = Supervisor(settings)
    if supervisor.running():
        supervisor.shutdown()
    say("Everything is stopped.")
    return 0


def status(settings: Settings) -> int:
    """Print one line per process; return 0 if all are ready, else 1."""
    processes = Supervisor(settings).processes()
    if not processes:
        print(f"nothing runs; {START_COMMAND} up starts it")
        return 1
    print(f"{'process':<20} {'state':<9} {'ready':<6} {'pid':>7} {'uptime':>9} {'restarts':>9}")
    for process in processes:
        hours, seconds = divmod(process.uptime_seconds, 3600)
        uptime, ready = f"{hours}:{seconds // 60:02}:{seconds % 60:02}", "yes" if process.ready else "no"
        print(
            f"{process.name:<20} {process.state.lower():<9} {ready:<6} "
            f"{process.pid:>7} {uptime:>9} {process.restarts:>9}"
        )
    return 0 if all(process.ready for process in processes) else 1


def logs(settings: Settings, name: str = "") -> int:
    """Follow the log of one process, or of all."""
    directory = settings.data_path / "log"
    paths = sorted(path for path in directory.glob("*.log") if name in ("", path.stem))
    if not paths:
        raise OperatingError(
            f"There is no log of {name or 'any process'} in {directory}; {START_COMMAND} status names the processes."
        )
    return follow(paths)


def install(settings: Settings) -> None:
    """Fetch the jars if they are missing. Raises OperatingError, also if there is no Java."""
    if problem := java_problem():
        raise OperatingError(problem)
    ensure_jars(settings)


@contextmanager
def one_at_a_time(settings: Settings) -> Iterator[None]:
    """Let calls that set up or start the system of one DATA_DIR do so one after the other."""
    settings.data_path.mkdir(parents=True, exist_ok=True)
    directory = os.open(settings.data_path, os.O_RDONLY)  # children do not inherit it, nor the lock
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another {START_COMMAND} is at work here; waiting for it.")
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


COMMANDS = {"run": run, "up": up, "down": down, "status": status, "logs": logs, "setup": setup, "kafka": kafka}
