"""Settings → the Spark session, and EMOJI_TOPIC as a stream of events.

usage: python -m emostream.aggregate.spark        writes the classes of such a session to DATA_DIR/jars/spark.jsa
"""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from emostream.aggregate.counting import count_events, first_rows, read_records
from emostream.aggregate.watch import SparkGone
from emostream.kafka_security import java_options, private_key
from emostream.process import StopFlag, fresh_directory
from emostream.settings import CONFIG_DIR, HOME_DIR, SettingError, Settings, load

# After so many micro-batches one takes a tenth of the first one's time.
WARM_UP_BATCHES = 12
WARM_UP_EVENTS = 500  # in each
WARM_UP_SECONDS = 10.0  # after this no further one begins
CLASS_ARCHIVE = "jars/spark.jsa"  # relative to DATA_DIR, where the JVM starts
POLL_RECORDS = 50_000
FETCH_BYTES = 4 * 1024 * 1024
DEFAULTS_NAME = "spark-defaults.conf"
# An executor whose host is gone is noticed after 30 s, and not after 2 to 3 minutes; and one whose driver is gone ends
# then, which frees its cores for the next driver. Threads of our own JVM need no such limit: a clock that is set
# forward would reach it.
ON_OTHER_HOSTS = (
    "spark.network.timeout 30s",
    "spark.network.timeoutInterval 5s",
    "spark.executor.heartbeatInterval 3s",
    "spark.executor.heartbeat.maxFailures 10",
)
DECRYPT_MODE = 2  # of javax.crypto.Cipher


def make_session(settings: Settings, archive_option: str = "SharedArchiveFile") -> SparkSession:
    """Start Spark as spark-defaults.conf says. Raises PySparkRuntimeError, Py4JJavaError or SettingError.

    Its Kafka connector comes from DATA_DIR/jars, or from spark-submit --packages. `archive_option` is what the JVM does
    with the archive of classes: start from it, or write it when it ends.
    """
    text = session_configuration(settings, archive_option)
    work_dir = settings.data_path / "spark"
    work_dir.mkdir(parents=True, exist_ok=True)
    # In a file, because the arguments of a process are for everyone to see, and spark.authenticate.secret is not.
    file = work_dir / "session.conf"
    file.touch(mode=0o600)
    file.write_text(text, encoding="utf-8")
    os.environ["PYSPARK_SUBMIT_ARGS"] = "--properties-file spark/session.conf pyspark-shell"
    # Otherwise Spark looks up the name of this machine, which need not resolve.
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    before = os.getcwd()
    os.chdir(settings.data_path)  # where the JVM starts
    try:
        jvm: Any = _jvm()
        configuration = SparkConf()
        # If spark-submit has started the JVM, it knows nothing of the file.
        properties = jvm.java.util.Properties()
        properties.load(jvm.java.io.StringReader(text))
        for name in properties.stringPropertyNames():
            configuration.set(name, properties.getProperty(name))
        session = SparkSession.builder.config(conf=configuration).getOrCreate()
    finally:
        os.chdir(before)
    context: Any = session.sparkContext
    context.setLogLevel("FATAL")  # the error that ends a query comes back as an exception anyway
    if not context.master.startswith("local"):
        for jar in (settings.data_path / "jars" / "connector").glob("*.jar"):
            # As a URI: in spark.jars, a comma, %, [ and blanks in a path mean something to Spark.
            context._jsc.addJar(jar.as_uri())
    return session


def session_configuration(settings: Settings, archive_option: str) -> str:
    """Return the text of Spark's own kind of configuration file. Of two lines with one name, the later one counts.

    Raises SettingError.
    """
    lines = [
        f"spark.master {settings.spark_master}",
        f"spark.driver.host {settings.spark_driver_host}",
        f"spark.driver.bindAddress {settings.spark_driver_bind or settings.spark_driver_host}",
        # A batch of 4,000 events leaves 85 MB of garbage. By default there is room for 100 MB, so that most batches
        # waited 20 ms for a collection. An archive that is missing or of other jars is ignored, without a word.
        "spark.driver.defaultJavaOptions -Djava.io.tmpdir=spark -XX:+UseSerialGC -XX:NewSize=200m -XX:-UsePerfData "
        f"-XX:{archive_option}={CLASS_ARCHIVE} -Xlog:cds=off -Xlog:cds+dynamic=off",
    ]
    if not settings.spark_master.startswith("local"):
        lines += ON_OTHER_HOSTS
    for directory in (CONFIG_DIR, HOME_DIR, os.environ.get("SPARK_CONF_DIR", HOME_DIR)):
        path = Path(directory, DEFAULTS_NAME)
        try:
            lines.append(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"{path}: expected a readable file in UTF-8 ({error})") from None
    return "\n".join(lines)


def ended(session: SparkSession) -> bool:
    """Return whether Spark has ended this application, and its queries with it."""
    context: Any = session.sparkContext
    return bool(context._jsc.sc().isStopped())


def executors(session: SparkSession) -> int:
    """Return how many executors Spark has now. The threads of SPARK_MASTER=local are one. Raises SparkGone."""
    context: Any = session.sparkContext
    if ended(session):
        raise SparkGone("Spark has ended this application")
    # The driver is one of them. It counts only where it is the one that works.
    known = context._jsc.sc().getExecutorMemoryStatus().size()
    return int(known) - (not context.master.startswith("local"))


def _jvm() -> Any:
    """Return Spark's JVM, started if it does not run."""
    context: Any = SparkContext
    context._ensure_initialized()
    return context._jvm


def warm_up(session: SparkSession, settings: Settings, stop: StopFlag) -> None:
    """Count made-up events as the query does, so that the JVM has compiled the code before the first real event."""
    deadline = time.monotonic() + WARM_UP_SECONDS
    made_up = (
        session.readStream.format("rate-micro-batch")
        .options(rowsPerBatch=WARM_UP_EVENTS, numPartitions=3)
        .load()
        .select(
            # Not a literal: Spark would run the regex for it once, and not for each event.
            F.concat(
                F.lit('{"user_id":"u'), "value", F.lit('","emoji":"😊","timestamp":"2026-01-01T00:00:00+00:00"}')
            ).cast("binary").alias("value"),
            (F.col("value") % 3).cast("int").alias("partition"), F.col("value").alias("offset"), "timestamp",
        )
    )  # fmt: skip
    warm = threading.Event()

    def count(events: DataFrame, batch_id: int) -> None:
        if batch_id < WARM_UP_BATCHES and time.monotonic() < deadline and not stop.requested:
            first_rows(count_events(events)).collect()
        else:  # the query may be stopped now; in a job, Spark would print a stack overflow of a regular expression
            warm.set()

    query = (
        read_records(made_up)
        .writeStream.foreachBatch(count)
        .option("checkpointLocation", str(new_checkpoint(settings)))
        .trigger(processingTime="0 seconds")
        .start()
    )
    warm.wait(3 * WARM_UP_SECONDS)  # not for ever, if the query fails
    query.stop()


def new_checkpoint(settings: Settings) -> Path:
    """Return the folder in which the next query notes its progress, empty."""
    return fresh_directory(_checkpoint(settings))


def planned_offsets(settings: Settings, spark_batch_id: int) -> dict[int, int]:
    """Return up to where a micro-batch reads each partition. Spark writes it to its checkpoint before the batch."""
    # A line with the version, one with Spark's own notes, and one for each source, of which we have one.
    text = (_checkpoint(settings) / "offsets" / str(spark_batch_id)).read_text(encoding="utf-8")
    (offsets,) = json.loads(text.splitlines()[-1]).values()  # by topic
    return {int(partition): offset for partition, offset in offsets.items()}


def _checkpoint(settings: Settings) -> Path:
    return settings.data_path / "spark" / "checkpoint"


def _open_key(session: SparkSession, settings: Settings) -> str:
    """Return the private key in KAFKA_SSL_KEY in PEM without its password, or "" if there is none.

    Kafka's client for Java does not read the encryption that openssl uses (PBES2). The JVM itself does.
    """
    key = private_key(settings)
    if not key.encrypted:
        return key.pem
    context: Any = session.sparkContext
    jvm, password = context._jvm, settings.kafka_ssl_key_password
    characters = context._gateway.new_array(jvm.char, len(password))
    for place, character in enumerate(password):
        characters[place] = character
    info = jvm.javax.crypto.EncryptedPrivateKeyInfo(key.der)
    parameters = info.getAlgParameters()
    algorithm = parameters.toString().split()[0]  # the name of the algorithm is only PBES2
    secret = jvm.javax.crypto.SecretKeyFactory.getInstance(algorithm).generateSecret(
        jvm.javax.crypto.spec.PBEKeySpec(characters)
    )
    cipher = jvm.javax.crypto.Cipher.getInstance(algorithm)
    cipher.init(DECRYPT_MODE, secret, parameters)
    opened = base64.encodebytes(cipher.doFinal(info.getEncryptedData())).decode()
    return f"-----BEGIN PRIVATE KEY-----\n{opened}-----END PRIVATE KEY-----\n"


def read_events(session: SparkSession, settings: Settings, next_offsets: Mapping[int, int]) -> DataFrame:
    """Return EMOJI_TOPIC from these offsets on, as a stream of what read_records returns."""
    starting = {settings.emoji_topic: {str(partition): offset for partition, offset in next_offsets.items()}}
    connection = java_options(settings, _open_key(session, settings))
    records = (
        session.readStream.format("kafka")
        .options(**{f"kafka.{name}": value for name, value in connection.items()})
        .option("subscribe", settings.emoji_topic)
        .option("startingOffsets", json.dumps(starting))
        .option("maxOffsetsPerTrigger", settings.max_events_per_batch)
        .option("kafka.isolation.level", "read_committed")
        # After each poll the source asks for the end of the topic. The answer has to wait for the fetch that is under
        # way, which by default waits 500 ms for new records. So fetches must be short and polls must be few.
        .option("kafka.fetch.max.wait.ms", 1)
        .option("kafka.max.poll.records", POLL_RECORDS)
        .option("kafka.max.partition.fetch.bytes", FETCH_BYTES)
        # Notice a broker that is away well before the default of 60 s. By then the others of three have taken over.
        .option("kafka.request.timeout.ms", 3_000)
        .option("kafka.default.api.timeout.ms", 5_000)
        .load()
    )
    # Here and not in each batch: the expressions of the stream, with all their calls into the JVM, are made once.
    return read_records(records, with_users=bool(settings.max_taps_per_user))


def write_class_archive(settings: Settings) -> None:
    """Let a JVM load the classes that the query needs, and write them to the archive when it ends."""
    session: Any = make_session(settings, "ArchiveClassesAtExit")
    warm_up(session, settings, StopFlag())
    jvm = session.sparkContext._gateway.proc
    session.stop()
    jvm.stdin.close()  # that is how PySpark tells it to end
    jvm.wait()


if __name__ == "__main__":
    write_class_archive(load())
