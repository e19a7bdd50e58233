"""EMOJI_TOPIC → one record per emoji per micro-batch on MAIN_TOPIC, each event counted exactly once.

Spark reads, checks and counts (counting.py); one Kafka transaction per micro-batch then holds the batch's counts and
the offsets up to which its events were read. These offsets, in the consumer group GROUP, are the only memory: a start
begins where the last committed transaction ended, so a process that dies anywhere leaves nothing half done
and its Spark checkpoint is thrown away. `kafka-consumer-groups` shows the group's lag like any other's.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass

from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError
from pyspark.errors import PySparkRuntimeError, StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from emostream.aggregate.counting import Batch, count_events, largest, read_records, summarize, totals
from emostream.aggregate.query_metrics import Progress
from emostream.broker import commit, consumer, is_fenced, partitions, transactional_producer
from emostream.metrics.page import Page
from emostream.process import EXIT_FENCED, Heartbeat, Log, StepTimeout, StopFlag, stop_on_signals, within
from emostream.records import encode
from emostream.roles import main_publisher
from emostream.settings import Settings
from emostream.topics import wait_for_topics

GROUP = "main-publisher"
TRANSACTION_SECONDS = 6.0  # takes 20 to 50 ms, or as long as three brokers need to notice that one has died
WARM_UP_BATCHES = 5
WARM_UP_EVENTS = 5_000
POLL_RECORDS = 50_000
FETCH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Positions:
    """Where to go on reading EMOJI_TOPIC: the next offset per partition, and the next batch's number."""

    next_offsets: Mapping[int, int]
    next_batch_id: int


def resume_at(committed: int | None, oldest: int, newest: int) -> int:
    """The offset to go on at: the committed one, or the oldest where that is impossible.

    Behind the oldest, events have expired; beyond the newest, the topic was replaced by one that is shorter yet.
    """
    return committed if committed is not None and oldest <= committed <= newest else oldest


def read_positions(settings: Settings, log: Log) -> Positions:
    """The positions of the last committed transaction; of the oldest events where there is none.

    Events that the broker has deleted before they were read cannot be counted any more: that is said, once.
    """
    reader = consumer(settings, GROUP)
    try:
        all_partitions = partitions(settings.emoji_topic)
        oldest, newest = reader.beginning_offsets(all_partitions), reader.end_offsets(all_partitions)
        next_offsets: dict[int, int] = {}
        next_batch_id = 0
        for tp in all_partitions:
            committed = reader.committed(tp, metadata=True)
            if committed:
                next_batch_id = max(next_batch_id, int(committed.metadata or 0) + 1)
            next_offsets[tp.partition] = resume_at(committed and committed.offset, oldest[tp], newest[tp])
            if committed and next_offsets[tp.partition] != committed.offset:
                log.warning(
                    "cannot go on where the last batch ended; going on at the oldest event there is",
                    topic=tp.topic, partition=tp.partition, ended_at=committed.offset,
                    oldest=oldest[tp], newest=newest[tp],
                )  # fmt: skip
        return Positions(next_offsets, next_batch_id)
    finally:
        reader.close()


class BatchPublisher:
    """Writes each micro-batch as one transaction: its counts and the positions after it, all or nothing."""

    def __init__(self, settings: Settings, progress: Progress, log: Log) -> None:
        self._settings = settings
        self._progress = progress
        self._metrics = progress.metrics
        self._log = log
        self._producer: KafkaProducer = transactional_producer(settings, GROUP)
        self._next_batch_id = 0
        self.fenced = False

    def close(self) -> None:
        """Close the connection; an open transaction is aborted by the next `start`."""
        with contextlib.suppress(KafkaTimeoutError):  # what an open transaction holds is not waited for
            self._producer.close(timeout=0)

    def start(self) -> Positions:
        """Fence any older publisher, end its open transaction, and return the positions that then stand."""
        # In this order: positions read first could be those of a transaction that commits a moment later.
        within(TRANSACTION_SECONDS, "starting transactions", self._producer.init_transactions)
        positions = within(
            TRANSACTION_SECONDS, "reading the positions", lambda: read_positions(self._settings, self._log)
        )
        self._next_batch_id = positions.next_batch_id
        self._progress.next_offsets = positions.next_offsets
        return positions

    def publish(self, read: DataFrame, _spark_batch_id: int) -> None:
        """Count a micro-batch of read_events and commit it; the shape that foreachBatch calls. Raises KafkaError.

        Spark numbers batches from its checkpoint, which is thrown away; ours go on from the last committed one.
        """
        started = time.time()
        by_emoji = count_events(read)
        rows = largest(by_emoji, self._settings.max_emojis_per_batch).collect()
        if not rows:
            return
        more = sum(row["emoji"] is not None for row in rows) > self._settings.max_emojis_per_batch
        # Read once more, which a flood of different emojis costs and nothing else.
        total = totals(by_emoji).collect()[0] if more else None
        counted = time.time()
        batch_id = self._next_batch_id
        batch = summarize(rows, total, batch_id, round(counted * 1000), self._settings)
        try:
            self._commit_in_time(batch_id, batch)
        except (KafkaError, StepTimeout) as error:
            self.fenced = is_fenced(self._producer, error)
            if self.fenced:
                raise
            # Once more in place: a new query would take seconds longer, and a second failure begins one.
            self._log.warning("the transaction failed; trying again", batch_id=batch_id, reason=error)
            self.close()
            self._producer = transactional_producer(self._settings, GROUP)
            if self.start().next_batch_id == batch_id:  # else it was committed, and only the answer did not come
                self._commit_in_time(batch_id, batch)
        self._next_batch_id = batch_id + 1
        self._note(batch, started, counted, time.time())
        events = sum(count.events or 0 for count in batch.counts)
        if batch.bad_records:
            self._log.warning(
                "skipped records that are no events", topic=self._settings.emoji_topic, records=batch.bad_records,
                first_offset_of_each_partition=json.dumps(batch.first_bad_offsets),
            )  # fmt: skip
        if batch.cut_emojis:
            self._log.warning(
                "more emojis than MAX_EMOJIS_PER_BATCH; the rarest were not published",
                batch_id=batch_id, emojis=batch.cut_emojis, events=batch.cut_events,
            )  # fmt: skip
        self._log.info(
            "batch", batch_id=batch_id, events=events, emojis=len(batch.counts),
            bad=batch.bad_records, count_seconds=counted - started, commit_seconds=time.time() - counted,
        )  # fmt: skip

    def _note(self, batch: Batch, started: float, counted: float, committed: float) -> None:
        """Count a batch that was published; the times are Unix seconds."""
        self._progress.next_offsets = {**self._progress.next_offsets, **batch.next_offsets}
        self._progress.emojis = len(batch.counts) + batch.cut_emojis
        for name, number in {
            "batches": 1, "transactions": 1, "counts": len(batch.counts),
            "events": sum(count.events or 0 for count in batch.counts), "bad_records": batch.bad_records,
            "cut_emojis": batch.cut_emojis, "cut_events": batch.cut_events,
        }.items():  # fmt: skip
            self._metrics.add(name, number)
        for name, seconds in {
            "batch": committed - started, "count": counted - started, "publish": committed - counted,
        }.items():  # fmt: skip
            self._metrics.histograms[name].observe(seconds)

    def _commit_in_time(self, batch_id: int, batch: Batch) -> None:
        # kafka-python waits for ever where the coordinator of a transaction dies. A call that is given up here
        # can do no harm: the next producer fences this one before it reads the positions.
        producer = self._producer
        step = f"the transaction of batch {batch_id}"
        try:
            within(TRANSACTION_SECONDS, step, lambda: self._commit(producer, batch_id, batch))
        except (KafkaError, StepTimeout):
            self._metrics.add("transaction_aborts")
            raise

    def _commit(self, producer: KafkaProducer, batch_id: int, batch: Batch) -> None:
        settings = self._settings
        producer.begin_transaction()
        # Keyed by emoji, so that one emoji's counts stay in order on every topic after this one.
        sent = [
            producer.send(settings.main_topic, key=count.emoji.encode(), value=encode(count)) for count in batch.counts
        ]
        offsets = {
            TopicPartition(settings.emoji_topic, partition): OffsetAndMetadata(offset, str(batch_id), -1)
            for partition, offset in batch.next_offsets.items()
        }
        producer.send_offsets_to_transaction(offsets, GROUP)
        commit(producer, sent)


def make_session(settings: Settings) -> SparkSession:
    """A Spark session with the Kafka connector, which spark-submit --packages or DATA_DIR/jars brings."""
    work_dir = settings.data_path / "spark"
    connector = sorted(str(jar) for jar in (settings.data_path / "jars" / "connector").glob("*.jar"))
    builder = (
        SparkSession.builder.appName("emostream-main-publisher")
        .master(settings.spark_master)
        # Each is a task: 200, the default, took 11 s a batch, and a few hundred groups need no more than two.
        .config("spark.sql.shuffle.partitions", 2)
        # Decides between stages how to go on; with two small stages that only costs 40 ms a batch.
        .config("spark.sql.adaptive.enabled", "false")
        # The checkpoint is written before and after each batch. By default each of its files costs the fork of a chmod
        # and of several readlinks, 36 ms in all; so plainly, 7.
        .config("spark.hadoop.fs.file.impl", "org.apache.hadoop.fs.RawLocalFileSystem")
        .config("spark.sql.streaming.checkpoint.fileChecksum.enabled", "false")
        .config(
            "spark.sql.streaming.checkpointFileManagerClass",
            "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager",
        )
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.local.dir", str(work_dir))
        .config("spark.sql.warehouse.dir", str(work_dir / "warehouse"))
        .config("spark.driver.memory", "600m")
        # A batch of 4,000 events leaves 85 MB of garbage. By default there is room for 100, so that most batches
        # waited some 20 ms for it to be collected.
        .config(
            "spark.driver.extraJavaOptions",
            f'-Djava.io.tmpdir="{work_dir}" -XX:+UseSerialGC -XX:NewSize=200m -XX:-UsePerfData',
        )
    )
    if connector:
        builder = builder.config("spark.jars", ",".join(connector))
    work_dir.mkdir(parents=True, exist_ok=True)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("FATAL")  # what ends a query comes back as an exception, with its cause
    return session


def warm_up(session: SparkSession) -> None:
    """Count made-up events a few times, so that the JVM has compiled the way before the first real ones come."""
    event = b'{"user_id": "u", "emoji": "\xf0\x9f\x98\x8a", "timestamp": "2026-01-01T00:00:00+00:00"}'
    for _ in range(WARM_UP_BATCHES):
        records = session.range(WARM_UP_EVENTS).select(
            F.lit(event).alias("value"), F.lit(0).alias("partition"),
            F.col("id").alias("offset"), F.current_timestamp().alias("timestamp"),
        )  # fmt: skip
        largest(count_events(read_records(records)), WARM_UP_EVENTS).collect()


def read_events(session: SparkSession, settings: Settings, next_offsets: Mapping[int, int]) -> DataFrame:
    """EMOJI_TOPIC as a stream of what read_records returns, from these offsets on."""
    starting = {settings.emoji_topic: {str(partition): offset for partition, offset in next_offsets.items()}}
    records = (
        session.readStream.format("kafka")
        .option("kafka.bootstrap.servers", ",".join(settings.bootstrap_servers))
        .option("subscribe", settings.emoji_topic)
        .option("startingOffsets", json.dumps(starting))
        .option("maxOffsetsPerTrigger", settings.max_events_per_batch)
        .option("kafka.isolation.level", "read_committed")
        # After each poll the source asks for the topic's ends, behind a fetch that is under way already and waits for
        # more: 500 ms by default. So polls are to be short and few; the default of 500 records made them many.
        .option("kafka.fetch.max.wait.ms", 1)
        .option("kafka.max.poll.records", POLL_RECORDS)
        .option("kafka.max.partition.fetch.bytes", FETCH_BYTES)
        # A broker that is away is noticed, and waited for, well before the default of 60 s; of three brokers
        # the others have taken over by then.
        .option("kafka.request.timeout.ms", 3_000)
        .option("kafka.default.api.timeout.ms", 5_000)
        .load()
    )
    # Read here and not in each batch: what belongs to the stream is made once, with all its calls into the JVM.
    return read_records(records)


def run(settings: Settings) -> int:
    """Aggregate until SIGTERM or SIGINT, then count what is on the topic and end."""
    log = Log("aggregate")
    stop = stop_on_signals()
    try:
        session = make_session(settings)
    except PySparkRuntimeError as error:
        log.error("Spark did not start; SPARK_MASTER names where, and it needs Java 17 or later",
                  SPARK_MASTER=settings.spark_master, reason=_reason(error))  # fmt: skip
        return 1
    stop.listen()  # again: PySpark has put its own handler for SIGINT in place
    warm_up(session)
    progress = Progress(settings, log)
    session.streams.addListener(progress)
    Page(progress.metrics).serve(settings.bind_host, main_publisher(settings).port, log)
    try:
        while not stop.requested:
            # Only now, so that Spark is warm when a broker that was away comes back.
            if not wait_for_topics(settings, [settings.emoji_topic, settings.main_topic], stop, log):
                break
            publisher = None
            try:
                publisher = BatchPublisher(settings, progress, log)
                _follow(_start_query(session, publisher, settings, log), settings, stop, log)
            except (StreamingQueryException, KafkaError, StepTimeout) as error:
                if publisher and publisher.fenced:
                    log.error("another main publisher has taken over; this one ends")
                    return EXIT_FENCED
                log.error("the query failed; going on after the last committed batch", reason=_reason(error))
            finally:
                if publisher:
                    publisher.close()
    finally:
        session.stop()
    log.info("stopped")
    return 0


def _start_query(session: SparkSession, publisher: BatchPublisher, settings: Settings, log: Log) -> StreamingQuery:
    positions = publisher.start()
    checkpoint = settings.data_path / "checkpoint"
    shutil.rmtree(checkpoint, ignore_errors=True)
    log.info("aggregating", next_offsets=json.dumps(positions.next_offsets), next_batch_id=positions.next_batch_id)
    return (
        read_events(session, settings, positions.next_offsets)
        .writeStream.foreachBatch(publisher.publish)
        .option("checkpointLocation", str(checkpoint))
        .trigger(processingTime=f"{round(settings.batch_seconds * 1000)} milliseconds")
        .start()
    )


def _follow(query: StreamingQuery, settings: Settings, stop: StopFlag, log: Log) -> None:
    """Beat while the query runs; at a stop, let it count what is on the topic. Raises StreamingQueryException."""
    heartbeat = Heartbeat(settings, main_publisher(settings).name)
    while not stop.requested:
        if query.awaitTermination(1):
            return
        heartbeat.beat()
    heartbeat.end()
    try:
        within(settings.drain_seconds + settings.batch_seconds, "counting the rest", query.processAllAvailable)
    except StepTimeout:
        log.warning("stopping before all events were counted; the next start counts them", topic=settings.emoji_topic)
    query.stop()


def _reason(error: Exception) -> str:
    """The innermost cause in an error's text, without the stack around it."""
    lines = str(error).strip().splitlines()
    # What foreachBatch raised in Python ends its traceback; what Java raised is named as the cause.
    causes = [line for line in lines if re.match(r"Caused by: |[\w.]+(Error|Timeout|Exception): ", line)]
    return causes[-1] if causes else (lines[0] if lines else repr(error))
