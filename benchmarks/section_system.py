"""The report's sections on the whole system: figures → Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.figures import floors, percentile, spread
from benchmarks.tables import Figures, by_stage, table


def latency(found: Figures) -> list[str]:
    """Tap → client, beside its floor."""
    asked = found["settings"]
    given = " ".join(f"{name}={value}" for name, value in found["given"].items()) or "the defaults"
    aligned = "are not aligned to the clock, which so short a linger is not worth"
    if asked["flush_lead_seconds"] is not None:
        aligned = f"come {asked['flush_lead_seconds'] * 1000:.0f} ms before each multiple of the linger"
    rows = [
        (name, *(f"{percentile(floor, percent):.2f}" for percent in (50, 99, 100)), "")
        for name, floor in floors(**asked).items()
    ]
    beside = f"10 taps/s, {found['beside'][0]['background']:,.0f} others/s beside"
    for key, what in (("latency", "10 taps/s"), ("beside", beside)):
        rounds = found[key]
        missing = sum(it["missing"] + it["refused"] for it in rounds)
        rows.append((what, *(spread([it[which] for it in rounds], 2) for which in ("p50", "p99", "max")), str(missing)))
    lines = [
        f"### Profile {found['name']} ({given})",
        "",
        "Every tap has an emoji of its own, and a client of each of the three clusters notes when it came. "
        f"LINGER_MS={asked['linger_ms']}, BATCH_SECONDS={asked['batch_seconds']:g}; flushes {aligned}. Before it "
        f"the system has had {found['warm']['rate']:,} taps/s for {found['warm']['seconds']:g} s: its JVMs compile "
        "what they do often. Seconds, of rounds min / median / max:",
        "",
        *table(["", "p50", "p99", "max", "missing"], rows),
        "Where the median round's taps spent their time, p50 / p99 s:",
        "",
    ]
    stages = {
        what: sorted(found[key], key=lambda it: float(it["p50"]))[len(found[key]) // 2]["stages"]
        for key, what in (("latency", "10 taps/s"), ("beside", "others beside"))
    }
    header = next(iter(stages.values()))
    return [
        *lines,
        *table(
            ["", *header],
            (
                (what, *(f"{it['p50']:.2f} / {it['p99']:.2f}" for it in times.values()))
                for what, times in stages.items()
            ),
        ),
    ]


def cost(found: Figures) -> list[str]:
    """Memory and CPU by stage, at rest and under load."""
    rest, loads = found["rest"], found["load"]
    memory, cores = by_stage(rest["memory_mb"]), by_stage(rest["cores"])
    used = [by_stage(load["cores"]) for load in loads]
    costs = [by_stage(load["cpu_a_million"]) for load in loads]
    busy = by_stage(loads[-1]["memory_mb"])
    rows = [
        [
            stage,
            f"{memory[stage]:.0f}",
            f"{busy[stage]:.0f}",
            f"{100 * cores[stage]:.1f}",
            *(f"{100 * it[stage]:.1f}" for it in used),
            *(f"{it[stage]:.1f}" for it in costs),
        ]
        for stage in memory
    ]
    everything = [memory, busy, cores, *used, *costs]
    rows.append(["all", *(f"{sum(it.values()) * (100 if it in (cores, *used) else 1):,.0f}" for it in everything)])
    rates = [f"{load['rate']:,}/s" for load in loads]
    lines = [
        *table(
            [
                "stage",
                "MB at rest",
                f"MB at {rates[-1]}",
                "% of a core at rest",
                *(f"% at {rate}" for rate in rates),
                *(f"CPU-s per million events at {rate}" for rate in rates),
            ],
            rows,
        ),
        f"Three clients are registered. With shared pages counted once it is {rest['shared_once_mb']:.0f} MB at rest. "
        "Start-up "
        f"(`./start.sh up` in an empty DATA_DIR, until every process is ready): {spread(found['startup'], 1)} s.",
        "",
    ]
    for load in loads:
        lines.append(
            f"- {load['rate']:,} events/s for {load['seconds']:g} s: {load['counted']:,} of {load['accepted']:,} "
            "accepted were counted, the "
            f"last {load['last_count_after_seconds']:.2f} s after the last tap; answers {load['statuses']}, "
            f"p99 {load['latency_ms']['p99']:.1f} ms."
        )
    return [*lines, ""]


def processes(found: Figures) -> list[str]:
    """Every process."""
    rest, load = found["rest"], found["load"][-1]
    rows = [
        (
            name,
            f"{mb:.0f}",
            f"{load['memory_mb'][name]:.0f}",
            f"{100 * rest['cores'][name]:.1f}",
            f"{100 * load['cores'][name]:.1f}",
        )
        for name, mb in rest["memory_mb"].items()
    ]
    rate = f"{load['rate']:,}/s"
    header = ["process", "MB at rest", f"MB at {rate}", "% of a core at rest", f"% at {rate}"]
    return ["<details><summary>Every process</summary>", "", *table(header, rows), "</details>", ""]


def soak(found: Figures) -> list[str]:
    """An hour under load."""
    worst: dict[str, dict[str, Any]] = {}
    for check in found["checks"]:
        process, _, what = check["what"].rpartition(": ")
        if what.endswith("-topic"):
            process, what = what, process
        jvm = process in ("kafka_1", "main_publisher")
        kind = f"{what}, {'a JVM' if jvm else 'any other'}" if "growth" in what or "descriptors" in what else what
        if what.endswith("highest") and process:
            kind = f"{what}, {process}"
        kind = kind.replace("memory_mb", "MB of memory").replace("other_mb", "MB in DATA_DIR besides Kafka's log")
        kind = kind.replace("_", " ") if "files" in kind else kind
        held = worst.get(kind)
        if held is None or check["found"] - check["bound"] > held["found"] - held["bound"]:
            worst[kind] = check | {"process": process}
    rows = [
        (
            kind,
            f"{it['found']:g}" + f" ({it['process']})" * bool(it["process"] and it["found"]),
            f"{it['bound']:g}",
            "kept" if it["kept"] else "**broken**",
        )
        for kind, it in worst.items()
    ]
    guests = ", ".join(f"{number:,} {what}" for what, number in found["guests"].items())
    return [
        f"{found['minutes']:g} minutes at {found['rate']:g} events/s, open loop: {found['accepted']:,} accepted, "
        "answers "
        f"{found['statuses']}. Meanwhile came and went: {guests}. Growth is the fitted slope (Theil-Sen) times the "
        "time "
        f"after {found['warm_up_minutes']:g} minutes of warm-up; the worst process of each kind is shown.",
        "",
        *table(["", "found", "bound", ""], rows),
    ]
