"""JAVA_HOME or PATH → the java command that Kafka and Spark run on, and whether it is recent enough.

usage: python -m emostream.operate.java        exit status 1 and one sentence if there is no such Java

Needs nothing but the standard library: start.sh calls it before anything is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = 17
HOW_TO_INSTALL = (
    "Debian, Ubuntu: sudo apt-get install openjdk-17-jre-headless. "
    "Fedora: sudo dnf install java-17-openjdk-headless. macOS: brew install openjdk@17"
)


def java() -> str:
    """Return the java command, the one that Spark finds too."""
    home = os.environ.get("JAVA_HOME")
    return str(Path(home) / "bin" / "java") if home else shutil.which("java") or "java"


def java_problem() -> str | None:
    """Return one sentence that says what to do if there is no recent Java."""
    if _major_version() >= OLDEST:
        return None
    if home := os.environ.get("JAVA_HOME"):
        return f"JAVA_HOME={home} holds no Java {OLDEST} or later, which Kafka and Spark need. Change it, or unset it."
    return f"Java {OLDEST} or later is needed and was not found. Install it, then run this again. {HOW_TO_INSTALL}"


def _major_version() -> int:
    try:
        shown = subprocess.run([java(), "-version"], capture_output=True, text=True).stderr
    except OSError:
        return 0
    version = re.search(r'version "(\d+)', shown)
    return int(version[1]) if version else 0


if __name__ == "__main__":
    sys.exit(java_problem())
