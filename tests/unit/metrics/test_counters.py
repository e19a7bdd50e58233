"""Counting, the page that shows the numbers, and the documents that describe them."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from emostream import __version__
from emostream.metrics.catalogue import INGEST, ROUTE, STAGES, TAP_BUCKETS, Series, Stage
from emostream.metrics.counters import Histogram, Metrics, WorkerMetrics
from emostream.metrics.page import MetricsPage, process_numbers
from emostream.process import Log
from emostream.roles import roles
from testkit.logs import logged
from testkit.settings import PROJECT_DIR, settings_with

TABLE_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (?:`(\w+)`)? ?\| (.+) \|$", re.MULTILINE)
SERIES = [series for stage in STAGES for series in stage.values()]


def metrics(stage: Stage = ROUTE, seconds: float = 10.0) -> Metrics:
    return Metrics(Log("test"), stage, seconds)


def page_of(*sources: Metrics) -> dict[tuple[str, ...], float]:
    """The numbers on a page: name and label values → number."""
    families = text_string_to_metric_families(MetricsPage(*sources).text().decode())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_counters_add_up_and_a_snapshot_leaves_zeros_out() -> None:
    counts = metrics()
    for name, number in [("routed", 2), ("routed", 3), ("skipped", 1), ("transactions", 0)]:
        counts.add(name, number)
    assert counts.snapshot() == {"routed": 5, "skipped": 1}


def test_counters_are_logged_when_due_and_only_after_a_change() -> None:
    counts = metrics(seconds=0)
    counts.add("routed", 2)
    with logged() as lines:
        counts.log_if_due()
        counts.log_if_due()
    assert lines == ['stage=test msg="so far" routed=2']


def test_the_final_line_is_logged_before_it_is_due() -> None:
    counts = metrics(seconds=3600)
    counts.add("routed")
    with logged() as lines:
        counts.log_if_due()
        assert lines == []
        counts.log_if_due(final=True)
    assert lines == ['stage=test msg="so far" routed=1']


def test_a_counter_that_is_not_in_the_catalogue_raises() -> None:
    with pytest.raises(KeyError):
        metrics().add("routd")


def test_a_page_shows_every_counter_even_if_it_is_zero() -> None:
    counts = metrics(INGEST)
    counts.add("accepted", 7)
    counts.add("refused_full", 2)
    found = page_of(counts)
    assert found["emostream_ingest_accepted_total",] == 7
    reasons = {labels[0]: number for (name, *labels), number in found.items() if name.endswith("refused_total")}
    assert reasons == {"invalid": 0, "rate": 0, "full": 2, "busy": 0, "http": 0}


def test_a_gauge_is_read_when_the_page_is_and_left_out_while_it_is_not_known() -> None:
    counts = metrics()
    assert ("emostream_route_lag_records",) not in page_of(counts)
    lag: list[float | None] = [None]
    counts.read(lag=lambda: lag[0])
    assert ("emostream_route_lag_records",) not in page_of(counts)
    lag[0] = 12
    assert page_of(counts)["emostream_route_lag_records",] == 12


def test_a_bucket_counts_the_observations_up_to_its_bound() -> None:
    histogram = Histogram(Series("x_seconds", "histogram", "", buckets=(0.5, 1.0)))
    for value in (0.1, 0.5, 0.7, 3.0):
        histogram.observe(value)
    assert histogram.buckets() == [("0.5", 2), ("1.0", 3), ("+Inf", 4)]
    assert histogram.count == 4
    assert histogram.sum == pytest.approx(4.3)


def test_the_buckets_of_a_tap_are_50_ms_apart_from_half_a_second_to_3_s() -> None:
    assert sorted(set(TAP_BUCKETS)) == list(TAP_BUCKETS)
    around = [bound for bound in TAP_BUCKETS if 0.5 <= bound <= 3.0]
    assert [round(b - a, 6) for a, b in itertools.pairwise(around)] == [0.05] * 50


def test_every_page_shows_the_version() -> None:
    assert page_of()["emostream_build_info", __version__] == 1


# --- the workers of one app ---


@pytest.fixture
def ended() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(30)
    return process.pid


def worker(directory: Path, pid: int, accepted: int, in_flight: int, away: bool = False) -> WorkerMetrics:
    """A worker with this process id that has published its numbers."""
    found = WorkerMetrics(Log("test"), INGEST, directory, pid)
    found.add("accepted", accepted)
    found.read(in_flight=lambda: in_flight, broker_away=lambda: away)
    found.publish()
    return found


def test_any_worker_reports_the_sum_of_all(tmp_path: Path) -> None:
    both = ((os.getpid(), 3, 1), (os.getppid(), 4, 5))
    workers = [worker(tmp_path, *numbers, away=True) for numbers in both]
    for asked in workers:
        found = page_of(asked)
        assert found["emostream_ingest_accepted_total",] == 7
        assert found["emostream_ingest_in_flight",] == 6
        assert found["emostream_ingest_broker_away",] == 1


def test_the_counters_of_an_ended_worker_still_count_and_its_gauges_do_not(tmp_path: Path, ended: int) -> None:
    worker(tmp_path, ended, 3, 1)
    found = page_of(worker(tmp_path, os.getpid(), 4, 5))
    assert (found["emostream_ingest_accepted_total",], found["emostream_ingest_in_flight",]) == (7, 5)


def test_a_file_that_is_cut_off_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text('{"accepted": ')
    assert page_of(worker(tmp_path, os.getpid(), 4, 5))["emostream_ingest_accepted_total",] == 4


# --- the process ---


def test_the_numbers_of_a_process_include_its_children() -> None:
    alone = process_numbers(os.getpid())
    # It takes 50 MB and prints a line when it has them.
    child = subprocess.Popen(
        [sys.executable, "-c", "x = b'x' * 50_000_000; print(flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert child.stdout
        child.stdout.readline()
        both = process_numbers(os.getpid())
        assert both["resident"] - alone["resident"] > 40e6
        assert both["start"] == alone["start"]
    finally:
        child.kill()
        child.wait(10)


# --- the table ---


def test_the_table_in_the_documents_is_the_catalogue() -> None:
    table = TABLE_ROW.findall((PROJECT_DIR / "docs" / "metrics.md").read_text())
    there_are = list(dict.fromkeys((one.name, one.kind, one.label, one.meaning) for one in SERIES))
    assert table == there_are


def test_the_configuration_of_prometheus_lists_the_default_port_of_every_process() -> None:
    settings = settings_with()
    ports = [role.port for role in roles(settings) if role.kind != "kafka"]
    config = (PROJECT_DIR / "config" / "prometheus.yml").read_text()
    assert re.findall(r'"127.0.0.1:(\d+)"', config) == [str(port) for port in ports]


def test_names_follow_the_rules_of_prometheus() -> None:
    for series in SERIES:
        assert re.fullmatch(r"(emostream|process)_[a-z_]+", series.name)
        assert (series.kind == "counter") == series.name.endswith("_total")
        assert (series.kind == "histogram") == bool(series.buckets)
        assert series.kind != "histogram" or series.name.endswith("_seconds")


def test_one_name_has_one_meaning() -> None:
    by_name = {series.name: (series.kind, series.meaning, series.label) for series in SERIES}
    assert all(by_name[series.name] == (series.kind, series.meaning, series.label) for series in SERIES)
