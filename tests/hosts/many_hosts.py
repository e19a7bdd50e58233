"""The whole system on six hosts of their own, each cut off for a while, and one lost; a ledger. Needs root.

usage: .venv/bin/python -m tests.hosts.many_hosts [--rate 300] [--cut 20]

Three brokers, reached by TLS and a password; Spark's master and two workers; two apps behind nginx with TLS; six
subscribers; and at each a client and a stream. Each host is cut off in turn, under load. Then the first one loses its
power, and its main publisher is started on another, without any of its files.
"""

from __future__ import annotations

import argparse
import itertools
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from testkit.broker import Broker
from testkit.hosts import Host, hosts
from testkit.http_calls import call
from testkit.http_servers import HttpClient, http_client
from testkit.proxies import HOST, documented, proxy
from testkit.secured_broker import ADMIN_PASSWORD, SecuredBroker, secured_broker
from testkit.settings import PROJECT_DIR, environment_for
from testkit.spark_cluster import Master
from testkit.taps import Taps
from testkit.visitors import StreamWitness
from testkit.waiting import wait_until

# What ./start.sh runs on each host.
RUNS = {
    "one": "main_publisher",
    "two": "app",
    "three": "app",
    "four": "cluster_publisher_1,cluster_publisher_2,subscriber_1_1,subscriber_2_1,subscriber_3_1",
    "five": "cluster_publisher_3,subscriber_1_2,subscriber_2_2,subscriber_3_2",
}
# What else runs there.
ALSO = {
    "one": "a broker",
    "two": "a broker, Spark's master, a worker",
    "three": "a broker, a worker",
    "six": "the proxy; taps, clients and streams",
}
CLUSTERS, SUBSCRIBERS = 3, 2
TAPS_PER_EMOJI = 10  # so that there are not more pushes than one process can take
PATIENCE_SECONDS = 300.0
TWICE_SECONDS = 3.0  # what would come twice comes meanwhile: a micro-batch and its way
# Room for the executors of a main publisher on another host while Spark does not know yet that the first one is gone.
SPARK_DEFAULTS = """\
spark.cores.max 2
spark.executor.cores 1
spark.executor.memory 500m
"""
Numbers = Counter[str]
Counts = Sequence[Mapping[str, Any]]


@dataclass
class Cut:
    """What one cut did. Seconds."""

    what: str
    refused: int
    push_pause: float
    stream_pause: float
    all_again: float

    def __str__(self) -> str:
        pauses = f"longest pause of a client {self.push_pause:.1f} s, of a stream {self.stream_pause:.1f} s"
        return f"{self.what}: {self.refused} taps refused; {pauses}; all see new taps after {self.all_again:.1f} s more"


class ManyHosts:
    """Six hosts, what runs on them, and whoever taps and watches."""

    def __init__(self, stack: ExitStack, rate: float) -> None:
        self.stack = stack
        directory = Path(tempfile.mkdtemp(prefix="emostream-hosts-"))
        print(f"logs are in {directory}", flush=True)
        self.hosts = stack.enter_context(hosts([*RUNS, "six"]))
        broker = stack.enter_context(
            secured_broker(directory, "SASL_SSL", hosts=[self.hosts[name] for name in ("one", "two", "three")])
        )
        self.master = Master(broker.environment, self.hosts["two"])
        stack.enter_context(self.master.running())
        for name in ("two", "three"):
            stack.enter_context(self.master.worker(self.hosts[name], cores=2, name=name))
        self.environment = self._settings(broker)
        # Host one will be lost, and a plain client of kafka-python could wait for it.
        servers = self.environment["KAFKA_BOOTSTRAP_SERVERS"].partition(",")[2]
        self.broker = Broker(self.environment | {"KAFKA_BOOTSTRAP_SERVERS": servers})
        (directory / "spark-defaults.conf").write_text(SPARK_DEFAULTS)
        for name, only in RUNS.items():
            self.up(self.hosts[name], only)
        self.number = itertools.count()
        self.clients: dict[str, HttpClient] = {}
        self.streams: dict[str, StreamWitness] = {}
        with self.hosts["six"].inside():
            self.taps = self._come(directory, rate)

    def _settings(self, broker: SecuredBroker) -> dict[str, str]:
        """What is the same on every host."""
        password = broker.directory / "password"
        password.touch(0o600)
        password.write_text(ADMIN_PASSWORD)
        return broker.environment | {
            "KAFKA_SASL_USERNAME": "admin",
            "KAFKA_SASL_PASSWORD_FILE": str(password),
            "CLUSTERS": str(CLUSTERS),
            "SUBSCRIBERS": str(SUBSCRIBERS),
            "SPARK_MASTER": self.master.url,
            "SPARK_CONF_DIR": str(broker.directory),
            "ALLOWED_HOSTS": HOST,
            "TRUSTED_PROXIES": self.hosts["six"].address,
            "ADVERTISED_STREAM_URL": "/s/{cluster}-{subscriber}",
            # So that each tap is in a count, and no count is left out because it came late.
            "EVENTS_PER_EMOJI": "1",
            "MAX_EMOJIS_PER_BATCH": "100000",
            "MAX_AGE_SECONDS": "300",
            "EVICT_AFTER_SECONDS": "300",
        }

    def up(self, host: Host, only: str) -> None:
        """`./start.sh up --only` on a host with a DATA_DIR of its own."""
        data_dir = Path(self.environment["DATA_DIR"]) / host.name
        own = {"DATA_DIR": data_dir, "BIND_HOST": host.address, "SPARK_DRIVER_HOST": host.address}
        environment = environment_for(data_dir, **(self.environment | own))
        command = host.command("./start.sh", "up", "--only", only)
        done = subprocess.run(
            command, cwd=PROJECT_DIR, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"{host.name}: {done.stdout}{done.stderr}"

    def _come(self, directory: Path, rate: float) -> Taps:
        """A client and a stream at each subscriber, and taps, from the thread's host."""
        port = {name: int(self.environment[name]) for name in ("APP_PORT", "SUBSCRIBER_BASE_PORT", "STREAM_BASE_PORT")}
        own = directory / "six"
        own.mkdir()
        site = self._site(port["APP_PORT"], port["STREAM_BASE_PORT"])
        _, url = self.stack.enter_context(proxy("nginx", "/match", self.environment, own, site))
        url = url.replace(HOST, "127.0.0.1")
        authority = str(own / f"{HOST}.crt")
        for cluster, number in itertools.product(range(1, CLUSTERS + 1), range(1, SUBSCRIBERS + 1)):
            name = f"{cluster}-{number}"
            client = self.clients[name] = self.stack.enter_context(http_client(host=self.hosts["six"].address))
            place = f"{self._of(number).address}:{port['SUBSCRIBER_BASE_PORT'] + 10 * (cluster - 1) + number}"
            status, answer = call(f"http://{place}/register", {"client_url": client.url})
            assert status == 200, answer
            stream = self.streams[name] = StreamWitness(f"{url}/s/{name}/stream", authority)
            self.stack.callback(stream.stop)
            wait_until(f"stream {name}", stream.open.is_set, PATIENCE_SECONDS)
        emojis = (f"e{next(self.number) // TAPS_PER_EMOJI}" for _ in itertools.count())
        trust = ssl.create_default_context(cafile=authority)
        return Taps(int(url.split(":")[2].split("/")[0]), rate, emojis, trust=trust, path="/match/send-emoji")

    def _site(self, app_port: int, streams: int) -> str:
        """nginx as docs/proxy.md has it for several apps, with the addresses of these."""
        apps = documented("Apps on several hosts", "/match")
        for documented_host, name in {"192.0.2.5": "two", "192.0.2.6": "three"}.items():
            apps = apps.replace(f"{documented_host}:5000", f"{self.hosts[name].address}:{app_port}")
        site = documented("nginx", "/match").replace("http://127.0.0.1:5000/", "http://apps/")

        def stream(found: re.Match[str]) -> str:
            number = int(found[1])
            return f"{self._of(number % 10).address}:{streams + number};"

        return apps + re.sub(r"127\.0\.0\.1:71(\d\d);", stream, site)

    def _of(self, subscriber: int) -> Host:
        return self.hosts["four" if subscriber == 1 else "five"]

    def flow_again(self, what: str, disturb: Callable[[], None]) -> Cut:
        """Disturb, and wait until everybody sees what is tapped after that."""
        began, sent_before = time.time(), len(self.taps.sent)
        disturb()
        healed, goal = time.time(), next(self.number) // TAPS_PER_EMOJI + 1
        received = [client.received for client in self.clients.values()]
        received += [stream.received for stream in self.streams.values()]

        def see() -> bool:
            return all(_newest(counts) >= goal for counts in received)

        wait_until(f"all see new taps after {what}", see, PATIENCE_SECONDS)
        again = time.time() - healed
        refused = sum(tap.status != 200 for tap in self.taps.sent[sent_before:])
        pushes = max(_pause(client.times, began) for client in self.clients.values())
        streams = max(_pause(stream.times, began) for stream in self.streams.values())
        return Cut(what, refused, pushes, streams, again)

    def secrets_seen(self) -> list[str]:
        """Command lines on any host that show the password."""
        pids = [pid for host in self.hosts.values() for pid in host.pids()]
        lines = []
        for pid in pids:
            try:
                lines.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
        return [line for line in lines if ADMIN_PASSWORD in line]

    def ledger(self) -> list[str]:
        """A line for each place where an event is missing or twice."""
        answered = Counter(tap.user for tap in self.taps.sent if tap.status == 200)
        unknown = Counter(tap.user for tap in self.taps.sent if tap.status != 200)
        read_events = partial(self.broker.counts, "emoji-topic")
        found = compared("emoji-topic", answered, _settled(read_events, answered, by_user), unknown)
        taken = by_emoji(read_events())
        topics = ["main-pub-topic", *(f"cluster{cluster}-emoji-topic" for cluster in range(1, CLUSTERS + 1))]
        places: dict[str, Callable[[], Counts]] = {topic: partial(self.broker.counts, topic) for topic in topics}
        places |= {f"client {name}": client.received_once for name, client in self.clients.items()}
        places |= {f"stream {name}": partial(list, stream.received) for name, stream in self.streams.items()}
        for place, read in places.items():
            found += compared(place, taken, _settled(read, taken, by_emoji))
        print(
            f"{len(answered)} taps answered 200, {len(unknown)} not; {sum(taken.values())} events of {len(taken)} "
            f"emojis on emoji-topic, compared at {len(places)} places behind it"
        )
        return found


def _newest(received: Counts) -> int:
    """The highest number of an emoji among the last counts, or -1."""
    return max((int(count["emoji"][1:]) for count in received[-500:]), default=-1)


def _pause(times: Sequence[float], began: float) -> float:
    """The longest time without anything since the last thing before `began`, in seconds."""
    before = max((moment for moment in times if moment <= began), default=began)
    moments = [before, *(moment for moment in times if moment > began), time.time()]
    return max(later - earlier for earlier, later in itertools.pairwise(moments))


def by_user(events: Counts) -> Numbers:
    """How often each tap is there."""
    return Counter(event["user_id"] for event in events)


def by_emoji(counts: Counts) -> Numbers:
    """Events by emoji; an event of one tap has no count."""
    found = Numbers()
    for count in counts:
        found[count["emoji"]] += count.get("events", count.get("count", 1))
    return found


def _settled(read: Callable[[], Counts], wanted: Numbers, numbers: Callable[[Counts], Numbers]) -> Numbers:
    """What `read` returns some seconds after nothing of `wanted` is missing, or after 120 s."""
    deadline = time.monotonic() + 120
    while wanted - numbers(read()) and time.monotonic() < deadline:
        time.sleep(1)
    time.sleep(TWICE_SECONDS)
    return numbers(read())


def compared(place: str, owed: Numbers, found: Numbers, unknown: Numbers | None = None) -> list[str]:
    """A line if events are lost or doubled. Those `unknown` may be there once, or not."""
    lost, doubled = owed - found, found - owed - (unknown or Numbers())
    if not lost and not doubled:
        return []
    return [f"{place}: {sum(lost.values())} lost {dict(lost.most_common(5))}, {sum(doubled.values())} doubled "
            f"{dict(doubled.most_common(5))}"]  # fmt: skip


def main() -> int:
    """Run it; the exit status is 0 if the ledger is balanced and no password was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=300.0, help="taps a second")
    parser.add_argument("--cut", type=float, default=20.0, help="seconds for which each host is cut off")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no host is left behind
    with ExitStack() as stack:
        system = ManyHosts(stack, args.rate)
        system.flow_again("the start", lambda: None)
        print(system.flow_again("nothing", lambda: time.sleep(args.cut)), flush=True)
        secrets = system.secrets_seen()

        def cut_off(host: Host) -> None:
            host.cut()
            time.sleep(args.cut)
            host.heal()

        for name, host in system.hosts.items():
            runs = ", ".join(filter(None, (RUNS.get(name), ALSO.get(name))))
            print(system.flow_again(f"{name} ({runs}) cut off", partial(cut_off, host)), flush=True)

        def lose_power() -> None:
            system.hosts["one"].cut()  # first, so that nobody is told
            system.hosts["one"].kill()
            system.up(system.hosts["four"], RUNS["one"])

        print(system.flow_again("one lost, its main publisher started on four", lose_power), flush=True)
        time.sleep(args.cut)  # a last stretch of undisturbed load, not a wait for anything
        system.taps.stop()
        secrets += system.secrets_seen()
        wrong = system.ledger()
    print("\n".join(wrong) or "0 lost, 0 doubled")
    print(f"{len(secrets)} command lines with the password")
    return 1 if wrong or secrets else 0


if __name__ == "__main__":
    raise SystemExit(main())
