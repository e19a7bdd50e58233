"""POST /send-emoji → one record per tap on EMOJI_TOPIC."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

from flask import Flask, Response, jsonify, request
from granian import Granian
from granian.constants import Interfaces
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, UnsupportedMediaType

from emostream import pages
from emostream.broker import BoundedProducer, BufferFull, NotAcknowledged, wait_for_topics
from emostream.directory import Directory
from emostream.records import MAX_BODY_BYTES, InvalidRecord, encode, parse_request
from emostream.runtime import HEARTBEAT_SECONDS, Counters, Heartbeat, Log, bound_socket, start_logging, stop_on_signals
from emostream.settings import Settings

RETRY_AFTER_SECONDS = 1
# Without an acknowledgement for this long while events wait, the broker is away and the app is not ready.
BROKER_AWAY_AFTER_SECONDS = 5.0
# A flush begins this long before a multiple of the linger: time for its request to be answered.
FLUSH_LEAD_SECONDS = 0.06
# With a shorter linger the producer's own timer does; the flushing thread need not turn as often.
SHORTEST_FLUSH_SECONDS = 0.1
FLUSH_SECONDS = 1.0
ORPHAN_SECONDS = 3.0  # until an orphan has noticed that it is one
# One thread runs Python at a time anyway; a second lets one wait for a slow body.
BUSY_THREADS = 2
# With ACK=broker a request holds its thread until the broker has answered, and somebody waits for it.
WAITING_THREADS = 64
WAITED_LINGER_MS = 20
ACK_SECONDS = 10.0


def create_app(producer: BoundedProducer, counters: Counters, wait_seconds: float = 0.0) -> Flask:
    """The HTTP interface; every answer is JSON, every refusal names what was expected and what came."""
    app = Flask("emostream.ingest")
    # Flask refuses a longer Content-Length, but cuts off a chunked body, which has none; the byte more shows that.
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES + 1
    app.json.sort_keys = False  # type: ignore[attr-defined]

    @app.post("/send-emoji")
    def send_emoji() -> tuple[Response, int] | tuple[Response, int, dict[str, str]]:
        """Accept one tap: 200, or 4xx for a bad request, or 503 when the broker does not take events."""
        if request.mimetype != "application/json":
            came = request.mimetype or "none"
            raise UnsupportedMediaType(f"expected Content-Type: application/json, got {came}")
        body = request.get_data()
        if len(body) > MAX_BODY_BYTES:
            raise RequestEntityTooLarge
        try:
            producer.send(encode(parse_request(body)), wait_seconds)
        except InvalidRecord as error:
            counters.add("refused_invalid")
            return jsonify(error=str(error)), 400
        except BufferFull as error:
            counters.add("refused_full")
            return jsonify(error=f"try again: {error}"), 503, {"Retry-After": str(RETRY_AFTER_SECONDS)}
        except NotAcknowledged as error:
            counters.add("not_acknowledged")
            return jsonify(error=f"unknown whether it counts: {error}"), 503, {"Retry-After": str(RETRY_AFTER_SECONDS)}
        counters.add("accepted")
        return jsonify(status="success", message="Emoji sent to Kafka"), 200

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        counters.add("refused_http")
        what = {
            404: f"expected POST /send-emoji, got {request.method} {request.path}",
            405: f"expected {' or '.join(sorted(getattr(error, 'valid_methods', None) or []))}, got {request.method}",
            413: f"expected a body of at most {MAX_BODY_BYTES} bytes, got a larger one",
        }.get(error.code or 0, error.description)
        answer = jsonify(error=what)
        answer.status_code = error.code or 500
        allowed = [header for header in error.get_headers() if header[0] == "Allow"]
        answer.headers.extend(allowed)
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
    # The workers' producers are made after the fork; what they are made by cannot be pickled for a spawn.
    multiprocessing.set_start_method("fork", force=True)
    server = Granian(
        "emostream.ingest",
        address=settings.bind_host,
        port=settings.app_port,
        interface=Interfaces.WSGI,
        workers=settings.app_workers,
        blocking_threads=WAITING_THREADS if settings.ack == "broker" else BUSY_THREADS,
        respawn_failed_workers=True,
        log_enabled=False,
    )
    log.info("listening", address=settings.bind_host, port=settings.app_port, workers=settings.app_workers)
    supervisor_pid = os.getpid()
    server.serve(target_loader=lambda: _start_worker(settings, supervisor_pid), wrap_loader=False)
    log.info("stopped")
    return 0


def _start_worker(settings: Settings, parent_pid: int) -> Flask:
    """Runs once in each worker process, after the fork: a producer's thread does not survive one."""
    start_logging()
    log = Log("ingest", worker=os.getpid())
    waits = settings.ack == "broker"
    linger_ms = min(settings.linger_ms, WAITED_LINGER_MS) if waits else settings.linger_ms
    producer = BoundedProducer(settings, settings.emoji_topic, linger_ms, log)
    counters = Counters(log)
    # Not a daemon: Python waits for this thread before the process ends, which is when it drains.
    threading.Thread(target=_watch, args=(settings, producer, counters, log, parent_pid), name="watch").start()
    app = create_app(producer, counters, ACK_SECONDS if waits else 0.0)
    app.register_blueprint(pages.blueprint(settings, Directory(settings)))
    return app


def seconds_to_flush(now: float, linger_ms: int) -> float:
    """How long from `now`, in Unix seconds, until the next flush: one linger after the other, aligned to the clock.

    Spark's micro-batches start at whole multiples of theirs. A flush that lands just before such a moment saves its
    events the wait for the next batch; left to itself it would land anywhere.
    """
    linger_seconds = max(linger_ms / 1000, SHORTEST_FLUSH_SECONDS)
    return linger_seconds - (now + FLUSH_LEAD_SECONDS) % linger_seconds


def _watch(settings: Settings, producer: BoundedProducer, counters: Counters, log: Log, parent_pid: int) -> None:
    """Flush by the clock, tell that the worker is ready, end it when its parent was killed, and drain at its end."""
    heartbeat = Heartbeat(settings, "app", parent_pid)
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
        was_away, away = away, now - progress > BROKER_AWAY_AFTER_SECONDS
        if away and not was_away:
            log.warning(
                "the broker takes no events", brokers=",".join(settings.bootstrap_servers), waiting=producer.buffered
            )
        if was_away and not away:
            log.info("the broker takes events again")
        if not away:
            heartbeat.beat()
        counters.log_if_due()
        if producer.counts()["lost"] and not failed:
            # kafka-python refuses everything after an error that it cannot retry; a new worker starts anew.
            failed = True
            log.error("this worker's producer has failed; the worker ends, and a new one is started")
            os.kill(os.getpid(), signal.SIGTERM)
        if os.getppid() != parent_pid:
            # An orphan would keep the port from the next app, and nobody would stop it.
            log.error("the app's main process is gone; this worker ends too")
            parent_pid = os.getppid()
            os.kill(os.getpid(), signal.SIGTERM)
    heartbeat.end()
    given_up = producer.drain(settings.drain_seconds)
    counters.log_if_due(final=True)
    log.info("drained", given_up=given_up, **producer.counts())
