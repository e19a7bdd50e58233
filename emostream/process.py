"""What every process shares: log lines, signals, ports, its heartbeat, our directories, a time limit for a step."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

from emostream.kafka_security import check as check_kafka_security
from emostream.settings import SettingError, Settings, load

EXIT_BAD_SETTING = 2
EXIT_FENCED = 3  # another process of the same role has taken over
EXIT_STUCK = 70  # EX_SOFTWARE of sysexits.h: this process cannot go on, but a new one can
# A process that fails sooner than this counts as a failed start, and supervisor gives up after ten of them.
SHORTEST_LIFE_SECONDS = 4.0
_started = time.monotonic()
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
HEARTBEAT_SECONDS = 1.0
# A process whose heartbeat is older than this is not ready. So within 10 s a process that hangs is not ready.
STALE_AFTER_SECONDS = 9.0
T = TypeVar("T")
MARK = ".emostream"  # a file that shows that a directory is ours
# The first version left no mark. These are files that it always wrote.
EARLIER_MARKS = {
    "jars": {".complete"},
    "kafka": {"cluster.id"},
    "run": {"settings.json"},
    "log": {"ivy.log", "kafka_1.log", "main_publisher.log"},
}


class Log:
    """Writes log lines that begin with the stage and the identity of the process."""

    def __init__(self, stage: str, **identity: object) -> None:
        self._identity = {"stage": stage, **identity}
        self._logger = logging.getLogger("emostream")

    def info(self, message: str, **fields: object) -> None:
        """Log what an operator may want to know later; never one line per event."""
        self._logger.info({**self._identity, "msg": message, **fields})

    def warning(self, message: str, **fields: object) -> None:
        """Log that something was skipped or dropped, or must wait."""
        self._logger.warning({**self._identity, "msg": message, **fields})

    def error(self, message: str, **fields: object) -> None:
        """Log that something was lost, or that this process ends."""
        self._logger.error({**self._identity, "msg": message, **fields})


class LineFormatter(logging.Formatter):
    """A log record → one line with its time, level and fields, as key=value or as a JSON object."""

    def __init__(self, log_format: str) -> None:
        super().__init__()
        self._as_json = log_format == "json"

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, without line breaks."""
        # The message is a dictionary of fields if it comes from Log, and a text if it comes from a library.
        message: object = record.msg
        fields = message if isinstance(message, dict) else {"stage": record.name, "msg": super().format(record)}
        time_and_level = {"time": self.formatTime(record, TIME_FORMAT), "level": record.levelname}
        if self._as_json:
            return json.dumps(time_and_level | {key: _plain(value) for key, value in fields.items()}, allow_nan=False)
        return f"{time_and_level['time']} {key_values({'level': record.levelname, **fields})}"


def key_values(fields: Mapping[str, object]) -> str:
    """Return fields as key=value. A value is quoted if its end would not be clear."""
    return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())


def _plain(value: object) -> object:
    """Return a value for JSON: a number stays a number; anything else becomes text."""
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, int) else str(value)


def _quoted(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    if text and text.isprintable() and not any(c in text for c in ' "=\\'):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def start_logging(log_format: str = "text") -> None:
    """Send log lines to stderr: our own from INFO, those of libraries from WARNING, but none from kafka-python."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(log_format))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("emostream").setLevel(logging.INFO)
    # While a broker is away, kafka-python logs an error at every attempt. A stage logs each exception and each record
    # that failed, so nothing is missed.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def run_script(usage: str, stage: Callable[[Settings], int | None], arguments: Sequence[str]) -> NoReturn:
    """Run a stage with the settings from a script's arguments and end the process with its status.

    `--help` prints `usage`. A setting that cannot be used ends it with one sentence and exit status 2.
    """
    if "--help" in arguments or "-h" in arguments:
        sys.exit(show(usage))
    _complete_streams()
    if sys.platform != "linux":
        sys.exit(f"EmoStream runs on Linux only, not on {sys.platform}: it needs epoll and /proc.")
    start_logging()
    try:
        settings = load(arguments)
        check_kafka_security(settings)
        start_logging(settings.log_format)
        sys.exit(stage(settings))
    except SettingError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_BAD_SETTING)


def _complete_streams() -> None:
    """Make print() safe: to a closed stream it prints nothing, and a character that a terminal lacks becomes `?`."""
    # Fill the numbers 0 to 2. Otherwise the next file would get the number of a closed stream, and be written into.
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115 - open until the process ends
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def show(text: str) -> int:
    """Print a text on stdout; return the exit status 0."""
    _complete_streams()
    end_with_reader()
    print(text.strip())
    return 0


def end_with_reader() -> None:
    """Make the process end silently when nobody reads its output any more, as in `| head`."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def bound_socket(host: str, port: int, setting: str, wait_seconds: float = 0.0) -> socket.socket:
    """Return a TCP socket that is bound to a port and does not listen yet.

    Raises SettingError if the port is still taken after `wait_seconds`. The error names `setting`, which has the port.
    """
    deadline = time.monotonic() + wait_seconds
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except OSError as error:
            bound.close()
            if time.monotonic() >= deadline:
                raise SettingError(
                    f"{setting}: cannot listen on {host}:{port} ({error.strerror}); is it running already?"
                ) from None
            time.sleep(0.2)
        else:
            return bound


class StopFlag:
    """Whether SIGTERM or SIGINT has come since `listen`."""

    def __init__(self) -> None:
        # No threading.Event: its set() waits for a lock, and the thread that a signal interrupts may hold that lock.
        self.requested = False
        self._patient = False

    def listen(self, patient: bool = False) -> None:
        """Set the signal handlers; only the main thread may call this.

        A second signal of the same kind ends the process at once, unless `patient`.
        """
        self._patient = patient
        signal.signal(signal.SIGTERM, self._request)
        signal.signal(signal.SIGINT, self._request)

    def _request(self, signum: int, _frame: FrameType | None) -> None:
        self.requested = True
        if not self._patient:
            signal.signal(signum, signal.SIG_DFL)

    def wait(self, seconds: float) -> bool:
        """Sleep for `seconds`, or until a stop is requested. Return whether it is."""
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return self.requested


def stop_on_signals() -> StopFlag:
    """Return a flag that listens."""
    flag = StopFlag()
    flag.listen()
    return flag


class Heartbeat:
    """A file under DATA_DIR/run: this process's id, the time, and on the next line why the process is not ready."""

    def __init__(self, settings: Settings, name: str) -> None:
        """Raises SettingError if DATA_DIR/run cannot be used."""
        self._path = heartbeat_path(settings, name)
        self._due = 0.0
        self._reason = ""
        own_directory(self._path.parent)

    def beat(self) -> None:
        """Say that this process is ready. This is cheap enough for each turn of a loop."""
        self.not_ready("")

    def not_ready(self, reason: str) -> None:
        """Say in a few words why this process is not ready. This is as cheap as `beat`."""
        now = boot_seconds()
        if now >= self._due or reason != self._reason:
            self._due, self._reason = now + HEARTBEAT_SECONDS, reason
            # Write a second file and rename it, so that nobody reads half of it. On a full disk the old one gets stale.
            with suppress(OSError):
                aside = self._path.with_suffix(f".{os.getpid()}")
                aside.write_text(f"{os.getpid()} {now:.3f}\n{' '.join(reason.split())}".rstrip(), encoding="utf-8")
                aside.replace(self._path)

    def end(self) -> None:
        """Say that this process will not be ready again."""
        self._path.unlink(missing_ok=True)


def heartbeat_path(settings: Settings, name: str) -> Path:
    """Return the path of a process's heartbeat."""
    return settings.data_path / "run" / f"{name}.ready"


def boot_seconds() -> float:
    """Return the seconds since this machine started. All processes share this clock, and nobody can set it."""
    # CLOCK_BOOTTIME goes on while the machine sleeps. So a heartbeat from before the sleep is stale.
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def why_not_ready(settings: Settings, name: str, pid: int | None = None) -> str | None:
    """Return why a running process is not ready, or None if it is. Without a `pid` any process of that name counts."""
    try:
        text = heartbeat_path(settings, name).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        text = ""
    first, _, reason = text.partition("\n")
    written_by, _, written_at = first.partition(" ")
    if not written_by or (pid is not None and written_by != str(pid)):
        return "starting, or waiting for the broker; see its log"
    silent_seconds = boot_seconds() - float(written_at)
    if silent_seconds > STALE_AFTER_SECONDS:
        return f"{reason or 'it worked before'}; no sign of life for {silent_seconds:.0f} s"
    return reason or None


def own_directory(path: Path) -> Path:
    """Return a directory of ours, with MARK in it. Make it if it is missing.

    Raises SettingError if it holds files but no MARK, because these are somebody else's.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it belongs to another user, or is read-only")
        names = {found.name for found in path.iterdir()}
        if names and not names & {MARK, *EARLIER_MARKS.get(path.name, ())}:
            raise SettingError(
                f"DATA_DIR: expected {path} to be empty or made by EmoStream, found files of somebody else in it; "
                "move them away, or choose another DATA_DIR"
            )
        if MARK not in names:
            (path / MARK).write_text("EmoStream made this directory, and may change and delete what is in it.\n")
    except OSError as error:
        raise SettingError(
            f"DATA_DIR: expected a directory that can be written to, cannot use {path} ({error.strerror})"
        ) from None
    return path


def fresh_directory(path: Path) -> Path:
    """Return an empty directory of ours. Delete what was in it. Raises SettingError as `own_directory` does."""
    for found in own_directory(path).iterdir():
        if found.name != MARK:
            shutil.rmtree(found, ignore_errors=True) if found.is_dir() and not found.is_symlink() else found.unlink()
    return path


class StepTimeout(Exception):
    """A step took too long. It goes on in its thread, but nobody waits for it."""


def within(seconds: float, step: str, function: Callable[[], T]) -> T:
    """Call `function` in a new thread and return its result. Raises what it raises, or StepTimeout.

    After a StepTimeout the call may still take effect, so the caller must make that harmless: for example, a new
    producer fences the transaction of the old one.
    """
    outcome: futures.Future[T] = futures.Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001 - the caller gets it
            outcome.set_exception(error)

    threading.Thread(target=call, name=step, daemon=True).start()
    if not futures.wait({outcome}, timeout=seconds).done:
        raise StepTimeout(f"{step} took over {seconds:g} s")
    return outcome.result()


def exit_stuck(stop: StopFlag) -> int:
    """Return EXIT_STUCK when SHORTEST_LIFE_SECONDS have passed since the start, or a stop is requested."""
    stop.wait(_started + SHORTEST_LIFE_SECONDS - time.monotonic())
    return EXIT_STUCK


def end_at_once(status: int) -> NoReturn:
    """End the process without the clean-up of a normal exit, which could wait for a stuck thread for ever."""
    logging.shutdown()
    os._exit(status)
