"""What every process shares: log lines, signals, ports, the heartbeat that shows it ready, a time limit for a step."""

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
EXIT_STUCK = 70  # EX_SOFTWARE of sysexits.h: this process cannot go on, and a successor can
SHORTEST_LIFE_SECONDS = 4.0
_started = time.monotonic()
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
HEARTBEAT_SECONDS = 1.0
# A process whose heartbeat is older than this is not ready: so one that hangs is noticed within 10 s.
STALE_AFTER_SECONDS = 9.0
MARK = ".emostream"
T = TypeVar("T")
# What earlier versions, which left no mark, have always written.
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
        """Log what an operator wants to read afterwards; never one line per event."""
        self._logger.info({**self._identity, "msg": message, **fields})

    def warning(self, message: str, **fields: object) -> None:
        """Log that something was skipped or dropped, or has to wait."""
        self._logger.warning({**self._identity, "msg": message, **fields})

    def error(self, message: str, **fields: object) -> None:
        """Log that something was lost, or that the process ends."""
        self._logger.error({**self._identity, "msg": message, **fields})


class LineFormatter(logging.Formatter):
    """Formats what was logged as one line: time, level and fields, as key=value or as one JSON object."""

    def __init__(self, log_format: str) -> None:
        super().__init__()
        self._as_json = log_format == "json"

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, without a line break in it."""
        # Log passes its fields as the message; a library passes a text.
        message: object = record.msg
        fields = message if isinstance(message, dict) else {"stage": record.name, "msg": super().format(record)}
        time_and_level = {"time": self.formatTime(record, TIME_FORMAT), "level": record.levelname}
        if self._as_json:
            return json.dumps(time_and_level | {key: _plain(value) for key, value in fields.items()}, allow_nan=False)
        return f"{time_and_level['time']} {key_values({'level': record.levelname, **fields})}"


def key_values(fields: Mapping[str, object]) -> str:
    """Return fields as key=value, quoted where a reader would not see where a value ends."""
    return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())


def _plain(value: object) -> object:
    """Return a value for JSON: numbers stay numbers, all else becomes text."""
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
    """Send log lines to stderr: ours from INFO, those of libraries from WARNING, and none of kafka-python."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(log_format))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("emostream").setLevel(logging.INFO)
    # While a broker is away, kafka-python logs an error at every attempt. The stage hears of what matters through an
    # exception or a failed record, and logs that.
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
    """Make every text printable: a closed stream takes all and shows nothing, and a terminal may show `?`."""
    # The lowest free numbers come first. A file that got the number of a closed stream would be written into.
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115 - open until the process ends
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def show(text: str) -> int:
    """Print what was asked for; return the exit status 0."""
    _complete_streams()
    end_with_reader()
    print(text.strip())
    return 0


def end_with_reader() -> None:
    """From here on, end without a word when the reader of the output has enough, as in `| head`."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def bound_socket(host: str, port: int, setting: str, wait_seconds: float = 0.0) -> socket.socket:
    """Return a TCP socket that is bound to a port and does not listen yet.

    Raises SettingError, which names `setting`, if the port is still taken after `wait_seconds`.
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
    """Knows whether SIGTERM or SIGINT came after `listen`."""

    def __init__(self) -> None:
        # A plain attribute, because threading.Event.set takes a lock that the interrupted thread may hold.
        self.requested = False
        self._patient = False

    def listen(self, patient: bool = False) -> None:
        """Set the signal handlers; only the main thread may.

        The second signal of one kind ends the process at once, unless the flag is `patient`.
        """
        self._patient = patient
        signal.signal(signal.SIGTERM, self._request)
        signal.signal(signal.SIGINT, self._request)

    def _request(self, signum: int, _frame: FrameType | None) -> None:
        self.requested = True
        if not self._patient:
            signal.signal(signum, signal.SIG_DFL)

    def wait(self, seconds: float) -> bool:
        """Sleep until a stop is requested, or for `seconds`; return whether it is requested."""
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return self.requested


def stop_on_signals() -> StopFlag:
    """Return a flag that listens already."""
    flag = StopFlag()
    flag.listen()
    return flag


class Heartbeat:
    """A file under DATA_DIR/run that shows whether a process is ready: its id and when, and below it why it is not."""

    def __init__(self, settings: Settings, name: str, pid: int | None = None) -> None:
        """Raises SettingError if DATA_DIR/run cannot be used."""
        self._path = heartbeat_path(settings, name)
        self._pid = os.getpid() if pid is None else pid
        self._due = 0.0
        self._reason = ""
        own_directory(self._path.parent)

    def beat(self) -> None:
        """Say that this process can take work. Cheap enough for every turn of a loop."""
        self.not_ready("")

    def not_ready(self, reason: str) -> None:
        """Say why this process cannot take work now, in a few words for an operator. As cheap as `beat`."""
        now = boot_seconds()
        if now >= self._due or reason != self._reason:
            self._due, self._reason = now + HEARTBEAT_SECONDS, reason
            # A new file replaces the old one, so that nobody reads half of it. On a full disk the old one gets stale.
            with suppress(OSError):
                aside = self._path.with_suffix(f".{os.getpid()}")
                aside.write_text(f"{self._pid} {now:.3f}\n{' '.join(reason.split())}".rstrip(), encoding="utf-8")
                aside.replace(self._path)

    def end(self) -> None:
        """Say that this process takes no more work."""
        self._path.unlink(missing_ok=True)


def heartbeat_path(settings: Settings, name: str) -> Path:
    """Return where the process of this name leaves its heartbeat."""
    return settings.data_path / "run" / f"{name}.ready"


def boot_seconds() -> float:
    """Return the seconds since this machine started. All its processes see the same; nobody can set this clock."""
    # This one also runs while the machine sleeps, so a heartbeat from before that is stale.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def why_not_ready(settings: Settings, name: str, pid: int) -> str | None:
    """Return why a running process is not ready, or None if it is."""
    try:
        text = heartbeat_path(settings, name).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        text = ""
    first, _, reason = text.partition("\n")
    of, _, at = first.partition(" ")
    if of != str(pid):
        return "starting, or waiting for the broker; see its log"
    silent_seconds = boot_seconds() - float(at)
    if silent_seconds > STALE_AFTER_SECONDS:
        return f"{reason or 'it worked before'}; no sign of life for {silent_seconds:.0f} s"
    return reason or None


def own_directory(path: Path) -> Path:
    """Return a directory of ours, made if it is not there. A file in it, MARK, shows that it is ours.

    Raises SettingError if it holds files and no mark, because these are somebody else's.
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
    """Return an empty directory of ours; what was in it is deleted. Raises SettingError as `own_directory` does."""
    for found in own_directory(path).iterdir():
        if found.name != MARK:
            shutil.rmtree(found, ignore_errors=True) if found.is_dir() and not found.is_symlink() else found.unlink()
    return path


class StepTimeout(Exception):
    """A step took too long. It goes on in its thread, and nobody waits for it."""


def within(seconds: float, step: str, function: Callable[[], T]) -> T:
    """Call `function` in a thread of its own and return its result. Raises what it raises, or StepTimeout.

    After a StepTimeout the call goes on by itself, so something later must make it harmless: a new producer fences the
    old one's transaction, and `end_at_once` ends the process.
    """
    outcome: futures.Future[T] = futures.Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001 - not swallowed: the caller gets it
            outcome.set_exception(error)

    threading.Thread(target=call, name=step, daemon=True).start()
    if not futures.wait({outcome}, timeout=seconds).done:
        raise StepTimeout(f"{step} took over {seconds:g} s")
    return outcome.result()


def exit_stuck(stop: StopFlag) -> int:
    """Return EXIT_STUCK, but not before SHORTEST_LIFE_SECONDS after the start, unless a stop is requested.

    Supervisor gives up on a process that ends sooner again and again. The next one may be luckier.
    """
    stop.wait(_started + SHORTEST_LIFE_SECONDS - time.monotonic())
    return EXIT_STUCK


def end_at_once(status: int) -> NoReturn:
    """End the process without the clean-up of a normal exit, which could wait for ever for a stuck thread."""
    logging.shutdown()
    os._exit(status)
