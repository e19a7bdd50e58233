"""The main publisher's process: one query after another, until it is stopped or another publisher takes over."""

from __future__ import annotations

import json
import re
import time

from kafka.errors import KafkaError
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkRuntimeError, StreamingQueryException
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from emostream.aggregate.publisher import GROUP, BatchPublisher
from emostream.aggregate.query_metrics import QueryMetrics
from emostream.aggregate.spark import ended, executors, make_session, new_checkpoint, read_events, warm_up
from emostream.aggregate.watch import QueryWatch, SparkGone, Stalled
from emostream.http.metrics_port import serve_metrics
from emostream.metrics.page import MetricsPage
from emostream.process import (
    EXIT_FENCED,
    EXIT_STUCK,
    Heartbeat,
    Log,
    StepTimeout,
    StopFlag,
    end_at_once,
    stop_on_signals,
    within,
)
from emostream.roles import main_publisher
from emostream.settings import Settings
from emostream.topics import wait_for_topics

STOP_SECONDS = 10.0


class TopicMadeAnew(Exception):
    """The topic that a query reads is gone, and there is another one of its name, whose offsets start over."""


def run(settings: Settings) -> int:
    """Count events until SIGTERM or SIGINT, then count the rest of the topic. Return the exit status."""
    log = Log("aggregate")
    stop = stop_on_signals()
    try:
        session = make_session(settings)
    except (PySparkRuntimeError, Py4JJavaError) as error:
        log.error("Spark did not start; SPARK_MASTER names where, and it needs Java 17 or later",
                  SPARK_MASTER=settings.spark_master, SPARK_DRIVER_HOST=settings.spark_driver_host,
                  reason=_reason(error))  # fmt: skip
        return 1
    stop.listen()  # again, because PySpark has put its own handler of SIGINT in place
    warm_up(session, settings, stop)
    query_metrics = QueryMetrics(settings, log)
    serve_metrics(MetricsPage(query_metrics.metrics), settings, main_publisher(settings), log)
    needs = {settings.emoji_topic: "READ", settings.main_topic: "WRITE"}
    watch = QueryWatch(settings.batch_seconds, settings.spark_master.startswith("spark://"))
    heartbeat = Heartbeat(settings, main_publisher(settings).name)
    try:
        while not stop.requested:
            # Wait only now, so that Spark is warm when a broker that was away comes back.
            if not wait_for_topics(settings, needs, stop, log, heartbeat.not_ready, GROUP):
                break
            executors(session)  # raises SparkGone where a query could not start
            publisher = query = None
            try:
                publisher = BatchPublisher(settings, query_metrics, log)
                query = _start_query(session, publisher, settings, log)
                watch.begin(time.monotonic())
                _follow(session, query, watch, query_metrics, heartbeat, stop)
                if stop.requested:
                    heartbeat.end()
                    _count_the_rest(query, settings, log)
            except (StreamingQueryException, KafkaError, StepTimeout, Stalled, TopicMadeAnew) as error:
                if publisher and publisher.fenced:
                    log.error("another main publisher has taken over; this one ends")
                    return EXIT_FENCED
                reason, pause_seconds = _reason(error), watch.pause_seconds()
                log.error("the query failed; going on after the last committed batch",
                          reason=reason, pause_seconds=pause_seconds)  # fmt: skip
                heartbeat.not_ready(f"the query failed: {reason}")
                stop.wait(pause_seconds)
            finally:
                if query and not ended(session):
                    within(STOP_SECONDS, "stopping the query", query.stop)
                if publisher:
                    publisher.close()
    except (StepTimeout, SparkGone) as error:
        log.error(f"{error}; this process ends so that a successor goes on")
        end_at_once(EXIT_STUCK)
    finally:
        session.stop()
    log.info("stopped")
    return 0


def _start_query(session: SparkSession, publisher: BatchPublisher, settings: Settings, log: Log) -> StreamingQuery:
    positions = publisher.start()
    checkpoint = new_checkpoint(settings)
    log.info("aggregating", next_offsets=json.dumps(positions.next_offsets), next_batch_id=positions.next_batch_id)
    return (
        read_events(session, settings, positions.next_offsets)
        .writeStream.foreachBatch(publisher.publish)
        .option("checkpointLocation", str(checkpoint))
        .trigger(processingTime=f"{round(settings.batch_seconds * 1000)} milliseconds")
        .start()
    )


def _follow(
    session: SparkSession, query: StreamingQuery, watch: QueryWatch, query_metrics: QueryMetrics, heartbeat: Heartbeat,
    stop: StopFlag,
) -> None:  # fmt: skip
    """Say whether the query does its work, until a stop is requested.

    Raises StreamingQueryException, Stalled, TopicMadeAnew or SparkGone.
    """
    while not stop.requested and not query.awaitTermination(1):
        progress, status = query.lastProgress, query.status
        query_metrics.take(progress)
        query_metrics.measure()
        if query_metrics.made_anew:
            raise TopicMadeAnew("the topic of events was made anew; reading it from its beginning")
        if not executors(session):
            heartbeat.not_ready(watch.without_executors(time.monotonic()))
            continue
        trouble = watch.trouble(
            time.monotonic(), query_metrics.lag, progress.batchId if progress else None,
            status["isTriggerActive"], status["message"],
        )  # fmt: skip
        heartbeat.not_ready(trouble or "")


def _count_the_rest(query: StreamingQuery, settings: Settings, log: Log) -> None:
    try:
        within(settings.drain_seconds + settings.batch_seconds, "counting the rest", query.processAllAvailable)
    except StepTimeout:
        log.warning("stopping before all events were counted; the next start counts them", topic=settings.emoji_topic)


def _reason(error: Exception) -> str:
    """Return the innermost cause in an error's text, without the stack around it."""
    lines = str(error).strip().splitlines()
    # An error that foreachBatch raised in Python is at the end of a traceback. Java names its causes.
    causes = [line for line in lines if re.match(r"Caused by: |[\w.]+(Error|Timeout|Exception): ", line)]
    return causes[-1] if causes else (lines[0] if lines else repr(error))
