"""A cluster of Spark's own: a master and workers, as ordinary processes of what PySpark brings."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyspark

from emostream.operate.java import java_environment
from testkit.hosts import Host
from testkit.ports import free_port_block
from testkit.scripts import Script, running
from testkit.waiting import wait_until

LOOPBACK = "127.0.0.1"
START_SECONDS = 180.0


@contextmanager
def daemon(environment: Mapping[str, str], host: Host | None, name: str, *arguments: str) -> Iterator[Script]:
    """A daemon of Spark, on a host or on loopback, ended with its executors at the end of the block."""
    home = Path(pyspark.__file__).parent
    address = host.address if host else LOOPBACK
    command = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", "--host", address, *arguments]
    own = {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": address, "SPARK_DAEMON_MEMORY": "300m"}
    with running(host.command(*command) if host else command, {**environment, **java_environment(), **own}) as found:
        yield found


class Master:
    """Spark's master, and how workers join it."""

    def __init__(self, environment: Mapping[str, str], host: Host | None = None, port: int = 0) -> None:
        self.environment, self.host = environment, host
        self.address = host.address if host else LOOPBACK
        self.port = port or free_port_block(2)
        self.url = f"spark://{self.address}:{self.port}"

    @contextmanager
    def running(self) -> Iterator[Script]:
        ports = "--port", str(self.port), "--webui-port", str(self.port + 1)
        with daemon(self.environment, self.host, "master.Master", *ports) as found:
            wait_until("Spark's master answers", lambda: self.state() is not None, START_SECONDS)
            yield found

    def state(self) -> dict[str, Any] | None:
        """What the master says of its workers and applications; None if it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{self.address}:{self.port + 1}/json/", timeout=5) as answer:
                return dict(json.load(answer))
        except (OSError, ValueError):
            return None

    def workers(self) -> set[str]:
        """The ids of the workers that are alive, as the master sees it. It may see one for a while that has died."""
        return {one["id"] for one in (self.state() or {"workers": []})["workers"] if one["state"] == "ALIVE"}

    def end_applications(self) -> None:
        """End every application, as an operator may do on the master's page."""
        for application in (self.state() or {"activeapps": []})["activeapps"]:
            form = f"id={application['id']}&terminate=true".encode()
            urllib.request.urlopen(f"http://{self.address}:{self.port + 1}/app/kill/", form, timeout=10).close()

    @contextmanager
    def worker(self, host: Host | None = None, cores: int = 1, name: str = "worker") -> Iterator[Script]:
        """A worker that has joined the master."""
        directory = str(Path(self.environment["DATA_DIR"]) / f"spark-{name}")
        before = self.workers()
        options = "--cores", str(cores), "--memory", "1g", "--webui-port", "0", "--work-dir", directory
        with daemon(self.environment, host, "worker.Worker", *options, self.url) as found:
            wait_until("the worker has joined", lambda: self.workers() - before, START_SECONDS)
            yield found
