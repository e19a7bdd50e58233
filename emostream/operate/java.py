"""JAVA_HOME, PATH and /usr/lib/jvm → the java command for Kafka and Spark, or what is wrong with it.

usage: python -m emostream.operate.java        exit status 1 and one sentence if there is no recent Java

It needs only the standard library, because start.sh calls it before anything is installed.
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
    """Return the java command of JAVA_HOME; if unset, the one on PATH if it is recent, else the newest there is."""
    if home := os.environ.get("JAVA_HOME"):
        return str(Path(home) / "bin" / "java")
    on_path = shutil.which("java")
    if on_path and _major_version(on_path) >= OLDEST:
        return on_path
    others = {str(path): _major_version(str(path)) for path in INSTALLED_HERE.glob("*/bin/java")}
    return max(others, key=lambda path: others[path]) if others else on_path or "java"


def java_environment() -> dict[str, str]:
    """Return variables for a process: they name the Java that it and Spark use, and make file names UTF-8."""
    command = Path(java())
    home = {"JAVA_HOME": str(command.parent.parent)} if command.is_relative_to(INSTALLED_HERE) else {}
    return {"JAVA": str(command), "LC_ALL": "C.UTF-8"} | home


def java_problem() -> str | None:
    """Return one sentence that says what to do if there is no recent Java."""
    command = java()
    version = _major_version(command)
    if version >= OLDEST:
        return None
    found = f"is Java {version}" if version else "does not run as Java"
    if home := os.environ.get("JAVA_HOME"):
        return f"JAVA_HOME={home} holds no Java {OLDEST} or later, which Kafka and Spark need: {command} {found}."
    found = f"{command} {found}" if shutil.which(command) else "there is no Java"
    return f"Java {OLDEST} or later is needed, and {found}. {HOW_TO_INSTALL}"


def version_text(command: str) -> str:
    """Return what `java -version` says; empty if it fails."""
    try:
        shown = subprocess.run([command, "-version"], capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return shown.stderr if shown.returncode == 0 else ""


def _major_version(command: str) -> int:
    """Return 17 for Java 17, 8 for 1.8, and 0 for another program."""
    version = re.search(r'version "(?:1\.)?(\d+)', version_text(command))
    return int(version[1]) if version else 0


if __name__ == "__main__":
    sys.exit(java_problem())
