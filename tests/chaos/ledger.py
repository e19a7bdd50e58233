"""Kill, end, stop and starve every process of a real system under load, and keep a ledger of every event.

usage: .venv/bin/python -m tests.chaos.ledger [--kills 100] [--rate 50] [--rooms N] [--seed N] [--of NAME]
                                              [KEY=VALUE ...]

Each tap has an emoji of its own, and EVENTS_PER_EMOJI=1, so each tap that was answered 200 must be exactly one count on
each cluster topic and exactly one at a client of each cluster, which was written against the contract alone, and now
and then takes a while to fail. With --rooms N the taps are spread over N rooms and the default one. Each cluster then
has a client in each room, and no event may be in another room than its tap.
With ACK=buffer the app is ended by SIGTERM only: kill -9 may lose what lingers there.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from emostream.operate.supervisor import SupervisedProcess, Supervisor
from emostream.records import record_key
from emostream.roles import roles
from emostream.settings import load
from testkit.broker import Broker
from testkit.http_servers import HttpClient
from testkit.settings import environment_for
from testkit.system import registered_clients, running_system
from testkit.taps import Taps
from testkit.waiting import wait_until

RECOVERY_SECONDS = 180.0
# Of what is done to processes; the rest is SIGSTOP for a while.
KILL_SHARE = 0.6
TERM_SHARE = 0.15
# How often and for how long a client thinks about a push that it does not take: longer than it takes a subscriber to
# note its clients' positions, so that one noted too early is there to be killed with; too short to be merged for. More
# often, and it could not keep up with 50 pushes a second.
FAIL_SHARE = 0.003
FAIL_SECONDS = 1.5


@dataclass
class Report:
    """What a run found. `lost`, `doubled` and `wrong_room` are by place, as <room>/<emoji>; each must be empty."""

    answered_200: int = 0
    unknown: int = 0
    on_emoji_topic: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    terms: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    lost: dict[str, list[str]] = field(default_factory=dict)
    doubled: dict[str, list[str]] = field(default_factory=dict)
    wrong_room: dict[str, list[str]] = field(default_factory=dict)
    repeats_at_clients: int = 0
    longest_pause_seconds: float = 0.0
    recovery_seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __str__(self) -> str:
        lines = [
            f"{sum(self.kills.values())} kills, {sum(self.terms.values())} terms, {sum(self.stops.values())} stops; "
            f"{self.answered_200} taps answered 200, {self.unknown} not; {self.on_emoji_topic} events on emoji-topic; "
            f"{self.repeats_at_clients} repeats that clients could tell by their key; "
            f"longest pause at a client {self.longest_pause_seconds:.1f} s",
            *(f"{place}: {self._at(place)}" for place in self.lost),
            f"{'process':<20} kills terms stops  recovery p50     max (of kills)",
        ]
        for name in sorted({*self.kills, *self.terms, *self.stops}):
            times = self.recovery_seconds.get(name)
            shown = f"{statistics.median(times):11.1f} s {max(times):5.1f} s" if times else ""
            lines.append(f"{name:<20} {self.kills[name]:5} {self.terms[name]:5} {self.stops[name]:5}  {shown}")
        return "\n".join(lines)

    def balanced(self) -> bool:
        """Whether nothing is lost, doubled or in a wrong room."""
        return not any(events for by_place in self._wrong().values() for events in by_place.values())

    def _wrong(self) -> dict[str, dict[str, list[str]]]:
        return {"lost": self.lost, "doubled": self.doubled, "in a wrong room": self.wrong_room}

    def _at(self, place: str) -> str:
        found = {what: by_place[place] for what, by_place in self._wrong().items()}
        return ", ".join(f"{len(events)} {what} {events[:5]}" for what, events in found.items())


class Chaos:
    """One system, its load, its witnesses, and what is done to it."""

    def __init__(self, environment: dict[str, str], rate: float, seed: int, of: str = "", rooms: int = 0) -> None:
        """Only to processes whose name begins with `of`. Two runs of one system need a seed each."""
        self.environment = environment
        self.random = random.Random(seed)
        self.report = Report()
        self.settings = load(environ=environment)
        self.supervisor = Supervisor(self.settings)
        self._rate = rate
        self._of = of
        self._mark = f"{seed}-"  # of all emojis of this run
        self._rooms = ["", *(f"room-{number}" for number in range(1, rooms + 1))]
        self._ended: set[str] = set()  # the last thing done to a process was a kill, or its end

    def run(self, kills: int, each_of: list[str] | None = None) -> Report:
        """Kill until `kills` processes were killed, or one after the other `each_of`; then balance the ledger."""
        with registered_clients(self.settings, self._rooms) as witnesses:
            if not each_of:  # which asks for the longest pause
                for witness in witnesses.values():
                    witness.fails_after = lambda: FAIL_SECONDS * (self.random.random() < FAIL_SHARE)
            emojis = (f"{self._mark}{number}" for number in itertools.count())
            taps = Taps(self.settings.app_port, self._rate, emojis, rooms=self._rooms)
            for name in each_of or []:
                self._await_flow(witnesses)  # so that the longest pause is that of one kill
                self._round([name], kill_share=1.0, term_share=0.0)
            while sum(self.report.kills.values()) < kills:
                self._round(self._some_of(self._targets()), KILL_SHARE, TERM_SHARE)
            time.sleep(2 * self.settings.batch_seconds)  # a last stretch of undisturbed load, not a wait for anything
            taps.stop()
            self._balance(taps, witnesses)
        return self.report

    def _targets(self) -> list[str]:
        """Every process that something hangs on: of the subscribers, those with a witness."""
        watched = [role.name for role in roles(self.settings) if role.kind != "subscriber" or role.number == 1]
        return [name for name in watched if name.startswith(self._of)]

    def _some_of(self, targets: list[str]) -> list[str]:
        chosen = self.random.sample(targets, k=min(len(targets), self.random.choices([1, 2, 3], [7, 2, 1])[0]))
        # What lingers in an app that has to end goes out as long as there is a broker.
        return ["app"] if "app" in chosen and self.settings.ack == "buffer" else chosen

    def _round(self, chosen: list[str], kill_share: float, term_share: float) -> None:
        """Do something to these processes at once, and wait until those that were killed or ended are ready again."""
        self._await_ready()
        time.sleep(self.random.uniform(0.0, 3.0))  # a random moment is the point
        before = {process.name: process for process in self.supervisor.processes()}
        began = time.monotonic()
        chosen = [name for name in chosen if before[name].pid]  # one may just have ended by itself
        killed = set()
        for name in chosen:
            what = self.random.random()
            if what >= kill_share + term_share:
                self._stop_for_a_while(before[name])
            elif what >= kill_share or (name == "app" and self.settings.ack == "buffer"):
                self._end(before[name], signal.SIGTERM, self.report.terms)
            else:
                killed.add(name)
                self._end(before[name], signal.SIGKILL, self.report.kills)
        pending = {name for name in chosen if name in self._ended}
        while pending:
            assert time.monotonic() - began < RECOVERY_SECONDS, f"not back: {pending}"
            # To ask a broker takes longer than some of them take to come back.
            ask_brokers = any(name.startswith("kafka_") for name in pending)
            for process in self.supervisor.processes(ask_brokers=ask_brokers):
                if process.name in pending and process.ready and process.pid != before[process.name].pid:
                    pending.discard(process.name)
                    if process.name in killed:
                        self.report.recovery_seconds[process.name].append(time.monotonic() - began)
            time.sleep(0.05)

    def _end(self, process: SupervisedProcess, signum: signal.Signals, times: Counter[str]) -> None:
        self._ended.add(process.name)
        times[process.name] += 1
        os.kill(process.pid, signum)

    def _stop_for_a_while(self, process: SupervisedProcess) -> None:
        self._ended.discard(process.name)
        self.report.stops[process.name] += 1
        os.kill(process.pid, signal.SIGSTOP)
        threading.Timer(self.random.uniform(0.5, 12.0), _continue, [process.pid]).start()

    def _await_ready(self) -> None:
        def ready() -> bool:
            processes = self.supervisor.processes()
            return bool(processes) and all(process.ready for process in processes)

        wait_until("every process ready", ready, RECOVERY_SECONDS)

    def _await_flow(self, witnesses: dict[tuple[str, str], HttpClient]) -> None:
        self._await_ready()
        now_ms = time.time() * 1000
        wait_until(
            "each client sees what was tapped just now",
            lambda: all(w.received and w.received[-1]["first_accepted_ms"] > now_ms for w in witnesses.values()),
            RECOVERY_SECONDS,
        )

    def _balance(self, taps: Taps, witnesses: dict[tuple[str, str], HttpClient]) -> None:
        self._await_ready()
        report, kafka = self.report, Broker(self.environment)
        rooms = {tap.emoji: tap.room for tap in taps.sent}
        answered = {tap.emoji for tap in taps.sent if tap.status == 200}

        def owed(emojis: set[str]) -> Counter[str]:
            return Counter(_key(rooms[emoji], emoji) for emoji in emojis)

        found = self._settled(partial(kafka.counts, "emoji-topic"), len(answered))  # the last ones may linger
        events = {value["emoji"] for value in found}
        report.answered_200, report.unknown = len(answered), len(taps.sent) - len(answered)
        report.on_emoji_topic = len(events)
        self._compare("emoji-topic", owed(answered | events), _sum(found))
        for topic in self.settings.cluster_topics:
            self._compare(topic, owed(events), _sum(self._settled(partial(kafka.counts, topic), len(events))))
        for (topic, room), witness in witnesses.items():
            here = {emoji for emoji in events if rooms[emoji] == room}
            seen = self._settled(witness.received_once, len(here))
            pauses = (later - earlier for earlier, later in itertools.pairwise(witness.times))
            report.longest_pause_seconds = max([report.longest_pause_seconds, *pauses])
            report.repeats_at_clients += len(witness.received) - len(seen)
            self._compare(f"a client of {topic} in {room or 'the default room'}", owed(here), _sum(seen))

    def _settled(self, read: Callable[[], list[dict[str, Any]]], expected: int) -> list[dict[str, Any]]:
        """What `read` returns of this run once it is as much as expected, or when no more comes."""
        deadline = time.monotonic() + 120
        while True:
            found = [value for value in read() if value["emoji"].startswith(self._mark)]
            if len(found) >= expected or time.monotonic() > deadline:
                return found
            time.sleep(0.5)

    def _compare(self, place: str, owed: Counter[str], found: Counter[str]) -> None:
        more = found - owed
        self.report.lost[place] = sorted((owed - found).elements())
        self.report.doubled[place] = sorted(key for key in more.elements() if key in owed)
        self.report.wrong_room[place] = sorted(key for key in more.elements() if key not in owed)


def _continue(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return  # killed meanwhile


def _sum(counts: list[dict[str, Any]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for record in counts:
        # The default room has no name, and an event of one tap no count.
        total[_key(record.get("room", ""), record["emoji"])] += record.get("count", 1)
    return total


def _key(room: str, emoji: str) -> str:
    return record_key(emoji, room).decode()


def main() -> int:
    """Entry point of the command in the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rate", type=float, default=50.0, help="taps a second")
    parser.add_argument("--rooms", type=int, default=0, help="spread the taps over so many rooms and the default one")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--of", default="", help="only processes whose name begins so", metavar="NAME")
    args = parser.parse_args()
    settings = dict(argument.split("=", 1) for argument in args.settings)
    data_dir = Path(tempfile.mkdtemp(prefix="emostream-chaos-"))
    environment = environment_for(data_dir, **chaos_settings(args.rooms) | settings)
    print(f"seed {args.seed}, DATA_DIR {environment['DATA_DIR']}", flush=True)
    with running_system(environment):
        report = Chaos(environment, args.rate, args.seed, args.of, args.rooms).run(args.kills)
    print(report)
    return 0 if report.balanced() else 1


# Every tap has an emoji of its own; and where the machine is slow a count may be late without being given up for that.
CHAOS_SETTINGS = {
    "EVENTS_PER_EMOJI": "1",
    "MAX_EMOJIS_PER_BATCH": "100000",
    "MAX_AGE_SECONDS": "300",
    "ACK": "broker",
}


def chaos_settings(rooms: int) -> dict[str, str]:
    """CHAOS_SETTINGS, and slots for one client of each room and of the default one."""
    return CHAOS_SETTINGS | {"MAX_CLIENTS": str(max(2, rooms + 1))}


if __name__ == "__main__":
    raise SystemExit(main())
