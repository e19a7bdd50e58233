"""What is counted, how GET /metrics shows it, and that the documents say the same."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from emostream import __version__
from emostream.metrics.catalogue import INGEST, ROUTE, STAGES, TAP_BUCKETS, Series, Stage
from emostream.metrics.counters import Histogram, Metrics
from emostream.metrics.page import Page, processes
from emostream.metrics.workers import Workers
from emostream.process import Log
from emostream.roles import roles
from tests.harness import PROJECT_DIR, free_port_block, listening, wait_until
from tests.unit.support import logged, settings_with

TABLE_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (?:`(\w+)`)? ?\| (.+) \|$", re.MULTILINE)
SERIES = [series for stage in STAGES for series in stage.values()]


def metrics(stage: Stage = ROUTE, seconds: float = 10.0) -> Metrics:
    return Metrics(Log("test"), stage, seconds)


def told(*sources: Metrics | Workers) -> dict[tuple[str, ...], float]:
    """What a page says: name and label values → number."""
    families = text_string_to_metric_families(Page(*sources).text().decode())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_counts_add_up_and_show_no_zeros() -> None:
    counts = metrics()
    for name, number in [("routed", 2), ("routed", 3), ("skipped", 1), ("transactions", 0)]:
        counts.add(name, number)
    assert counts.snapshot() == {"routed": 5, "skipped": 1}


def test_counts_are_logged_when_due_and_only_after_a_change() -> None:
    counts = metrics(seconds=0)
    counts.add("routed", 2)
    with logged() as lines:
        counts.log_if_due()
        counts.log_if_due()
    assert lines == ['stage=test msg="so far" routed=2']


def test_counts_are_logged_at_the_end_although_not_due() -> None:
    counts = metrics(seconds=3600)
    counts.add("routed")
    with logged() as lines:
        counts.log_if_due()
        assert lines == []
        counts.log_if_due(final=True)
    assert lines == ['stage=test msg="so far" routed=1']


def test_what_is_in_no_table_cannot_be_counted() -> None:
    with pytest.raises(KeyError):
        metrics().add("routd")


def test_a_page_tells_every_count_also_those_that_are_zero() -> None:
    counts = metrics(INGEST)
    counts.add("accepted", 7)
    counts.add("refused_full", 2)
    found = told(counts)
    assert found["emostream_ingest_accepted_total",] == 7
    reasons = {labels[0]: number for (name, *labels), number in found.items() if name.endswith("refused_total")}
    assert reasons == {"invalid": 0, "rate": 0, "full": 2, "busy": 0, "http": 0}


def test_what_is_asked_for_with_the_page_is_told_as_it_is_then_and_left_out_where_it_is_not_known() -> None:
    counts = metrics()
    assert ("emostream_route_lag_records",) not in told(counts)
    lag: list[float | None] = [None]
    counts.read(lag=lambda: lag[0])
    assert ("emostream_route_lag_records",) not in told(counts)
    lag[0] = 12
    assert told(counts)["emostream_route_lag_records",] == 12


def test_a_histogram_counts_what_is_not_above_each_bound() -> None:
    histogram = Histogram(Series("x_seconds", "histogram", "", buckets=(0.5, 1.0)))
    for value in (0.1, 0.5, 0.7, 3.0):
        histogram.observe(value)
    assert histogram.buckets() == [("0.5", 2), ("1.0", 3), ("+Inf", 4)]
    assert histogram.count == 4
    assert histogram.sum == pytest.approx(4.3)


def test_the_buckets_of_a_tap_grow_and_are_50_ms_apart_where_it_belongs() -> None:
    assert sorted(set(TAP_BUCKETS)) == list(TAP_BUCKETS)
    around = [bound for bound in TAP_BUCKETS if 0.5 <= bound <= 3.0]
    assert [round(b - a, 6) for a, b in itertools.pairwise(around)] == [0.05] * 50


def test_every_page_tells_the_version() -> None:
    assert told()["emostream_build_info", __version__] == 1


# --- the workers of one app ---


@pytest.fixture
def ended() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(30)
    return process.pid


def worker(directory: Path, pid: int, accepted: int, in_flight: int, away: bool = False) -> Workers:
    """A worker of this id that has published its numbers."""
    counts = metrics(INGEST)
    counts.add("accepted", accepted)
    counts.read(in_flight=lambda: in_flight, broker_away=lambda: away)
    found = Workers(directory, counts, pid)
    found.publish()
    return found


def test_whichever_worker_is_asked_tells_the_sum_of_all(tmp_path: Path) -> None:
    both = ((os.getpid(), 3, 1), (os.getppid(), 4, 5))
    workers = [worker(tmp_path, *numbers, away=True) for numbers in both]
    for asked in workers:
        found = told(asked)
        assert found["emostream_ingest_accepted_total",] == 7
        assert found["emostream_ingest_in_flight",] == 6
        assert found["emostream_ingest_broker_away",] == 1


def test_what_a_worker_had_counted_stays_when_it_has_ended_and_what_it_had_in_hand_does_not(
    tmp_path: Path, ended: int
) -> None:
    worker(tmp_path, ended, 3, 1)
    found = told(worker(tmp_path, os.getpid(), 4, 5))
    assert (found["emostream_ingest_accepted_total",], found["emostream_ingest_in_flight",]) == (7, 5)


def test_a_file_that_is_none_of_a_worker_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text('{"accepted": ')
    assert told(worker(tmp_path, os.getpid(), 4, 5))["emostream_ingest_accepted_total",] == 4


# --- the process ---


def test_a_process_is_told_of_with_its_children() -> None:
    alone = processes(os.getpid())
    # 50 MB, and it says so only when it has them.
    child = subprocess.Popen(
        [sys.executable, "-c", "x = b'x' * 50_000_000; print(flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert child.stdout
        child.stdout.readline()
        both = processes(os.getpid())
        assert both["resident"] - alone["resident"] > 40e6
        assert both["start"] == alone["start"]
    finally:
        child.kill()
        child.wait(10)


def test_metrics_wait_for_a_port_that_somebody_else_has_and_then_are_there() -> None:
    port = free_port_block(1)
    counts = metrics()
    counts.add("routed")
    program = f"import http.server; http.server.HTTPServer(('127.0.0.1', {port}), None).serve_forever()"
    other = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until("the port to be taken", lambda: listening(port))
        with logged() as lines:
            Page(counts).serve("127.0.0.1", port, Log("test"))
            wait_until("a line about it", lambda: any("METRICS_BASE_PORT" in line for line in lines))
    finally:
        other.kill()
        other.wait(10)

    def page() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    assert "emostream_route_records_total 1.0" in wait_until("the page", page)


# --- the table ---


def test_the_table_of_series_in_the_documents_is_that_of_the_code() -> None:
    table = TABLE_ROW.findall((PROJECT_DIR / "docs" / "metrics.md").read_text())
    there_are = list(dict.fromkeys((one.name, one.kind, one.label, one.meaning) for one in SERIES))
    assert table == there_are


def test_prometheus_is_told_where_every_process_is_by_default() -> None:
    settings = settings_with()
    ports = [role.port for role in roles(settings) if role.kind != "kafka"]
    config = (PROJECT_DIR / "config" / "prometheus.yml").read_text()
    assert re.findall(r'"127.0.0.1:(\d+)"', config) == [str(port) for port in ports]


def test_names_are_as_prometheus_wants_them() -> None:
    for series in SERIES:
        assert re.fullmatch(r"(emostream|process)_[a-z_]+", series.name)
        assert (series.kind == "counter") == series.name.endswith("_total")
        assert (series.kind == "histogram") == bool(series.buckets)
        assert series.kind != "histogram" or series.name.endswith("_seconds")


def test_one_name_has_one_meaning() -> None:
    by_name = {series.name: (series.kind, series.meaning, series.label) for series in SERIES}
    assert all(by_name[series.name] == (series.kind, series.meaning, series.label) for series in SERIES)
