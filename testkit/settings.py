"""The project's directory, settings, and environments with ports and directories of their own."""

from __future__ import annotations

import os
from pathlib import Path

from emostream.settings import SETTING_NAMES, Settings, load
from testkit.ports import free_port_block

PROJECT_DIR = Path(__file__).resolve().parent.parent


def settings_with(**values: object) -> Settings:
    """The defaults, and these."""
    return load([f"{name}={value}" for name, value in values.items()], environ={})


def bare_environment(**values: object) -> dict[str, str]:
    """This environment without any setting of ours, and these."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTING_NAMES}
    return kept | {"CLUSTER_TOPIC": ""} | {name: str(value) for name, value in values.items()}


def environment_for(data_dir: Path, **settings: object) -> dict[str, str]:
    """An environment with ports and a DATA_DIR of its own, and the jars of the real one."""
    first = free_port_block(100)
    data_dir.mkdir(parents=True, exist_ok=True)
    jars = data_dir / "jars"
    if not jars.exists():
        jars.symlink_to(PROJECT_DIR / ".data" / "jars")
    ours = {
        "DATA_DIR": data_dir,
        "KAFKA_BOOTSTRAP_SERVERS": f"localhost:{first}",
        "APP_PORT": first + 10,
        "PORT": first + 11,
        "SUBSCRIBER_BASE_PORT": first + 20,
        "STREAM_BASE_PORT": first + 50,
        "METRICS_BASE_PORT": first + 90,
    }
    return os.environ | {name: str(value) for name, value in (ours | settings).items()}
