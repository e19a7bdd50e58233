"""Measure GET /pulse.json of a whole system, with and without Varnish, as Debian has it, before the app.

Each poller asks every 2 s. First nobody taps; then there are taps of 20 emojis, and about once a second one whose name
is when it was made: the delay is from then to the first answer of each poller that holds it. Ten pollers behind Varnish
show what a room without a crowd gets, and 500 without Varnish what an answer costs the app. Needs Go and varnishd.
Pollers, Varnish and the system share the cores: on two, a tenth of the crowd shows the delays better.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
import threading
import time
from argparse import Namespace
from pathlib import Path

from benchmarks.machine import go_command, report_of
from benchmarks.part import Figures, Part, main
from emostream.operate.supervisor import Supervisor
from emostream.settings import load
from testkit.http_calls import call
from testkit.ports import free_port_block
from testkit.processes import usage_of
from testkit.scripts import running
from testkit.settings import environment_for
from testkit.system import running_system


def tap(app: int, until: threading.Event) -> None:
    """Taps at any moment of a micro-batch."""
    while not until.wait(0.5 + random.random()):
        emojis = [*(chr(0x1F600 + number) for number in range(20)), f"tap-{time.time() * 1000:.0f}"]
        events = [{"user_id": "u", "emoji_type": emoji, "timestamp": "2026-01-31T20:15:00Z"} for emoji in emojis]
        call(f"http://127.0.0.1:{app}/send-emojis", events)


def measure(options: Namespace) -> Figures:
    """What reaches the app, how old what pollers get is, and what it costs."""
    work = Path(tempfile.mkdtemp(prefix="emostream-bench-"))
    environment = environment_for(work, **options.settings)
    settings, port, stop = load(environ=environment), free_port_block(2), threading.Event()
    at, store = (f"127.0.0.1:{port}", f"127.0.0.1:{settings.app_port}"), str(work / "varnish")
    command = ["varnishd", "-j", "none", "-F", "-a", at[0], "-b", at[1], "-n", store, "-s", "malloc,64m"]

    def asked() -> int:
        told = subprocess.run(["varnishstat", "-n", store, "-1", "-j"], check=True, stdout=subprocess.PIPE).stdout
        return int(json.loads(told)["counters"]["MAIN.backend_req"]["value"])

    with running_system(environment), running(command, environment) as varnish:
        varnish.wait_for_port(port)
        [app] = [process.pid for process in Supervisor(settings).processes() if process.name == "app"]
        tapping = threading.Thread(target=tap, args=(settings.app_port, stop))
        crowds: dict[str, Figures] = {}
        for name, pollers, to in (
            ("quiet", options.pollers, port), ("crowd", options.pollers, port), ("tenth", options.pollers // 10, port),
            ("few", 10, port), ("direct", 500, settings.app_port),
        ):  # fmt: skip
            if name == "crowd":
                tapping.start()
                time.sleep(12)  # until an answer is as long as it gets
            share = max(1, pollers // 2000)
            generator = go_command("pollers", port=to, pollers=pollers, share=share, seconds=options.seconds)
            before = asked()
            with usage_of(app, every_seconds=1) as used:
                report = report_of(generator, varnish.process.pid, every_seconds=1)
            polls = sum(report["statuses"].values())
            crowds[name] = {
                **{key: report[key] for key in ("statuses", "delay_ms", "age_ms")}, "pollers": pollers,
                "polls": polls / options.seconds,
                "asked": (asked() - before if to == port else polls) / options.seconds,
                "bytes": report["bytes"] / max(1, polls), "app_us": 1e6 * used.cpu_seconds / max(1, polls),
                "varnish_us": 1e6 * report["cpu"] / max(1, polls), "varnish_mb": max(report["memory"]),
            }  # fmt: skip
            print(f"  {name}: {crowds[name]}", flush=True)
        stop.set()
        tapping.join()
    return {"seconds": options.seconds, "crowds": crowds}


PARTS = {"pulse": Part(measure, {"pollers": 20_000, "seconds": 30.0}, {"pollers": 400, "seconds": 8.0})}

if __name__ == "__main__":
    main(__doc__, "pulse", PARTS)
