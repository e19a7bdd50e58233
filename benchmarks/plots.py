"""The report's pictures: each is drawn from the figures of one part."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.facts import by_stage
from benchmarks.figures import floors
from benchmarks.machine import BENCHMARKS_DIR

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

Figures = Mapping[str, Any]
OURS, PEER, FLOOR, DARK = "#d9480f", "#868e96", "#1971c2", "#343a40"
COLOURS = ("#364fc7", "#d9480f", "#2b8a3e", "#e8a200", "#862e9c", "#868e96")
STYLE = BENCHMARKS_DIR / "plots.mplstyle"
thousands = FuncFormatter(lambda value, _: f"{value:,.0f}")


def bars(axes: Any, found: Sequence[tuple[str, Sequence[float]]], ours: str, unit: str, title: str = "") -> None:
    """A bar for each median, a whisker from min to max; ours, whose name begins so, is coloured."""
    names = [name for name, _ in found]
    middles = [statistics.median(values) for _, values in found]
    down = [middle - min(values) for middle, (_, values) in zip(middles, found, strict=True)]
    up = [max(values) - middle for middle, (_, values) in zip(middles, found, strict=True)]
    colours = [OURS if name.startswith(ours) else PEER for name in names]
    axes.barh(names, middles, xerr=[down, up], color=colours, error_kw={"lw": 1, "capsize": 3, "ecolor": DARK})
    right = max(max(values) for _, values in found)
    for row, middle in enumerate(middles):
        shown = f"{middle:,.0f}" if right >= 20 else f"{middle:,.2f}"
        axes.text(middle + up[row] + right * 0.012, row, shown, va="center")
    axes.set_xlim(0, right * 1.16)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(thousands if right >= 20 else FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(unit)
    axes.grid(axis="y", visible=False)
    axes.set_title(title)


def ingest_rates(found: Figures) -> Any:
    """Events/s of every server."""
    peers = [(peer["what"], peer["rate"]) for peer in found["peers"].values()]
    single = [it for it in peers if "a request" not in it[0]]
    batches = [it for it in peers if "a request" in it[0]]
    shown = [group for group in (single, batches) if group]
    heights = [len(group) for group in shown]
    figure, axes = plt.subplots(len(shown), figsize=(9, 1 + 0.42 * sum(heights)), height_ratios=heights, squeeze=False)
    for one, group in zip(axes[:, 0], shown, strict=True):
        bars(one, group, "ours", "accepted events/s, median, min to max")
    axes[0, 0].set_title("Ingest: top rate, 64 connections, server and broker on the same cores")
    return figure


def one_panel(height: float, found: Sequence[tuple[str, Sequence[float]]], ours: str, unit: str, title: str) -> Any:
    """A figure of bars."""
    figure, axes = plt.subplots(figsize=(9, height))
    bars(axes, found, ours, unit, title)
    return figure


def ingest_latency(found: Figures) -> Any:
    """p99 of every server."""
    peers = [(peer["what"], peer["p99_ms"]) for peer in found["peers"].values()]
    title = "Ingest: p99 at half of each one's top rate, open loop"
    return one_panel(1 + 0.55 * len(peers), peers, "ours", "p99, ms", title)


def ingest_overload(found: Figures) -> Any:
    """Accepted and refused a second, and memory, by the number of connections."""
    peers = list(found["peers"].values())
    floods = len(peers[0]["floods"])
    figure, grid = plt.subplots(
        2, floods, figsize=(9, 4.6), sharex=True, sharey="row", height_ratios=(2, 1), squeeze=False
    )
    for number in range(floods):
        rates, memory = grid[:, number]
        for peer, colour in zip(peers, COLOURS[1:], strict=False):
            it = peer["floods"][number]
            rates.plot(it["by_second"], color=colour, label=peer["what"])
            rates.plot(it["refused_by_second"], color=colour, ls=":")
            rates.axhline(it["top"], color=colour, lw=0.8, ls="--")
            memory.plot(it["memory_mb"], color=colour)
        rates.yaxis.set_major_formatter(thousands)
        rates.set_title(f"three times the top rate, {it['connections']:,} connections", fontsize="medium")
        memory.set_xlabel("seconds")
    for axes, unit in zip(grid[:, 0], ("events/s", "MB"), strict=True):
        axes.set_ylim(0)  # of the whole row, once everything is in it
        axes.set_ylabel(unit)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(peers))
    figure.supxlabel("dashed: the top rate before; dotted: refused", fontsize="small")
    return figure


def aggregate_backlog(found: Figures) -> Any:
    """Counting beside raw reading."""
    peers = {"main publisher": "ours", "Spark's Kafka source alone": "bare", "consumer-perf": "raw"}
    rates = [(name, found[key]) for name, key in peers.items()]
    return one_panel(1.9, rates, "main", "events/s", f"A backlog of {found['events']:,} events")


def aggregate_sustained(found: Figures) -> Any:
    """How far behind counting is, by the second."""
    columns = min(3, len(found["rates"]))
    rows = -(-len(found["rates"]) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(9, 0.6 + 1.9 * rows), sharex=True, sharey=True, squeeze=False)
    for axes, it in zip(grid.flat, found["rates"], strict=False):
        seconds = [at - it["samples"][0][0] for at, _, _ in it["samples"]]
        behind = [lag / it["reached"] for _, _, lag in it["samples"]]
        axes.plot(seconds, behind, color=OURS if it["kept_up"] else PEER)
        axes.axhline(found["max_batches_behind"] * found["batch_seconds"], color=DARK, ls="--", lw=0.8)
        axes.set_title(f"{it['rate']:,} events/s" + ("" if it["kept_up"] else ": falls behind"))
        axes.set_ylim(0)
    figure.supxlabel("seconds", fontsize=9)
    figure.supylabel("seconds of events not counted yet", fontsize=9)
    return figure


def push_rate(found: Figures) -> Any:
    """Pushes/s."""
    title = f"Pushes to {found['clients']} registered clients"
    return one_panel(2.1, list(found["rates"].items()), "ours", "pushes/s", title)


def streams_saturation(found: Figures) -> Any:
    """Deliveries/s."""
    windows = found["windows"]
    figure, axes = plt.subplots(len(windows), figsize=(9, 1.7 * len(windows)), squeeze=False)
    for one, (window, servers) in zip(axes[:, 0], windows.items(), strict=True):
        rates = [(name, it["deliveries"]) for name, it in servers.items()]
        title = f"{found['viewers']:,} event streams, {window} micro-batches on their way"
        bars(one, rates, "ours", "deliveries/s", title)
    return figure


def streams_steady(found: Figures) -> Any:
    """Latency and memory."""
    figure, (late, memory) = plt.subplots(1, 2, figsize=(9, 2.1))
    servers = found["servers"].items()
    p99 = [(name, [it["last_ms"]["p99"] for it in rounds]) for name, rounds in servers]
    kilobytes = [(name, [it["kb_a_connection"] for it in rounds]) for name, rounds in servers]
    title = f"{found['viewers']:,} event streams, a micro-batch every 2 s"
    bars(late, p99, "ours", "p99 to the last viewer, ms", title)
    bars(memory, kilobytes, "ours", "KB a connection")
    return figure


def latency(found: Figures) -> Any:
    """A histogram of tap → client, with its floor."""
    asked = found["settings"]
    lines = floors(**asked)
    others = f"10 taps/s, {found['beside'][0]['background']:,.0f} others/s beside"
    panels = (("latency", "10 taps/s, nothing else"), ("beside", others))
    figure, axes = plt.subplots(2, figsize=(9, 5), sharex=True)
    width = 0.05 if asked["batch_seconds"] >= 2 else 0.025
    right = max(it["p99"] for key, _ in panels for it in found[key]) * 1.15
    edges = [number * width for number in range(int(right / width) + 2)]
    for one, (key, title) in zip(axes, panels, strict=True):
        density(one, [it["histogram"] for it in found[key]], width, f"measured, {len(found[key])} rounds")
        for (label, floor), style in zip(lines.items(), ("-",) if len(lines) == 1 else (":", "-"), strict=True):
            one.hist(floor, bins=edges, density=True, histtype="step", color=FLOOR, ls=style, label=label)
        for which, style in (("p50", "--"), ("p99", "-.")):
            middle = statistics.median(it[which] for it in found[key])
            one.axvline(middle, color=DARK, ls=style, lw=1)
            one.text(middle + right * 0.005, one.get_ylim()[1], f"{which} {middle:.2f} s", va="top")
        one.set_title(f"Tap → client, profile {found['name']}: {title}")
        one.set_ylabel("share per second")
        one.set_xlim(0, right)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    axes[-1].set_xlabel("seconds from the tap to a client of each cluster")
    return figure


def density(axes: Any, rounds: Sequence[Sequence[Sequence[float]]], width: float, label: str) -> None:
    """The sum of histograms, as a share per second."""
    counts: Counter[int] = Counter()
    for lower, number in (one for it in rounds for one in it):
        counts[int(lower / width + 1e-9)] += int(number)
    shares = [number / counts.total() / width for number in counts.values()]
    slots = [slot * width for slot in counts]
    axes.bar(slots, shares, width=width, align="edge", color=OURS, alpha=0.55, label=label)


def cost(found: Figures) -> Any:
    """Memory and CPU by stage."""
    figure, (memory, cores, million) = plt.subplots(1, 3, figsize=(9.5, 3.4))
    loads = found["load"]
    rates = [f"{load['rate']:,}/s" for load in loads]
    stacked(memory, ["rest", *rates], [it["memory_mb"] for it in (found["rest"], *loads)], "MB resident")
    stacked(cores, ["rest", *rates], [it["cores"] for it in (found["rest"], *loads)], "cores")
    stacked(million, rates, [load["cpu_a_million"] for load in loads], "CPU-seconds per million events")
    handles, labels = memory.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def stacked(axes: Any, names: Sequence[str], processes: Sequence[Mapping[str, float]], title: str) -> None:
    """A bar a name, a part of it a stage."""
    stages = [by_stage(it) for it in processes]
    bottom = [0.0] * len(names)
    for stage, colour in zip(stages[0], COLOURS, strict=True):
        values = [it[stage] for it in stages]
        axes.bar(names, values, bottom=bottom, color=colour, label=stage, width=0.6)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    for column, total in enumerate(bottom):
        axes.text(column, total, f" {total:,.0f}" if total >= 10 else f" {total:.2f}", ha="center", va="bottom")
    axes.set_ylim(0, 1.12 * max(bottom))
    axes.set_title(title)
    axes.grid(axis="x", visible=False)


def soak(found: Figures) -> Any:
    """Memory, threads, descriptors and files, by the minute."""
    figure, panels = plt.subplots(4, figsize=(9, 9), sharex=True)
    samples = found["samples"]
    minutes = [sample["seconds"] / 60 for sample in samples]
    kinds = {"memory_mb": "MB resident", "threads": "threads", "descriptors": "file descriptors"}
    for axes, (what, title) in zip(panels, kinds.items(), strict=False):
        stages = [by_stage({name: it[what] for name, it in sample["processes"].items()}) for sample in samples]
        for stage, colour in zip(stages[0], COLOURS, strict=True):
            axes.plot(minutes, [it[stage] for it in stages], color=colour, label=stage)
        axes.set_title(title)
    files = {
        "checkpoint_files": "checkpoint files",
        "kafka_mb": "MB of Kafka's log, which is kept for six hours",
        "other_mb": "MB of everything else in DATA_DIR",
    }
    for (what, label), colour in zip(files.items(), COLOURS, strict=False):
        panels[3].plot(minutes, [sample[what] for sample in samples], color=colour, label=label)
    panels[3].legend(loc="upper left")
    panels[3].set_title("files")
    panels[3].set_xlabel("minutes")
    panels[0].legend(ncols=6, loc="upper center", bbox_to_anchor=(0.5, 1.35))
    for axes in panels:
        axes.set_ylim(0)
        axes.axvspan(0, found["warm_up_minutes"], color=PEER, alpha=0.12, lw=0)
    return figure


PLOTS: dict[str, tuple[str, Callable[[Figures], Any]]] = {
    "ingest-rates": ("ingest-rates", ingest_rates),
    "ingest-latency": ("ingest-latency", ingest_latency),
    "ingest-overload": ("ingest-overload", ingest_overload),
    "aggregate-backlog": ("aggregate-backlog", aggregate_backlog),
    "aggregate-sustained": ("aggregate-sustained", aggregate_sustained),
    "push-rate": ("push-rate", push_rate),
    "streams-saturation": ("streams-saturation", streams_saturation),
    "streams-steady": ("streams-steady", streams_steady),
    "latency-default": ("pipeline-default", latency),
    "latency-fast": ("pipeline-fast", latency),
    "cost": ("pipeline-default", cost),
    "soak": ("soak", soak),
}


def draw(results: Mapping[str, Figures], directory: Path) -> None:
    """Draw what there are figures for, one PNG each; the others' files go."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, (part, plot) in PLOTS.items():
        path = directory / f"{name}.png"
        path.unlink(missing_ok=True)
        if part in results:
            with plt.style.context(STYLE):
                figure = plot(results[part])
                # Without the time of drawing, so that the same figures are the same file.
                figure.savefig(path, dpi=110, metadata={"Software": None})
                plt.close(figure)
