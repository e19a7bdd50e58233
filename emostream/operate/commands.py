"""The processes of one machine, under supervisor: start, stop, status. What ./start.sh calls once all is installed.

usage: python -m emostream.operate.commands start [kafka] | stop | status | running
"""

from __future__ import annotations

import base64
import subprocess
import sys
import time
import uuid

from emostream.operate.supervisor import (
    OperatingError,
    Supervisor,
    all_names,
    java,
    kafka_names,
    progress,
    progress_done,
)
from emostream.process import Log, StopFlag, bound_socket, start_logging, stop_on_signals
from emostream.settings import CLUSTER_TOPICS, PROJECT_DIR, SettingError, Settings, load
from emostream.topics import create_topics

READY_SECONDS = 120.0
RESTART_SECONDS = 3.0
MAX_RESTARTS = 3  # while `up` waits: once may be chance, as on a machine that is busy with starting
BROKER_TEMPLATE = PROJECT_DIR / "config" / "kafka.properties"


def start(settings: Settings, only_kafka: bool) -> None:
    """Start what does not run yet and return when all of it is ready. Raises OperatingError."""
    stop = stop_on_signals()
    supervisor = Supervisor(settings)
    if differing := supervisor.differing_settings(settings):
        raise SettingError(
            f"EmoStream runs already, with another {' and '.join(differing)}; ./start.sh down, then up, changes that"
        )
    running = {process.name for process in supervisor.processes() if process.running}
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
            progress_done()
            return
        if time.monotonic() - began > READY_SECONDS:
            tail = supervisor.log_tail(waiting[0])
            raise OperatingError(f"{waiting[0]} was not ready after {READY_SECONDS:g} s; the end of its log:\n{tail}")
        shown = ", ".join(waiting[:2]) + (", ..." if len(waiting) > 2 else "")
        progress(f"ready: {len(names) - len(waiting)} of {len(names)}, waiting for {shown}", began)
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
        elif "_publisher" in name:
            cluster = 0 if name == "main_publisher" else int(name.removeprefix("cluster_publisher_"))
            bound_socket(settings.bind_host, settings.metrics_port(cluster), "METRICS_BASE_PORT").close()
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


def main() -> int:
    """Entry point of the command in the module's docstring."""
    words = [word for word in sys.argv[1:] if "=" not in word]
    start_logging()
    try:
        settings = load([word for word in sys.argv[1:] if "=" in word])
        start_logging(settings.log_format)
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
        progress_done()
        print("interrupted; ./start.sh status shows what still runs", file=sys.stderr)
        return 130
    except (SettingError, OperatingError) as error:
        progress_done()
        print(error, file=sys.stderr)
        return 2 if isinstance(error, SettingError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
