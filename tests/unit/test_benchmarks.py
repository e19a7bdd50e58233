"""What the benchmarks make of their figures: percentiles, slopes, floors, bounds, goals, the report."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import figures, soak
from benchmarks.facts import FACTS, Rounds, by_stage, stage_of
from benchmarks.figures import growth
from benchmarks.goals import GOALS, Goal, Reached
from benchmarks.machine import BENCHMARKS_DIR
from benchmarks.report import collect, render, sections, text_of
from emostream.roles import roles
from emostream.settings import load


@pytest.mark.parametrize(("percent", "wanted"), [(1, 1), (50, 50), (99, 99), (100, 100)])
def test_a_percentile_is_the_value_of_its_rank(percent: float, wanted: float) -> None:
    values = [float(number) for number in range(1, 101)]
    random.Random(1).shuffle(values)
    assert figures.percentile(values, percent) == wanted


def test_of_few_values_the_99th_percentile_is_the_largest() -> None:
    assert figures.percentile([3.0, 1.0, 2.0], 99) == 3.0


def test_a_slope_is_found_though_a_third_of_the_values_are_outliers() -> None:
    times = [float(number) for number in range(60)]
    values = [5 + 0.25 * time + (1000 if time % 3 == 0 else 0) for time in times]
    assert figures.slope(times, values) == pytest.approx(0.25, abs=0.02)


def test_the_slope_of_many_values_is_that_of_some_of_them() -> None:
    times = [float(number) for number in range(5_000)]
    assert figures.slope(times, [3 * time for time in times]) == pytest.approx(3)


def test_what_does_not_change_has_no_slope() -> None:
    assert figures.slope([1.0, 2.0, 3.0], [7.0, 7.0, 7.0]) == 0
    assert figures.slope([1.0], [7.0]) == 0


def test_rounds_are_shown_as_min_median_and_max() -> None:
    assert f"{Rounds([3000.0, 1000.0, 2000.0]):,.0f}" == "1,000 / 2,000 / 3,000"
    assert f"{Rounds([0.5]):.2f}" == "0.50 / 0.50 / 0.50"


def test_a_histogram_holds_every_value_once() -> None:
    assert figures.histogram([0.0, 0.01, 0.05, 0.051], 0.05) == [[0.0, 2], [0.05, 2]]


def test_with_aligned_flushes_a_tap_waits_for_at_least_the_lead_and_at_most_a_batch_more() -> None:
    floor = figures.floor_of_latency(linger=0.5, batch=2.0, lead=0.06)
    assert floor[0] == pytest.approx(0.06, abs=0.01)
    assert floor[-1] == pytest.approx(2.06, abs=0.01)
    assert figures.percentile(floor, 50) == pytest.approx(1.06, abs=0.01)


def test_without_alignment_the_floor_is_half_of_linger_and_batch_and_at_most_both() -> None:
    floor = figures.floor_unaligned(linger=0.5, batch=2.0)
    assert figures.percentile(floor, 50) == pytest.approx(1.25, abs=0.02)
    assert figures.percentile(floor, 99) == pytest.approx(2.5 - (0.02 * 0.5 * 2.0) ** 0.5, abs=0.02)


def test_flushes_that_are_not_aligned_have_one_floor() -> None:
    assert list(figures.floors(50, 0.5, None)) == ["floor"]
    aligned = figures.floors(500, 2.0, 0.06)
    assert aligned["floor"] == figures.floor_of_latency(0.5, 2.0, 0.06)
    assert len(aligned) == 2


def test_every_process_of_a_system_has_its_stage() -> None:
    stages = {stage_of(name) for name in [*(role.name for role in roles(load())), "supervisord"]}
    assert stages == set(by_stage({}))
    assert by_stage({"subscriber_1_1": 1.0, "subscriber_3_2": 2.0})["deliver"] == 3


def sample(seconds: float, memory_mb: float, descriptors: int = 20) -> dict[str, Any]:
    process = {"memory_mb": memory_mb, "threads": 5, "descriptors": descriptors}
    files = {"checkpoint_files": 10, "other_mb": 1.0}
    return {"seconds": seconds, "processes": {"app": process, "kafka_1": dict(process, memory_mb=400)}, **files}


def broken(samples: list[dict[str, Any]], after: dict[str, Any] | None = None) -> list[str]:
    checks = soak.checks_of(samples, samples[0], after or samples[-1])
    return [check.what for check in checks if not check.kept]


def test_what_grows_only_while_it_warms_up_keeps_its_bounds() -> None:
    assert broken([sample(minute, 100 + min(minute, 10) * 10) for minute in range(60)]) == []


def test_growth_is_that_of_the_time_after_the_warm_up() -> None:
    samples = [sample(minute, 200 - 10 * minute if minute < 15 else 50 + 0.2 * minute) for minute in range(61)]
    assert growth(samples, "app", "memory_mb", warm_up_share=0.25) == pytest.approx(0.2 * 45)


def test_what_grows_all_the_time_does_not() -> None:
    assert broken([sample(minute, 100 + minute * 0.5) for minute in range(60)]) == ["app: memory_mb, growth"]


def test_descriptors_that_stay_open_after_all_have_left_break_a_bound() -> None:
    steady = [sample(minute, 100) for minute in range(60)]
    assert broken(steady, sample(61, 100, descriptors=40)) == ["app: descriptors more than before the load"]


def test_too_many_files_break_a_bound() -> None:
    many = sample(1, 100) | {"checkpoint_files": 10_000}
    assert broken([sample(0, 100), many, sample(2, 100)]) == ["checkpoint_files, highest"]


@pytest.mark.parametrize(
    ("at_least", "value", "word"),
    [(True, 3, "reached"), (True, 2, "**missed**"), (False, 3, "reached"), (False, 4, "**missed**")],
)
def test_a_goal_says_whether_it_was_reached(at_least: bool, value: float, word: str) -> None:
    goal = Goal("what", 3, at_least, lambda _: Reached("shown", value))
    assert goal.row({}) == ("what", "shown", word)


def test_a_goal_whose_part_was_not_measured_says_so() -> None:
    assert {goal.row({})[2] for goal in GOALS} == {"not measured"}


def keep(directory: Path, quick: bool = False) -> None:
    rates = {"ours": [5000.0, 7000.0, 6000.0], "requests.post": [500.0, 700.0, 600.0]}
    ratios = {"ours": [1.0, 1.0, 1.0], "requests.post": [10.0, 10.0, 10.0]}
    figures.write(directory / "push-rate.json", "push-rate",
                  {"clients": 200, "records": 300, "rates": rates, "ours_to_it": ratios}, quick)  # fmt: skip


def test_the_report_shows_what_was_measured_and_names_what_was_not(tmp_path: Path) -> None:
    keep(tmp_path)
    report = render(collect(tmp_path))
    assert "| ours | 5,000 / 6,000 / 7,000 | 1.0 / 1.0 / 1.0 |" in report
    assert "| ≥ 5,000 pushes/s to 200 clients | 5,000 / 6,000 / 7,000 | reached |" in report
    assert "![push rate](plots/push-rate.png)" in report
    for part in set(FACTS) - {"push-rate"}:
        assert f"`{part}` was not measured." in report


def test_the_report_names_the_machine_the_versions_and_the_commit(tmp_path: Path) -> None:
    keep(tmp_path)
    kept = collect(tmp_path)
    report = render(kept)
    about = kept["push-rate"]
    known = [about["machine"]["cpu"], about["versions"]["pyspark"], about["versions"]["kafka-python"], about["ended"]]
    assert [what for what in known if what not in report] == []


def test_a_quick_run_says_that_its_figures_mean_nothing(tmp_path: Path) -> None:
    keep(tmp_path)
    assert "mean nothing" not in render(collect(tmp_path))
    keep(tmp_path, quick=True)
    assert "mean nothing" in render(collect(tmp_path))


def test_a_peer_that_was_left_out_is_named_with_the_reason() -> None:
    measured = {"seconds": 8, "connections": 64, "peers": {}}
    assert "Left out: Go: there is no compiler" in text_of(
        "ingest-rates", measured | {"left_out": {"go": "Go: there is no compiler"}}
    )
    rounds = [{"last_ms": {"p50": 1.0, "p99": 2.0}, "kb_a_connection": 0.3, "troubles": "none"}]
    steady = {"viewers": 200, "servers": {"ours": rounds}}
    assert "Left out: Centrifuge: no proxy" in text_of("streams-steady", steady | {"left_out": "Centrifuge: no proxy"})
    assert "Left out" not in text_of("ingest-rates", measured) + text_of("streams-steady", steady | {"left_out": ""})


def test_every_plot_of_the_report_is_drawn() -> None:
    from benchmarks.plots import PLOTS

    shown = {(part, text.replace("{name}", part.partition("-")[2])) for parts, text in sections() for part in parts}
    named = {(part, plot) for part, text in shown for plot in re.findall(r"\(plots/(.+)\.png\)", text)}
    assert named == {(part, plot) for plot, (part, _) in PLOTS.items()}


def test_the_report_is_what_its_figures_say() -> None:
    assert render(collect(BENCHMARKS_DIR / "results")) == (BENCHMARKS_DIR / "REPORT.md").read_text()


def test_the_benchmarks_are_short_enough_to_be_read() -> None:
    sources = [path for kind in ("py", "go", "sh") for path in BENCHMARKS_DIR.rglob(f"*.{kind}")]
    assert sum(len(path.read_text().splitlines()) for path in sources) <= 4_110
