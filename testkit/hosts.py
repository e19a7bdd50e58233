"""Hosts of a network of their own: namespaces on a bridge of this machine. Needs root, and iproute2.

A process that `Host.command` runs has its own loopback and one address. It shares the files of this machine, which is
on the bridge, too. A cut takes a host off the bridge: packets vanish, as when somebody pulls a cable.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from testkit.settings import environment_for

CLONE_NEWNET = 0x40000000  # <linux/sched.h>; os.setns knows it from Python 3.12 on
NET = "10.213.77"
HERE = f"{NET}.1"  # this machine, on the bridge


@dataclass(frozen=True)
class Host:
    """A host, cut off or not."""

    name: str
    address: str
    namespace: str
    cable: str  # its end at the bridge
    bridge: str

    def command(self, *command: str) -> list[str]:
        """What runs a command on this host, in a process with the id that Popen returns."""
        return ["ip", "netns", "exec", self.namespace, *command]

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread use the network of this host; so do the threads and processes that it starts meanwhile."""
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self.namespace}") as here:
            _use_network(here.fileno())
            try:
                yield
            finally:
                _use_network(before.fileno())

    def cut(self) -> None:
        """Let every packet to and from this host vanish."""
        ip("link", "set", self.cable, "nomaster")

    def heal(self) -> None:
        """Join the host to the others again."""
        ip("link", "set", self.cable, "master", self.bridge)

    def pids(self) -> list[int]:
        """Every process on this host."""
        return [int(pid) for pid in ip("netns", "pids", self.namespace).split()]

    def kill(self) -> None:
        """SIGKILL every process on this host."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _use_network(descriptor: int) -> None:
    """setns(2). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def ip(*arguments: str) -> str:
    """Run iproute2. AssertionError with its words if it fails, which it does without root."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()} (root may, on Linux with iproute2)"
    return done.stdout


def environment_here(**settings: object) -> dict[str, str]:
    """An environment in a new directory, whose brokers are on this machine, where all hosts reach them."""
    environment = environment_for(Path(tempfile.mkdtemp(prefix="emostream-hosts-")), **settings)
    port = environment["KAFKA_BOOTSTRAP_SERVERS"].rpartition(":")[2]
    return environment | {"KAFKA_BOOTSTRAP_SERVERS": f"{HERE}:{port}"}


@contextmanager
def hosts(names: Sequence[str]) -> Iterator[dict[str, Host]]:
    """A host for each name, and no process left on any of them at the end of the block."""
    mark = f"em{os.getpid() % 100_000}"
    with ExitStack() as stack:
        bridge = f"{mark}b"
        ip("link", "add", bridge, "type", "bridge")
        stack.callback(ip, "link", "del", bridge)
        ip("addr", "add", f"{HERE}/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        found = {}
        for number, name in enumerate(names, 2):
            host = found[name] = Host(name, f"{NET}.{number}", f"{mark}-{name}", f"{mark}v{number}", bridge)
            ip("netns", "add", host.namespace)
            stack.callback(ip, "netns", "del", host.namespace)
            stack.callback(host.kill)
            ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", host.namespace, "link", "set", device, "up")
            ip("link", "set", host.cable, "up")
            host.heal()
        yield found
