"""HTTP → EMOJI_TOPIC: the workers that serve POST /send-emoji, and the process that keeps them."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import threading
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import uvloop

from emostream import roles
from emostream.discovery import Directory
from emostream.http.access import AllowedHosts, Operators
from emostream.http.connection import SPARE_CONNECTIONS
from emostream.http.server import HttpServer
from emostream.http.wsgi import WsgiApp
from emostream.ingest.api import IngestApi
from emostream.ingest.producer import BoundedProducer
from emostream.ingest.routes import create_app
from emostream.metrics.catalogue import INGEST
from emostream.metrics.counters import WorkerMetrics
from emostream.metrics.page import MetricsPage
from emostream.operate.dashboard import routes as dashboard
from emostream.operate.supervisor import SupervisedMetrics
from emostream.process import (
    HEARTBEAT_SECONDS,
    Heartbeat,
    Log,
    StopFlag,
    bound_socket,
    fresh_directory,
    own_directory,
    stop_on_signals,
)
from emostream.settings import Settings
from emostream.topics import wait_for_topics
from emostream.web import pages

ORPHAN_SECONDS = 3.0  # until an orphan has noticed that it is one
RESPAWN_SECONDS = 0.5
# Without an acknowledgement for this long while events wait, the broker is away and the app is not ready.
BROKER_AWAY_AFTER_SECONDS = 5.0
# A flush begins this long before a multiple of the linger. Until a consumer can read the events it takes 4 to 19 ms at
# 2,000 events/s.
FLUSH_LEAD_SECONDS = 0.03
# With a shorter linger the producer's own timer is enough, and the flushing thread saves its turns.
SHORTEST_FLUSH_SECONDS = 0.1
# How long a flush may take; the broker needs some milliseconds. What comes meanwhile is sent in small batches.
FLUSH_SECONDS = 0.05
WAITED_LINGER_MS = 20  # with ACK=broker, because the sender waits
# Connections that a worker holds at most. Most are idle ones of phones.
MAX_CONNECTIONS = 8_192
OTHER_FILES = 64 + SPARE_CONNECTIONS
FLASK_THREADS = 8
STOP_SECONDS = 0.1  # until a worker notices that it is to stop


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; what was accepted goes out before the process ends."""
    log = Log("ingest")
    stop = stop_on_signals()
    waiting = Heartbeat(settings, roles.app(settings).name)
    if not wait_for_topics(settings, {settings.emoji_topic: "WRITE"}, stop, log, waiting.not_ready):
        return 0
    # Workers share their port, even with another app that listens on it already. This test notices such an app. It
    # waits for workers whose main process was killed, because they hold the port until they have drained.
    bound_socket(settings.bind_host, settings.app_port, "APP_PORT", settings.drain_seconds + ORPHAN_SECONDS).close()
    fresh_directory(metrics_path(settings))  # without the counts of an earlier app
    # A forked worker is there in a moment. What cannot be shared, such as a producer, it makes itself.
    new_worker = partial(get_context("fork").Process, target=work, args=(settings, os.getpid(), stop))
    workers = [new_worker() for _ in range(settings.app_workers)]
    for worker in workers:
        worker.start()
    log.info("listening", address=settings.bind_host, port=settings.app_port, workers=settings.app_workers)
    while not stop.wait(RESPAWN_SECONDS):
        for number, worker in enumerate(workers):
            if not worker.is_alive():
                log.error("a worker has ended; a new one is started", pid=worker.pid, exit_status=worker.exitcode)
                workers[number] = new_worker()
                workers[number].start()
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()
    log.info("stopped")
    return 0


def work(settings: Settings, parent_pid: int, stop: StopFlag) -> None:
    """Serve in this forked process until `stop`, then drain."""
    # A signal to all processes of the app arrives here twice: the main process passes it on.
    stop.listen(patient=True)
    log = Log("ingest", worker=os.getpid())
    waits = settings.ack == "broker"
    linger_ms = min(settings.linger_ms, WAITED_LINGER_MS) if waits else settings.linger_ms
    producer = BoundedProducer(settings, settings.emoji_topic, linger_ms, receipts=waits, log=log)
    counters = WorkerMetrics(log, INGEST, metrics_path(settings))
    api = IngestApi(settings, producer, counters)
    app = create_app(api, MetricsPage(counters, SupervisedMetrics(settings), pid=parent_pid))
    directory = Directory(settings)
    app.register_blueprint(pages.blueprint(settings, directory))
    app.register_blueprint(dashboard.blueprint(settings, directory, MetricsPage(counters, pid=parent_pid).text))
    api.flask = WsgiApp(app, FLASK_THREADS, Operators(settings))
    server = HttpServer(
        api, log, _max_connections(), settings.max_concurrent_requests, check_host=AllowedHosts(settings).check
    )
    counters.read(
        in_flight=lambda: server.in_flight,
        buffered=lambda: producer.buffered,
        broker_away=lambda: api.broker_away,
        produced=lambda: producer.counts()["acknowledged"],
        send_errors=lambda: producer.counts()["lost"],
        received=api.taps.received,
    )
    # Not a daemon: Python waits for this thread before the process ends, which is when it drains.
    threading.Thread(target=_watch, args=(settings, producer, api, counters, log, parent_pid), name="watch").start()
    uvloop.run(_serve(settings, server, stop))


async def _serve(settings: Settings, server: HttpServer, stop: StopFlag) -> None:
    """Answer requests until `stop`, and then those that have begun."""
    family = socket.AF_INET6 if ":" in settings.bind_host else socket.AF_INET
    await server.listen(
        socket.create_server((settings.bind_host, settings.app_port), family=family, reuse_port=True)
    )  # fmt: skip
    while not stop.requested:
        await asyncio.sleep(STOP_SECONDS)
    await server.close(settings.drain_seconds)


def metrics_path(settings: Settings) -> Path:
    """The folder in which each worker leaves its counts for the others."""
    return own_directory(settings.data_path / "run") / "metrics_app"


def _max_connections() -> int:
    """Return how many connections a worker may hold: fewer than MAX_CONNECTIONS if `ulimit -Hn` is low."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + OTHER_FILES
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


def _watch(
    settings: Settings, producer: BoundedProducer, api: IngestApi, workers: WorkerMetrics, log: Log, parent_pid: int
) -> None:
    """Look after a worker until its main thread ends, then drain. If this fails, the worker ends."""
    heartbeat = Heartbeat(settings, roles.app(settings).name, parent_pid)
    try:
        _keep(settings, producer, api, workers, log, heartbeat, parent_pid)
    except BaseException as error:
        log.error("a thread of this worker has failed; the worker ends, and a new one is started", reason=repr(error))
        os.kill(os.getpid(), signal.SIGTERM)
        threading.main_thread().join(settings.drain_seconds)
        raise
    finally:
        heartbeat.end()
        given_up = producer.drain(settings.drain_seconds)
        workers.publish()
        api.counters.log_if_due(final=True)
        log.info("drained", given_up=given_up, **producer.counts())


def _keep(
    settings: Settings, producer: BoundedProducer, api: IngestApi, workers: WorkerMetrics, log: Log,
    heartbeat: Heartbeat, parent_pid: int,
) -> None:  # fmt: skip
    """Flush by the clock, beat while the worker is ready, and end it when its parent or its producer is gone."""
    acknowledged, progress = 0, time.monotonic()
    ending = False
    main = threading.main_thread()
    while main.is_alive():
        to_flush_seconds = seconds_to_flush(time.time(), settings.linger_ms)
        main.join(min(to_flush_seconds, HEARTBEAT_SECONDS))
        if to_flush_seconds <= HEARTBEAT_SECONDS:
            producer.flush(timeout_seconds=FLUSH_SECONDS)
        now = time.monotonic()
        if producer.buffered == 0 or producer.counts()["acknowledged"] != acknowledged:
            acknowledged, progress = producer.counts()["acknowledged"], now
        was_away, api.broker_away = (
            api.broker_away, not producer.connected or now - progress > BROKER_AWAY_AFTER_SECONDS
        )  # fmt: skip
        if api.broker_away and not was_away:
            log.warning(
                "the broker takes no events", brokers=",".join(settings.bootstrap_servers), waiting=producer.buffered,
                **({"reason": producer.trouble} if producer.trouble else {}),
            )  # fmt: skip
        if was_away and not api.broker_away:
            log.info("the broker takes events again")
        if api.broker_away:
            heartbeat.not_ready(producer.trouble or "the broker takes no events")
        else:
            heartbeat.beat()
        workers.publish()
        api.counters.log_if_due()
        failed = producer.counts()["lost"] or not producer.running
        if not ending and (failed or os.getppid() != parent_pid):
            # After an error that cannot be retried a producer may refuse every record. Without its thread nobody learns
            # what the broker has. An orphan would keep the port from the next app, and nobody would stop it.
            ending = True
            reason = "its producer has failed" if failed else "the app's main process is gone"
            log.error("the worker ends, and a new one is started" if failed else "the worker ends too", reason=reason)
            os.kill(os.getpid(), signal.SIGTERM)
