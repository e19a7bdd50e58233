"""POST /send-emoji, POST /send-emojis → one record per event on EMOJI_TOPIC: the Flask app, and its processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

from flask import Flask, Response, request
from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, Unauthorized, UnsupportedMediaType

from emostream import dashboard, pages
from emostream.bounded_producer import BoundedProducer
from emostream.directory import Directory
from emostream.fastpath import FastPath
from emostream.gate import preflight
from emostream.intake import (
    ACK_SECONDS,
    JSON,
    LIVE,
    NDJSON,
    OPENAPI,
    UNACKNOWLEDGED,
    Answer,
    Intake,
    said,
)
from emostream.meters import CONTENT_TYPE, Metrics, Page, Workers
from emostream.metrics import INGEST
from emostream.records import MAX_BATCH_BODY_BYTES, MAX_BODY_BYTES
from emostream.runtime import HEARTBEAT_SECONDS, Heartbeat, Log, bound_socket, start_logging, stop_on_signals
from emostream.settings import Settings
from emostream.supervise import Supervised
from emostream.topics import wait_for_topics

# Without an acknowledgement for this long while events wait, the broker is away and the app is not ready.
BROKER_AWAY_AFTER_SECONDS = 5.0
# A flush begins this long before a multiple of the linger: time until a consumer can read it, 4 to 19 ms at 2,000
# events/s.
FLUSH_LEAD_SECONDS = 0.03
# With a shorter linger the producer's own timer does; the flushing thread need not turn as often.
SHORTEST_FLUSH_SECONDS = 0.1
# What comes meanwhile does not linger, which costs small batches; the broker needs some milliseconds.
FLUSH_SECONDS = 0.05
ORPHAN_SECONDS = 3.0  # until an orphan has noticed that it is one
WAITED_LINGER_MS = 20  # with ACK=broker, where somebody waits for the answer
# Open connections that a worker holds at most, mostly idle ones of phones; those beyond wait until one closes.
MAX_CONNECTIONS = 8_192
OTHER_FILES = 64
IDLE_CONNECTION_MS = 30_000
# Objects that a worker makes beyond those it frees before Python looks for garbage among them. A request in hand is
# some twenty and leaves no garbage; were it 700, as it is by default, then with thousands of requests in hand a sixth
# of a worker's time would go into looking at them again and again.
NEW_OBJECTS = 50_000


def create_app(intake: Intake, page: Page) -> Flask:
    """The HTTP interface; every answer is JSON, every refusal names what was expected and what came."""
    app = Flask("emostream.ingest", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    gate = intake.gate

    @app.post("/send-emoji")
    def send_emoji() -> Response:
        """Accept one tap: 200, or 4xx for a bad request, or 503 when the broker does not take events."""
        return settled(*intake.tap(body(MAX_BODY_BYTES, JSON), sender()))

    @app.post("/send-emojis")
    def send_emojis() -> Response:
        """Accept the good ones of up to 1,000 events: 200, or 4xx or 503 when none was taken."""
        data = body(MAX_BATCH_BODY_BYTES, JSON, NDJSON)
        return settled(*intake.batch(data, request.mimetype == NDJSON, sender()))

    @app.get("/livez")
    def livez() -> Response:
        """200 as long as there is no need to end this process."""
        return response(LIVE)

    @app.get("/readyz")
    def readyz() -> Response:
        """200 when events can be taken, 503 while the broker is away."""
        return response(intake.ready())

    @app.get("/metrics")
    def metrics() -> Response:
        """What all workers have counted, and how the processes of ./start.sh are, as Prometheus reads it."""
        return Response(page.text(), content_type=CONTENT_TYPE)

    @app.get("/openapi.json")
    def openapi() -> Response:
        """The calls here, as OpenAPI 3.1 describes it."""
        return Response(OPENAPI, mimetype=JSON)

    def body(max_bytes: int, *media: str) -> bytes:
        """The body of a request that may send, and says that it sends this. Raises HTTPException."""
        if not gate.admits(request.headers.get("Authorization"), request.headers.get("X-API-Key")):
            raise Unauthorized(
                "expected the API key as Authorization: Bearer KEY or X-API-Key: KEY, got another or none",
                www_authenticate=WWWAuthenticate("bearer"),
            )
        if request.mimetype not in media:
            came = request.mimetype or "none"
            raise UnsupportedMediaType(f"expected Content-Type: {' or '.join(media)}, got {came}")
        # Flask refuses a longer Content-Length, but cuts off a chunked body, which has none; the byte more shows that.
        request.max_content_length = max_bytes + 1
        try:
            data = request.get_data()
        except RequestEntityTooLarge:
            data = None
        if data is None or len(data) > max_bytes:
            raise RequestEntityTooLarge(f"expected a body of at most {max_bytes} bytes, got a larger one")
        return data

    def sender() -> str:
        return gate.address(request.remote_addr or "", request.headers.get("X-Forwarded-For"))

    def settled(answer: Answer, done: Future[None] | None) -> Response:
        try:
            if done:
                done.result(ACK_SECONDS)
        except FutureTimeout:
            intake.counters.add("not_acknowledged")
            return response(UNACKNOWLEDGED)
        return response(answer)

    def response(answer: Answer) -> Response:
        return Response(answer.body, answer.status, dict(answer.headers), mimetype=JSON)

    @app.after_request
    def allow_origins(answer: Response) -> Response:
        if request.blueprint == dashboard.NAME:
            return answer  # where clients are, and what the system does, is not for other people's pages
        answer.headers.extend(gate.cors.headers(request.headers.get("Origin")))
        if request.method == "OPTIONS":
            answer.headers.extend(preflight(answer.headers.get("Allow", "")))
        return answer

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        intake.counters.add("refused_http")
        what = {
            404: f"expected POST /send-emoji or what else /openapi.json names, got {request.method} {request.path}",
            405: f"expected {' or '.join(sorted(getattr(error, 'valid_methods', None) or []))}, got {request.method}",
        }.get(error.code or 0, error.description or "")
        answer = response(said(error.code or 500, what))
        kept = [header for header in error.get_headers() if header[0] in ("Allow", "WWW-Authenticate")]
        answer.headers.extend(kept)
        return answer

    return app


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; what was accepted goes out before the process ends."""
    log = Log("ingest")
    stop = stop_on_signals()
    if not wait_for_topics(settings, [settings.emoji_topic], stop, log):
        return 0
    # Granian shares its port with whoever listens on it already; this says so instead.
    # Workers whose main process was killed hold the port until they have drained.
    bound_socket(settings.bind_host, settings.app_port, "APP_PORT", settings.drain_seconds + ORPHAN_SECONDS).close()
    shutil.rmtree(_metrics_path(settings), ignore_errors=True)  # what an app of before had counted
    # The workers' producers are made after the fork; what they are made by cannot be pickled for a spawn.
    multiprocessing.set_start_method("fork", force=True)
    server = Granian(
        "emostream.ingest",
        address=settings.bind_host,
        port=settings.app_port,
        interface=Interfaces.RSGI,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=IDLE_CONNECTION_MS),
        websockets=False,
        workers=settings.app_workers,
        backpressure=_connections(),
        respawn_failed_workers=True,
        log_enabled=False,
    )
    log.info("listening", address=settings.bind_host, port=settings.app_port, workers=settings.app_workers)
    supervisor_pid = os.getpid()
    server.serve(target_loader=lambda: _start_worker(settings, supervisor_pid), wrap_loader=False)
    log.info("stopped")
    return 0


def _connections() -> int:
    """How many connections a worker may hold: MAX_CONNECTIONS, unless the system allows this user fewer files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + OTHER_FILES
    files = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files - OTHER_FILES


def _start_worker(settings: Settings, parent_pid: int) -> Any:  # granian's types know functions only
    """Runs once in each worker process, after the fork: a producer's threads do not survive one."""
    # Until Granian listens for it, the handler that was inherited would swallow the signal, and the app never end.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    start_logging(settings.log_format)
    log = Log("ingest", worker=os.getpid())
    waits = settings.ack == "broker"
    linger_ms = min(settings.linger_ms, WAITED_LINGER_MS) if waits else settings.linger_ms
    producer = BoundedProducer(settings, settings.emoji_topic, linger_ms, receipts=waits, log=log)
    counters = Metrics(log, INGEST)
    intake = Intake(settings, producer, counters)
    workers = Workers(_metrics_path(settings), counters)
    app = create_app(intake, Page(workers, Supervised(settings), pid=parent_pid))
    directory = Directory(settings)
    app.register_blueprint(pages.blueprint(settings, directory))
    app.register_blueprint(dashboard.blueprint(settings, directory, Page(workers, pid=parent_pid).text))
    fast_path = FastPath(intake, app, settings.max_concurrent_requests, log)
    counters.read(
        in_flight=lambda: fast_path.in_flight,
        buffered=lambda: producer.buffered,
        broker_away=lambda: intake.broker_away,
        produced=lambda: producer.counts()["acknowledged"],
        send_errors=lambda: producer.counts()["lost"],
        received=intake.received,
    )
    # Not a daemon: Python waits for this thread before the process ends, which is when it drains.
    threading.Thread(target=_watch, args=(settings, producer, intake, workers, log, parent_pid), name="watch").start()
    gc.freeze()  # what there is by now, stays
    gc.set_threshold(NEW_OBJECTS)
    return fast_path


def _metrics_path(settings: Settings) -> Path:
    """Where each worker leaves its numbers for the others."""
    return settings.data_path / "run" / "metrics_app"


def seconds_to_flush(now: float, linger_ms: int) -> float:
    """How long from `now`, in Unix seconds, until the next flush: one linger after the other, aligned to the clock.

    Spark's micro-batches start at whole multiples of theirs. A flush that lands just before such a moment saves its
    events the wait for the next batch; left to itself it would land anywhere.
    """
    linger_seconds = max(linger_ms / 1000, SHORTEST_FLUSH_SECONDS)
    return linger_seconds - (now + FLUSH_LEAD_SECONDS) % linger_seconds


def _watch(
    settings: Settings, producer: BoundedProducer, intake: Intake, workers: Workers, log: Log, parent_pid: int
) -> None:
    """Keep a worker going until its main thread ends, or end it where this fails; then drain."""
    heartbeat = Heartbeat(settings, "app", parent_pid)
    try:
        _keep(settings, producer, intake, workers, log, heartbeat, parent_pid)
    except BaseException as error:
        log.error("a thread of this worker has failed; the worker ends, and a new one is started", reason=repr(error))
        os.kill(os.getpid(), signal.SIGTERM)
        threading.main_thread().join(settings.drain_seconds)
        raise
    finally:
        heartbeat.end()
        given_up = producer.drain(settings.drain_seconds)
        workers.publish()
        intake.counters.log_if_due(final=True)
        log.info("drained", given_up=given_up, **producer.counts())


def _keep(
    settings: Settings, producer: BoundedProducer, intake: Intake, workers: Workers, log: Log, heartbeat: Heartbeat,
    parent_pid: int,
) -> None:  # fmt: skip
    """Flush by the clock, tell that the worker is ready, and end it when its parent or its producer is gone."""
    acknowledged, progress = 0, time.monotonic()
    away = failed = False
    main = threading.main_thread()
    while main.is_alive():
        to_flush_seconds = seconds_to_flush(time.time(), settings.linger_ms)
        main.join(min(to_flush_seconds, HEARTBEAT_SECONDS))
        if to_flush_seconds <= HEARTBEAT_SECONDS:
            producer.flush(timeout_seconds=FLUSH_SECONDS)
        now = time.monotonic()
        if producer.buffered == 0 or producer.counts()["acknowledged"] != acknowledged:
            acknowledged, progress = producer.counts()["acknowledged"], now
        was_away, away = away, not producer.connected or now - progress > BROKER_AWAY_AFTER_SECONDS
        intake.broker_away = away
        if away and not was_away:
            log.warning(
                "the broker takes no events", brokers=",".join(settings.bootstrap_servers), waiting=producer.buffered
            )
        if was_away and not away:
            log.info("the broker takes events again")
        if not away:
            heartbeat.beat()
        workers.publish()
        intake.counters.log_if_due()
        if not failed and (producer.counts()["lost"] or not producer.running):
            # After an error that cannot be retried a producer may refuse everything, and without its thread nobody is
            # told of what the broker has; a new worker starts anew.
            failed = True
            log.error("this worker's producer has failed; the worker ends, and a new one is started")
            os.kill(os.getpid(), signal.SIGTERM)
        if os.getppid() != parent_pid:
            # An orphan would keep the port from the next app, and nobody would stop it.
            log.error("the app's main process is gone; this worker ends too")
            parent_pid = os.getppid()
            os.kill(os.getpid(), signal.SIGTERM)
