"""What `emostream plan` says, and that its figures are those of the report."""

from __future__ import annotations

import re
import time

import pytest

from emostream.deliver.history import Record
from emostream.deliver.stream.micro_batches import event, event_data
from emostream.deliver.stream.resume import EventId
from emostream.operate import plan
from emostream.operate.plan import answer, cores_at
from emostream.records import Count
from testkit.settings import PROJECT_DIR

REPORT = (PROJECT_DIR / "benchmarks" / "REPORT.md").read_text(encoding="utf-8")


def row(heading: str, *first_cells: str) -> list[float]:
    """The numbers of a row of a table below a heading; the median where a cell has three."""
    section = REPORT.partition(f"# {heading}")[2]
    assert section, heading
    line = next(line for line in section.splitlines() if line.startswith(f"| {' | '.join(first_cells)} |"))
    numbers = [re.findall(r"\d[\d.,]*", cell) for cell in line.strip("| ").split(" | ")[len(first_cells) :]]
    return [float(found[len(found) // 2].replace(",", "")) for found in numbers if found]


def test_the_costs_of_a_stage_are_those_of_the_report() -> None:
    def percent(stage: str, processes: int) -> list[float]:
        return [round(number / 100 / processes, 3) for number in row("What it costs", stage)[2:5]]

    def busy_mb(stage: str) -> float:
        return row("What it costs", stage)[1]

    assert [cores for _, cores in plan.REPORTED.worker[:3]] == percent("ingest", 2)
    assert [cores for _, cores in plan.REPORTED.spark[:3]] == percent("aggregate", 1)
    assert [cores for _, cores in plan.REPORTED.broker] == percent("Kafka", 1)[::2]
    assert pytest.approx(plan.REPORTED.cluster_publisher, abs=5e-4) == percent("route", 3)[2]
    assert pytest.approx(plan.REPORTED.subscriber, abs=5e-4) == percent("deliver", 9)[2]
    assert [busy_mb(stage) for stage in ("ingest", "Kafka", "aggregate", "route", "deliver")] == [
        plan.WORKER_MB * 2,
        plan.BROKER_MB,
        plan.SPARK_MB,
        plan.CLUSTER_PUBLISHER_MB * 3,
        plan.SUBSCRIBER_MB * 9,
    ]


def test_the_top_rates_are_those_of_the_report() -> None:
    rate, _, cpu_us, *_ = row("Top rate", "ours, 2 workers, ACK=buffer")
    assert plan.REPORTED.worker[3] == (rate / 2, round(rate * cpu_us * 1e-6 / 2, 3))
    for rate, cores in plan.REPORTED.spark[3:]:
        *_, a_million = row("Events at a steady rate", f"{rate:,}")
        assert cores == round(rate * a_million * 1e-6, 3)


def test_the_costs_of_a_stream_are_those_of_the_report() -> None:
    assert row("5,000 event streams, as many", "2 on their way", "ours")[2] == plan.STREAM_US
    assert row("5,000 event streams, a micro-batch every 2 s", "ours")[2] == plan.STREAM_KB


@pytest.mark.parametrize("emojis", [5, 20, 100])
def test_an_event_is_as_large_as_the_plan_says(emojis: int) -> None:
    now = round(time.time() * 1000)
    counts = [Count(chr(0x1F600 + number), 10, 10_000, now, emojis, now, now, now) for number in range(emojis)]
    data = event_data(now, [Record(0, number, now, b"", count) for number, count in enumerate(counts)], 1, now)
    size = 52 + len(event(EventId(1, now, (100_000, 100_000, 100_000)), data))  # 52: the headers of IPv4 and TCP
    assert plan.EVENT_BYTES + emojis * plan.EMOJI_BYTES == pytest.approx(size, rel=0.1)


@pytest.mark.parametrize(("rate", "cores"), [(0, 1.0), (5, 1.5), (10, 2.0), (30, 4.0), (70, 8.0)])
def test_between_two_figures_and_above_the_last_the_line_goes_on(rate: float, cores: float) -> None:
    assert cores_at(((0, 1.0), (10, 2.0), (20, 3.0)), rate) == cores


def test_a_plan_is_a_table_with_its_hosts_and_its_costliest_part() -> None:
    shown = answer(["--viewers", "50e6", "--taps-per-second", "1e6", "--emojis", "20"])
    assert "The costliest part: subscribers" in shown
    assert "PARTITIONS=" in shown
    assert [line.split("  ")[0] for line in shown.splitlines()[1:6]] == [
        "app workers", "brokers", "main publisher", "cluster publishers", "subscribers",
    ]  # fmt: skip


def test_twice_the_viewers_need_twice_the_cores_and_as_many_brokers() -> None:
    one, two = ({part.name: part for part in plan.plan(viewers, 1e5, 20, 0.5)} for viewers in (1e6, 2e6))
    assert two["subscribers"].cores == pytest.approx(2 * one["subscribers"].cores, rel=0.1)
    assert two["subscribers"].gbit == pytest.approx(2 * one["subscribers"].gbit)
    assert two["brokers"] == one["brokers"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--viewers", "many", "--taps-per-second", "1"], "--viewers: expected a number above 0, .* got 'many'"),
        (["--viewers", "1", "--taps-per-second", "nan"], "--taps-per-second: expected a number above 0, .* got 'nan'"),
        (["--viewers", "1", "--taps-per-second", "-1"], "--taps-per-second: expected"),
        (["--viewers", "1", "--taps-per-second", "1", "--share", "1.5"], "--share: expected at most 1, got 1.5"),
        (["--viewers", "1"], "required: --taps-per-second"),
        (["--viewers", "1", "--taps-per-second", "1", "--hosts", "3"], "unrecognized arguments: --hosts 3"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        answer(arguments)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert re.search(said, shown)


def test_the_examples_of_the_page_are_what_the_command_prints() -> None:
    page = (PROJECT_DIR / "docs" / "capacity.md").read_text(encoding="utf-8")
    examples = re.findall(r"^\$ emostream plan (.+)\n((?:.+\n)+?)```", page, re.MULTILINE)
    assert len(examples) == 3
    for arguments, printed in examples:
        assert f"{answer(arguments.split())}\n" == printed
