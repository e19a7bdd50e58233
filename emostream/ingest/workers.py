"""HTTP → EMOJI_TOPIC: the workers that serve POST /send-emoji, and the main process that starts them."""

from __future__ import annotations

import asyncio
import mmap
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import uvloop

from emostream import roles
from emostream.announcements import Announcements
from emostream.discovery import Directory
from emostream.http.access import AllowedHosts
from emostream.http.connection import SPARE_CONNECTIONS
from emostream.http.server import HttpServer
from emostream.ingest.api import IngestApi
from emostream.ingest.producer import BoundedProducer
from emostream.ingest.routes import create_app, threaded
from emostream.metrics.catalogue import INGEST
from emostream.metrics.counters import WorkerMetrics
from emostream.metrics.page import MetricsPage
from emostream.operate import pulse
from emostream.operate.dashboard import routes as dashboard
from emostream.operate.supervisor import SupervisedMetrics
from emostream.process import (
    HEARTBEAT_SECONDS,
    STALE_AFTER_SECONDS,
    Heartbeat,
    Log,
    StopFlag,
    boot_seconds,
    bound_socket,
    fresh_directory,
    own_directory,
    stop_on_signals,
)
from emostream.settings import Settings
from emostream.topics import wait_for_topics
from emostream.web import pages

ORPHAN_SECONDS = 3.0  # until a worker notices that the main process is gone
RESPAWN_SECONDS = 0.5
# If events wait and the broker acknowledges none for this long, the broker is away.
BROKER_AWAY_AFTER_SECONDS = 5.0
# A flush starts this long before a multiple of the linger. At 2,000 events/s it takes 4 to 19 ms until a consumer can
# read the events.
FLUSH_LEAD_SECONDS = 0.03
# A shorter linger needs no flush: the producer's own timer is exact enough.
SHORTEST_FLUSH_SECONDS = 0.1
# How long a flush may take; the broker needs some milliseconds. Events that come meanwhile are sent in small batches.
FLUSH_SECONDS = 0.05
WAITED_LINGER_MS = 20  # with ACK=broker, because the sender waits
CONNECTIONS_PER_WORKER = 8_192  # nearly all are idle and belong to phones
OTHER_FILES = 64 + SPARE_CONNECTIONS
STOP_SECONDS = 0.1  # until a worker notices that it should stop


class Readiness:
    """Which workers are ready. They write it into memory that they share with the main process."""

    def __init__(self, workers: int) -> None:
        """Make it before the workers are forked."""
        self._ready_at = memoryview(mmap.mmap(-1, 8 * workers)).cast("d")

    def set(self, worker: int, ready: bool) -> None:
        """Say whether a worker is ready now."""
        self._ready_at[worker] = boot_seconds() if ready else 0.0

    def any(self) -> bool:
        """Whether at least one worker is ready. A worker that has said nothing for long is not."""
        return max(self._ready_at) > max(0.0, boot_seconds() - STALE_AFTER_SECONDS)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. All accepted events are sent before the process ends."""
    log = Log("ingest")
    stop = stop_on_signals()
    heartbeat = Heartbeat(settings, roles.app(settings).name)
    if not wait_for_topics(settings, {settings.emoji_topic: "WRITE"}, stop, log, heartbeat.not_ready):
        return 0
    # Workers share their port, and would share it with another app, too. So fail here if another app listens on it.
    # Workers whose main process was killed hold the port until they have drained; wait for them.
    bound_socket(settings.bind_host, settings.app_port, "APP_PORT", settings.drain_seconds + ORPHAN_SECONDS).close()
    fresh_directory(metrics_path(settings))  # without the counts of an earlier app
    readiness = Readiness(settings.app_workers)
    fork, pid = get_context("fork").Process, os.getpid()

    def start(number: int) -> ForkProcess:
        worker = fork(target=work, args=(settings, partial(readiness.set, number), pid, stop))
        worker.start()
        return worker

    workers = [start(number) for number in range(settings.app_workers)]
    log.info("listening", address=settings.bind_host, port=settings.app_port, workers=settings.app_workers)
    while not stop.wait(RESPAWN_SECONDS):
        for number, worker in enumerate(workers):
            if not worker.is_alive():
                log.error("a worker has ended; a new one is started", pid=worker.pid, exit_status=worker.exitcode)
                readiness.set(number, False)
                workers[number] = start(number)
        why_not = "" if readiness.any() else "no worker is ready: they are starting, or the broker takes no events"
        heartbeat.not_ready(why_not)
    heartbeat.end()
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()
    log.info("stopped")
    return 0


def work(settings: Settings, say_ready: Callable[[bool], None], parent_pid: int, stop: StopFlag) -> None:
    """Serve in this forked process until `stop`, then drain."""
    # Be patient: a signal to all processes of the app comes twice, because the main process passes it on.
    stop.listen(patient=True)
    uvloop.run(Worker(settings, say_ready, parent_pid).serve(stop))


class Worker:
    """One process that answers requests and has a producer of its own."""

    def __init__(self, settings: Settings, say_ready: Callable[[bool], None], parent_pid: int) -> None:
        """Start the thread that flushes, reports, and drains in the end. It calls `say_ready` about once a second."""
        self._settings = settings
        self._say_ready = say_ready
        self._parent_pid = parent_pid
        self._log = Log("ingest", worker=os.getpid())
        waits = settings.ack == "broker"
        linger_ms = min(settings.linger_ms, WAITED_LINGER_MS) if waits else settings.linger_ms
        self._producer = BoundedProducer(settings, settings.emoji_topic, linger_ms, receipts=waits, log=self._log)
        self._counters = counters = WorkerMetrics(self._log, INGEST, metrics_path(settings))
        self._api = IngestApi(settings, self._producer, counters)
        app = create_app(self._api, MetricsPage(counters, SupervisedMetrics(settings), pid=parent_pid))
        announcements = Announcements()
        announcements.keep_reading(settings, self._log)
        directory = Directory(settings, announcements.now)
        app.register_blueprint(pages.blueprint(settings, directory))
        app.register_blueprint(pulse.blueprint(settings))
        app.register_blueprint(dashboard.blueprint(settings, directory, MetricsPage(counters, pid=parent_pid).text))
        self._api.flask = threaded(app, settings)
        self._server = HttpServer(
            self._api, self._log, _max_connections(), settings.max_concurrent_requests,
            check_host=AllowedHosts(settings).check,
        )  # fmt: skip
        counters.read(
            in_flight=lambda: self._server.in_flight,
            buffered=lambda: self._producer.buffered,
            broker_away=lambda: self._api.broker_away,
            produced=lambda: self._producer.counts()["acknowledged"],
            send_errors=lambda: self._producer.counts()["lost"],
            received=self._api.taps.received,
        )
        self._ending = False
        self._acknowledged = 0  # events, at the last look
        self._progress = time.monotonic()  # when that number changed, or no events waited
        # Not a daemon: Python waits for this thread before the process ends, which is when it drains.
        threading.Thread(target=self._watch, name="watch").start()

    async def serve(self, stop: StopFlag) -> None:
        """Answer requests until `stop`, and then those that have begun."""
        host, port = self._settings.bind_host, self._settings.app_port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        await self._server.listen(socket.create_server((host, port), family=family, reuse_port=True))
        while not stop.requested:
            await asyncio.sleep(STOP_SECONDS)
        await self._server.close(self._settings.drain_seconds)

    def _watch(self) -> None:
        """Repeat `_run_once` until the main thread ends, then drain. If this fails, the worker ends."""
        try:
            while threading.main_thread().is_alive():
                self._run_once()
        except BaseException as error:
            self._log.error("a thread of this worker failed; the worker ends, and a new one starts", reason=repr(error))
            os.kill(os.getpid(), signal.SIGTERM)
            threading.main_thread().join(self._settings.drain_seconds)
            raise
        finally:
            self._say_ready(False)
            given_up = self._producer.drain(self._settings.drain_seconds)
            self._counters.publish()
            self._counters.log_if_due(final=True)
            self._log.info("drained", given_up=given_up, **self._producer.counts())

    def _run_once(self) -> None:
        """Wait until the next flush is due, flush, and report. End the worker if it cannot go on."""
        to_flush_seconds = seconds_to_flush(time.time(), self._settings.linger_ms)
        threading.main_thread().join(min(to_flush_seconds, HEARTBEAT_SECONDS))
        if to_flush_seconds <= HEARTBEAT_SECONDS:
            self._producer.flush(timeout_seconds=FLUSH_SECONDS)
        self._look_at_broker(time.monotonic())
        self._say_ready(not self._api.broker_away)
        self._counters.publish()
        self._counters.log_if_due()
        failed = self._producer.counts()["lost"] or not self._producer.running
        if not self._ending and (failed or os.getppid() != self._parent_pid):
            # After an error that cannot be retried, a producer may refuse every record. Without its thread, nobody
            # learns which events the broker has. A worker without a main process would keep the port from the next app.
            self._ending = True
            reason = "its producer has failed" if failed else "the app's main process is gone"
            self._log.error("the worker ends", reason=reason)
            os.kill(os.getpid(), signal.SIGTERM)

    def _look_at_broker(self, now: float) -> None:
        producer, was_away = self._producer, self._api.broker_away
        acknowledged = producer.counts()["acknowledged"]
        if producer.buffered == 0 or acknowledged != self._acknowledged:
            self._acknowledged, self._progress = acknowledged, now
        away = self._api.broker_away = not producer.connected or now - self._progress > BROKER_AWAY_AFTER_SECONDS
        if away and not was_away:
            brokers = ",".join(self._settings.bootstrap_servers)
            reason = {"reason": producer.trouble} if producer.trouble else {}
            self._log.warning("the broker takes no events", brokers=brokers, waiting=producer.buffered, **reason)
        elif was_away and not away:
            self._log.info("the broker takes events again")


def metrics_path(settings: Settings) -> Path:
    """The folder in which each worker leaves its counts for the others."""
    return own_directory(settings.data_path / "run") / "metrics_app"


def _max_connections() -> int:
    """Return how many connections a worker may hold: fewer than CONNECTIONS_PER_WORKER if `ulimit -Hn` is low."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_PER_WORKER + OTHER_FILES
    files = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files - OTHER_FILES


def seconds_to_flush(now: float, linger_ms: int) -> float:
    """Return how long it is from `now`, in Unix seconds, to the next flush.

    Flushes end at multiples of the linger on the clock, because Spark starts its micro-batches at multiples of theirs.
    So the events of a flush do not wait for another micro-batch.
    """
    linger_seconds = max(linger_ms / 1000, SHORTEST_FLUSH_SECONDS)
    return linger_seconds - (now + FLUSH_LEAD_SECONDS) % linger_seconds
