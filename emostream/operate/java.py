"""JAVA_HOME, PATH or /usr/lib/jvm → the java command that Kafka and Spark run on, or what is wrong with it.

usage: python -m emostream.operate.java        exit status 1 and one sentence if there is no recent Java

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
INSTALLED_HERE = Path("/usr/lib/jvm")
HOW_TO_INSTALL = (
    f"Install Java {OLDEST} or later, then run this again. Debian, Ubuntu: sudo apt-get install default-jre-headless. "
    "Fedora: sudo dnf install java-latest-openjdk-headless"
)


def java() -> str:
    """Return the java command: that of JAVA_HOME; else that on PATH if it is recent; else the newest there is."""
    if home := os.environ.get("JAVA_HOME"):
        return str(Path(home) / "bin" / "java")
    on_path = shutil.which("java")
    if on_path and _major_version(on_path) >= OLDEST:
        return on_path
    others = {str(path): _major_version(str(path)) for path in INSTALLED_HERE.glob("*/bin/java")}
    return max(others, key=lambda path: others[path]) if others else on_path or "java"


def java_environment() -> dict[str, str]:
    """Return the variables that make a process and its Spark use the same Java, with file names in UTF-8."""
    command = Path(java())
    home = {"JAVA_HOME": str(command.parent.parent)} if command.is_relative_to(INSTALLED_HERE) else {}
    return {"JAVA": str(command), "LC_ALL": "C.UTF-8"} | home


def java_problem() -> str | None:
    """Return one sentence that says what to do if there is no recent Java."""
    command = java()
    version = _major_version(command)
    if version >= OLDEST:
        return None
    if home := os.environ.get("JAVA_HOME"):
        found = f"it has Java {version}" if version else "its bin/java does not run"
        return f"JAVA_HOME={home} holds no Java {OLDEST} or later, as Kafka and Spark need: {found}. Change it."
    if not shutil.which(command):
        return f"Java {OLDEST} or later is needed, and there is no Java. {HOW_TO_INSTALL}"
    if not version:
        return f"Java {OLDEST} or later is needed, and {command} does not run as Java. {HOW_TO_INSTALL}"
    return f"Java {OLDEST} or later is needed, and {command} is Java {version}. {HOW_TO_INSTALL}"


def _major_version(command: str) -> int:
    """Return 17 for Java 17, 8 for 1.8, and 0 for what is no Java."""
    try:
        shown = subprocess.run([command, "-version"], capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    version = re.search(r'version "(?:1\.)?(\d+)', shown.stderr)
    return int(version[1]) if version and shown.returncode == 0 else 0


if __name__ == "__main__":
    sys.exit(java_problem())
