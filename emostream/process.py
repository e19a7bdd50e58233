"""What every process shares: log lines, the stop flag, the heartbeat that shows it ready, time-boxes."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

from emostream.settings import SettingError, Settings, load

EXIT_BAD_SETTING = 2
EXIT_FENCED = 3  # another process of the same role has taken over
EXIT_STUCK = 70  # EX_SOFTWARE of sysexits.h: a time-box overran, a successor should take over
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
HEARTBEAT_SECONDS = 1.0
STALE_AFTER_SECONDS = 10.0  # a process whose heartbeat is older than this is not ready


class Log:
    """Lines with the stage and the identity of the process in each: key=value, or as LOG_FORMAT says."""

    def __init__(self, stage: str, **identity: object) -> None:
        self._identity = {"stage": stage, **identity}
        self._logger = logging.getLogger("emostream")

    def info(self, message: str, **fields: object) -> None:
        """What an operator wants to have seen afterwards; never a line per event."""
        self._write(logging.INFO, message, fields)

    def warning(self, message: str, **fields: object) -> None:
        """Something was skipped, dropped or has to wait."""
        self._write(logging.WARNING, message, fields)

    def error(self, message: str, **fields: object) -> None:
        """Something was lost, or the process ends."""
        self._write(logging.ERROR, message, fields)

    def _write(self, level: int, message: str, fields: dict[str, object]) -> None:
        self._logger.log(level, Line({**self._identity, "msg": message, **fields}))


@dataclass(frozen=True)
class Line:
    """What a line says."""

    fields: dict[str, object]

    def __str__(self) -> str:
        return " ".join(f"{key}={_quoted(value)}" for key, value in self.fields.items())


class JsonFormatter(logging.Formatter):
    """A line as a JSON object: time, level and its fields, where numbers are numbers and all else is text."""

    def format(self, record: logging.LogRecord) -> str:
        """Without a line break, whatever is in it."""
        if isinstance(record.msg, Line):
            fields = record.msg.fields
        else:  # a library's
            fields = {"stage": record.name, "msg": super().format(record)}
        time_and_level = {"time": self.formatTime(record, TIME_FORMAT), "level": record.levelname}
        return json.dumps(time_and_level | {key: _plain(value) for key, value in fields.items()}, allow_nan=False)


def _plain(value: object) -> object:
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
    """Send log lines to stderr; the libraries' only from warnings, kafka-python's not at all."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s level=%(levelname)s %(message)s", TIME_FORMAT)
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("emostream").setLevel(logging.INFO)
    # While a broker is away kafka-python logs an error at every attempt. What matters of them comes back
    # as an exception or a failed record, and is told by the stage.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def run_script(usage: str, stage: Callable[[Settings], int | None], arguments: Sequence[str]) -> NoReturn:
    """Run a stage with the settings from a script's arguments and end the process with its status.

    `--help` prints `usage`; a setting that cannot be used is one sentence and exit status 2.
    """
    if "--help" in arguments or "-h" in arguments:
        print(usage.strip())
        sys.exit(0)
    start_logging()
    try:
        settings = load(arguments)
        start_logging(settings.log_format)
        sys.exit(stage(settings))
    except SettingError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_BAD_SETTING)


def bound_socket(host: str, port: int, setting: str, wait_seconds: float = 0.0) -> socket.socket:
    """A TCP socket bound to a port but not listening yet.

    Raises SettingError, naming `setting`, where the port is still taken after `wait_seconds`.
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
        # A plain attribute: threading.Event.set takes a lock that the interrupted thread may hold.
        self.requested = False
        self._patient = False

    def listen(self, patient: bool = False) -> None:
        """Put the signal handlers in place; main thread only.

        The second signal of one kind ends the process at once, unless it is `patient`.
        """
        self._patient = patient
        signal.signal(signal.SIGTERM, self._request)
        signal.signal(signal.SIGINT, self._request)

    def _request(self, signum: int, _frame: FrameType | None) -> None:
        self.requested = True
        if not self._patient:
            signal.signal(signum, signal.SIG_DFL)

    def wait(self, seconds: float) -> bool:
        """Sleep, at most until a stop is requested; returns whether it is."""
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return self.requested


def stop_on_signals() -> StopFlag:
    """A flag that listens already."""
    flag = StopFlag()
    flag.listen()
    return flag


class Heartbeat:
    """A file under DATA_DIR/run whose age tells whether a process is ready, and whose text is its process id."""

    def __init__(self, settings: Settings, name: str, pid: int | None = None) -> None:
        self._path = heartbeat_path(settings, name)
        self._pid = os.getpid() if pid is None else pid
        self._due = 0.0

    def beat(self) -> None:
        """Say that work can be taken; cheap enough to be called in every turn of a loop."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + HEARTBEAT_SECONDS
            # Written aside and put in place, so that no reader finds half of it. On a full disk it gets old instead.
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                aside = self._path.with_suffix(f".{os.getpid()}")
                aside.write_text(str(self._pid))
                aside.replace(self._path)

    def end(self) -> None:
        """Say that no more work is taken."""
        self._path.unlink(missing_ok=True)


def heartbeat_path(settings: Settings, name: str) -> Path:
    """Where the process of this name leaves its heartbeat."""
    return settings.data_path / "run" / f"{name}.ready"


class StepTimeout(Exception):
    """A step took longer than it may; it may still be under way."""


T = TypeVar("T")


def within(seconds: float, step: str, function: Callable[[], T]) -> T:
    """What `function` returns, called in a thread of its own. Raises what it raises, or StepTimeout after `seconds`.

    Then the call goes on by itself, so it must be one that a later step makes harmless.
    """
    outcome: futures.Future[T] = futures.Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001 - not swallowed: it goes to whoever waits
            outcome.set_exception(error)

    threading.Thread(target=call, name=step, daemon=True).start()
    if not futures.wait({outcome}, timeout=seconds).done:
        raise StepTimeout(f"{step} took over {seconds:g} s")
    return outcome.result()


class TimeBox:
    """Ends the process when a step takes too long, where a successor is up sooner than the step could be mended.

    One thread watches one step at a time; steps do not nest.
    """

    def __init__(self, log: Log, check_seconds: float = 0.2) -> None:
        self._log = log
        self._check_seconds = check_seconds
        self._step: tuple[float, float, str] | None = None
        threading.Thread(target=self._watch, name="time-box", daemon=True).start()

    @contextmanager
    def limit(self, seconds: float, step: str) -> Iterator[None]:
        """Let the enclosed step take at most `seconds`."""
        self._step = (time.monotonic() + seconds, seconds, step)
        try:
            yield
        finally:
            self._step = None

    def _watch(self) -> None:
        while True:
            time.sleep(self._check_seconds)
            step = self._step
            if step and time.monotonic() > step[0]:
                self._log.error(f"{step[2]} took over {step[1]:g} s; this process ends so that a successor goes on")
                logging.shutdown()
                os._exit(EXIT_STUCK)
