"""Measure how near `emostream plan` comes: the cores that it says, beside those that such a system uses.

First the default system is measured, at rest and at two rates: the report's figures may be of another machine, so the
plan is made from those of this one. Then for each of --sizes (viewers x taps/s), in turn, a system with the processes
of its plan, so many streams, spread over all subscribers, and so many taps of five emojis by the clock. Needs Go. Linux
only.
"""

from __future__ import annotations

import asyncio
import resource
import tempfile
import threading
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.facts import by_stage
from benchmarks.machine import start_load
from benchmarks.part import Figures, Part, main
from benchmarks.pipeline import measure_load, measure_rest
from emostream import roles
from emostream.operate.plan import REPORTED, Costs, plan
from emostream.settings import Settings, load
from testkit.settings import environment_for
from testkit.system import running_system
from testkit.visitors import STREAM_REQUEST
from testkit.waiting import wait_until

EMOJIS = 5  # of start_load


@contextmanager
def held_streams(settings: Settings, number: int) -> Iterator[None]:
    """So many streams, which read what comes."""
    ports = [role.addresses[1].port for role in roles.subscribers(settings)]
    began: set[int] = set()
    done = threading.Event()

    async def read(index: int) -> None:
        reader, writer = await asyncio.open_connection(settings.client_host, ports[index % len(ports)])
        writer.write(STREAM_REQUEST)
        while await reader.read(65536):
            began.add(index)

    async def read_all() -> None:
        reading = [asyncio.create_task(read(index)) for index in range(number)]
        while not done.is_set() and not any(task.done() for task in reading):
            await asyncio.sleep(0.1)
        if not done.is_set():
            raise ConnectionError("a stream has ended")
        for task in reading:
            task.cancel()

    with ThreadPoolExecutor(1) as executor:
        held = executor.submit(asyncio.run, read_all())
        try:
            wait_until("every stream begins", lambda: len(began) == number or held.done(), 120)
            yield
        finally:
            done.set()
        held.result()


def costs_here(options: Namespace) -> Costs:
    """What `emostream plan` knows of processes, measured on this machine as the report's "What it costs" is."""
    environment = environment_for(Path(tempfile.mkdtemp(prefix="emostream-bench-")), **options.settings)
    settings = load(environ=environment)
    with running_system(environment):
        start_load(settings.app_port, 2_000, options.warm).communicate()
        rest = by_stage(measure_rest(settings, options.seconds)["cores"])
        some, busy = (by_stage(measure_load(settings, rate, options.seconds)["cores"]) for rate in (2_000, 10_000))
    return Costs(
        worker=tuple((rate, it["ingest"] / 2) for rate, it in ((0, rest), (1_000, some), (5_000, busy)))
        + REPORTED.worker[3:],
        spark=tuple((rate, it["aggregate"]) for rate, it in ((0, rest), (2_000, some), (10_000, busy)))
        + REPORTED.spark[3:],
        broker=((0, rest["Kafka"]), (10_000, busy["Kafka"])),
        cluster_publisher=busy["route"] / 3,
        subscriber=busy["deliver"] / 9,
    )


def measure_plan(options: Namespace) -> Figures:
    """Cores by stage at each size: planned, and used."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    here = costs_here(options)
    sizes: list[Figures] = []
    for viewers, taps in (map(int, size.split("x")) for size in options.sizes.split(",")):
        app, brokers, spark, publishers, subscribers = plan(viewers, taps, EMOJIS, 0.5, here)
        planned = {"Kafka": brokers, "ingest": app, "aggregate": spark, "route": publishers, "deliver": subscribers}
        environment = environment_for(
            Path(tempfile.mkdtemp(prefix="emostream-bench-")), APP_WORKERS=app.processes, BROKERS=brokers.processes,
            CLUSTERS=publishers.processes, SUBSCRIBERS=subscribers.processes // publishers.processes,
            **options.settings,
        )  # fmt: skip
        settings = load(environ=environment)
        with running_system(environment):
            start_load(settings.app_port, taps, options.warm).communicate()
            with held_streams(settings, viewers):
                used = by_stage(measure_load(settings, taps, options.seconds)["cores"])
        rows: list[Figures] = [
            {"what": name, "planned": part.cores, "used": used[name]} for name, part in planned.items()
        ]
        rows.append({"what": "all", **{key: sum(row[key] for row in rows) for key in ("planned", "used")}})
        ratio = rows[-1]["planned"] / rows[-1]["used"]
        sizes.append({"viewers": viewers, "taps": taps, "rows": rows, "ratio": ratio})
        print(f"  {sizes[-1]}", flush=True)
    return {"seconds": options.seconds, "warm": options.warm, "sizes": sizes}


PARTS = {
    "plan": Part(
        measure_plan, {"sizes": "1000x2000,4000x10000", "seconds": 60.0, "warm": 120.0},
        {"sizes": "50x100,100x200", "seconds": 6.0, "warm": 2.0},
    )
}  # fmt: skip

if __name__ == "__main__":
    main(__doc__, "plan", PARTS)
