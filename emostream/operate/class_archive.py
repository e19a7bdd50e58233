"""Spark's classes → DATA_DIR/jars/spark.jsa, from which its JVM starts with a fifth less work than from the jars.

Java calls this class data sharing. If an archive is of another Java or of other jars, the JVM ignores it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from emostream.operate.java import java, java_environment, version_text
from emostream.operate.terminal import run_step, say
from emostream.process import own_directory
from emostream.settings import PROJECT_DIR, Settings

MAKING = "preparing Spark, so that it starts sooner"


def ensure_class_archive(settings: Settings) -> None:
    """Make the archive, once for each version of Java and of the jars. Spark also starts without it."""
    jars = settings.data_path / "jars"
    if not (jars / "connector").is_dir():
        return  # Spark gets its connector from elsewhere, and Java archives only what it finds in the same place again
    made_of, wanted = jars / "spark.jsa.txt", _made_of(jars)
    if made_of.exists() and made_of.read_text() == wanted:
        return
    log = own_directory(settings.data_path / "log") / "class_archive.log"
    command = [sys.executable, "-m", "emostream.aggregate.spark"]
    if not run_step(MAKING, command, PROJECT_DIR, settings.environment | java_environment(), log):
        say(f"  {MAKING}: failed, see {log}. Spark works without, and starts some seconds later.")
    made_of.write_text(wanted)


def _made_of(jars: Path) -> str:
    """The version of Java, and when the jars of Spark and of its connector were installed."""
    pyspark = find_spec("pyspark")  # does not import it, which takes a second
    folders = [Path(pyspark.origin).parent / "jars"] if pyspark and pyspark.origin else []
    return version_text(java()) + "".join(f"{path.stat().st_mtime_ns}\n" for path in (*folders, jars / "connector"))
