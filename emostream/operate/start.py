"""The table of processes → all of them running and ready, or one sentence that says why not."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from emostream.operate.brokers import prepare_broker
from emostream.operate.supervisor import SupervisedProcess, Supervisor
from emostream.operate.terminal import OperatingError, ProgressLine
from emostream.process import Log, StopFlag, bound_socket, stop_on_signals
from emostream.roles import Role, brokers, roles
from emostream.settings import START_COMMAND, SettingError, Settings
from emostream.topics import create_topics

READY_SECONDS = 120.0
RESTART_SECONDS = 3.0
MAX_RESTARTS = 3  # while `up` waits; one may be chance, for example on a machine that is busy with starting


def start(settings: Settings, only_kafka: bool = False) -> None:
    """Start what does not run yet, and return when all of it is ready. Raises OperatingError or SettingError."""
    stop = stop_on_signals()
    supervisor = Supervisor(settings)
    if differing := supervisor.differing_settings(settings):
        raise SettingError(
            f"EmoStream runs already, with another {' and '.join(differing)}; "
            f"{START_COMMAND} down, then up, changes that"
        )
    running = {process.name for process in supervisor.processes() if process.running}
    kafka = brokers(settings)
    wanted = kafka if only_kafka else roles(settings)
    check_ports(role for role in wanted if role.name not in running)
    if any(role.name not in running for role in kafka):
        for role in kafka:
            prepare_broker(settings, role.number)
    supervisor.launch(stop)
    # All at once, so that the slow starts overlap: each process waits for the broker and its topics by itself.
    supervisor.start(role.name for role in wanted)
    await_ready(supervisor, kafka, stop)
    if only_kafka:
        return
    if not create_topics(settings, replace=False, stop=stop, log=Log("start"), quiet=True):
        raise OperatingError("stopped while starting")
    await_ready(supervisor, wanted, stop)


def check_ports(wanted: Iterable[Role]) -> None:
    """Raise SettingError if a port that one of these processes needs is taken."""
    for role in wanted:
        for address in role.addresses:
            bound_socket(address.host, address.port, address.setting).close()


def await_ready(supervisor: Supervisor, wanted: Sequence[Role], stop: StopFlag) -> None:
    """Return when all are ready. Raises OperatingError, with the end of the log, if one fails or takes too long."""
    names = [role.name for role in wanted]
    restarts = {process.name: process.restarts for process in supervisor.processes()}
    ended: dict[str, float] = {}  # since when
    with ProgressLine() as line:
        while not stop.requested:
            processes = [process for process in supervisor.processes() if process.name in names]
            now = time.monotonic()
            ended = {process.name: ended.get(process.name, now) for process in processes if process.pid == 0}
            for process in processes:
                again = process.restarts - restarts.get(process.name, 0)
                if _failed(process, now - ended.get(process.name, now), again):
                    tail = supervisor.log_tail(process.name)
                    raise OperatingError(f"{process.name} failed; the end of its log:\n{tail}")
            ready = {process.name for process in processes if process.ready}
            waiting = [name for name in names if name not in ready]
            if not waiting:
                return
            if line.seconds > READY_SECONDS:
                tail = supervisor.log_tail(waiting[0])
                raise OperatingError(
                    f"{waiting[0]} was not ready after {READY_SECONDS:g} s; the end of its log:\n{tail}"
                )
            shown = ", ".join(waiting[:2]) + (", ..." if len(waiting) > 2 else "")
            line.show(f"ready: {len(ready)} of {len(names)}, waiting for {shown} ({line.seconds} s)")
            stop.wait(0.2)
    raise OperatingError("stopped while starting")


def _failed(process: SupervisedProcess, ended_seconds: float, restarts: int) -> bool:
    """Whether a process has failed for good."""
    # EXITED is also the state of a process for a moment before supervisor starts it again.
    exited = process.state == "EXITED" and ended_seconds > RESTART_SECONDS
    return exited or process.state in ("FATAL", "UNKNOWN") or restarts >= MAX_RESTARTS
