"""Maven Central → DATA_DIR/jars: the Kafka broker, and Spark's connector to Kafka. The Ivy in pyspark fetches them."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from emostream.operate.java import java
from emostream.operate.terminal import OperatingError, ProgressLine, say
from emostream.settings import CONFIG_DIR, Settings

IVY_FILE = CONFIG_DIR / "ivy.xml"
SHOWN_LOG_LINES = 15
NETWORK_WORDS = ("connection", "resolve", "timed out", "unreachable")
WHAT = "fetching the Kafka broker and Spark's connector"


def ensure_jars(settings: Settings) -> None:
    """Fetch the jars unless those that config/ivy.xml names are there. Raises OperatingError."""
    jars = settings.data_path / "jars"
    # The copy of ivy.xml comes last, so whoever finds it there finds all that it names.
    if (jars / IVY_FILE.name).exists() and (jars / IVY_FILE.name).read_bytes() == IVY_FILE.read_bytes():
        return
    partial = jars.with_name("jars.partial")
    for incomplete in (jars, partial):
        shutil.rmtree(incomplete, ignore_errors=True)
    partial.mkdir(parents=True)
    log = settings.data_path / "log" / "ivy.log"
    log.parent.mkdir(exist_ok=True)
    _fetch(partial, log)
    shutil.rmtree(partial / "cache")
    partial.rename(jars)
    shutil.copy(IVY_FILE, jars)


def _fetch(directory: Path, log: Path) -> None:
    command = [
        java(), "-jar", str(_ivy_jar()), "-ivy", str(IVY_FILE),
        # A cache of its own: Ivy fails on one that others have half filled.
        "-cache", str(directory / "cache"),
        "-retrieve", f"{directory}/[conf]/[artifact]-[revision](-[classifier]).[ext]",
    ]  # fmt: skip
    with (
        ProgressLine() as line,
        log.open("w") as output,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as running,
    ):
        try:
            while running.poll() is None:
                line.show(f"{WHAT}: {line.seconds} s, {_megabytes(directory)} MB")
                time.sleep(0.2)
        finally:
            running.terminate()
    if running.returncode != 0:
        raise OperatingError(_failure(log))
    say(f"  {WHAT}: done in {line.seconds} s")


def _ivy_jar() -> Path:
    pyspark = find_spec("pyspark")  # does not import it, which takes a second
    if pyspark is None or pyspark.origin is None:
        raise OperatingError("pyspark is not installed: install EmoStream with what it requires")
    return next((Path(pyspark.origin).parent / "jars").glob("ivy-2*.jar"))


def _megabytes(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with suppress(OSError):  # Ivy has moved it meanwhile
            total += path.stat().st_size
    return total // 1_000_000


def _failure(log: Path) -> str:
    text = log.read_text(errors="replace")
    shown = "\n".join(f"    {line}" for line in text.splitlines()[-SHOWN_LOG_LINES:])
    if "No space left" in text:
        cause = f"the disk of {log.parent.parent} is full. Make room, then run this again."
    elif any(word in text.lower() for word in NETWORK_WORDS):
        cause = f"the download did not come through. Check the network or proxy, then run this again. Log: {log}"
    else:
        cause = f"see {log}. Mend the cause, then run this again."
    return f"{shown}\n{WHAT} failed: {cause}"
