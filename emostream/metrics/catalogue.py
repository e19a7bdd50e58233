"""Every series of GET /metrics, stage by stage, under the key by which the stage counts it; docs/metrics.md has all.

What is counted here never names a user or an emoji; a client's URL is a label only of what at most MAX_CLIENTS have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from emostream import __version__

# Of steps that take milliseconds, unless something is wrong.
STEP_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
# Of a tap's way: 50 ms apart where it belongs, and up to the age at which nobody waits for it any more.
TAP_BUCKETS = (
    0.005, 0.01, 0.025, *(step / 20 for step in range(1, 61)), 3.5, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One name on a page; where it has a label, with one `value` of that, or with as many as there are when asked.

    `greatest`: of several workers the greatest is told, else the sum.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    label: str = ""
    value: str = ""
    buckets: tuple[float, ...] = ()
    greatest: bool = False


Stage: TypeAlias = Mapping[str, Series]


def _counter(name: str, meaning: str, label: str = "", value: str = "") -> Series:
    return Series(f"emostream_{name}_total", "counter", meaning, label, value)


def _gauge(name: str, meaning: str, label: str = "", greatest: bool = False) -> Series:
    return Series(f"emostream_{name}", "gauge", meaning, label, greatest=greatest)


def _seconds(name: str, meaning: str, buckets: tuple[float, ...], label: str = "", value: str = "") -> Series:
    return Series(f"emostream_{name}_seconds", "histogram", meaning, label, value, buckets)


def _refused(reason: str) -> Series:
    meaning = (
        "Refused events by reason: invalid, rate (limit), full (buffer); and requests: busy (too many), http (no event)"
    )
    return _counter("ingest_refused", meaning, "reason", reason)


INGEST: Stage = {
    "received": _counter("ingest_received", "Taps that came, accepted or refused for any reason but http"),
    "accepted": _counter("ingest_accepted", "Accepted taps; an event that stands for several counts as these"),
    "refused_invalid": _refused("invalid"),
    "refused_rate": _refused("rate"),
    "refused_full": _refused("full"),
    "refused_busy": _refused("busy"),
    "refused_http": _refused("http"),
    "gone": _counter("ingest_gone", "Requests whose sender had gone before the answer"),
    "not_acknowledged": _counter("ingest_not_acknowledged", "Requests that the broker did not acknowledge in time"),
    "in_flight": _gauge("ingest_in_flight", "Requests that wait for something"),
    "buffered": _gauge("ingest_buffered", "Records that wait for the broker"),
    "produced": _counter("ingest_produced", "Records that the broker has acknowledged"),
    "send_errors": _counter("ingest_send_errors", "Records that the broker has refused for good; they are lost"),
    "broker_away": _gauge("ingest_broker_away", "1 while the broker takes no events, else 0", greatest=True),
}
SUPERVISED: Stage = {
    "restarts": _counter("process_restarts", "Starts of a process after its first, by supervisor", "process"),
    "up": _gauge("process_up", "1 where supervisor has the process running, else 0", "process"),
}
AGGREGATE: Stage = {
    "batches": _counter("aggregate_batches", "Micro-batches that were published"),
    "events": _counter("aggregate_events", "Taps that were counted and published"),
    "bad_records": _counter("aggregate_bad_records", "Records that were skipped because they are no events"),
    "counts": _counter("aggregate_counts", "Counts that were published, one for each emoji of a micro-batch"),
    "cut_emojis": _counter("aggregate_cut_emojis", "Emojis of micro-batches above MAX_EMOJIS_PER_BATCH"),
    "cut_events": _counter("aggregate_cut_events", "Taps on emojis above MAX_EMOJIS_PER_BATCH; counted nowhere else"),
    "transactions": _counter("aggregate_transactions", "Transactions that were committed"),
    "transaction_aborts": _counter("aggregate_transaction_aborts", "Transactions that failed and were given up"),
    "batch": _seconds("aggregate_batch", "A micro-batch from its begin to its commit", STEP_BUCKETS),
    "count": _seconds("aggregate_count", "Reading and counting of a micro-batch, by Spark", STEP_BUCKETS),
    "publish": _seconds("aggregate_publish", "The transaction of a micro-batch", STEP_BUCKETS),
    "lag": _gauge("aggregate_lag_events", "Records of EMOJI_TOPIC that are not counted yet"),
    "emojis": _gauge("aggregate_emojis", "Different emojis of the last micro-batch"),
    "spark_input": _gauge("spark_input_rows_per_second", "Rows a second that came for the last micro-batch"),
    "spark_processed": _gauge("spark_processed_rows_per_second", "Rows a second at which Spark worked it off"),
    "spark_step": _gauge("spark_step_seconds", "Seconds of each step of Spark's last micro-batch", "step"),
}
ROUTE: Stage = {
    "routed": _counter("route_records", "Counts that were copied to the cluster's topic"),
    "skipped": _counter("route_skipped", "Records that were skipped because they are no counts"),
    "transactions": _counter("route_transactions", "Transactions that were committed"),
    "transaction_aborts": _counter("route_transaction_aborts", "Transactions that failed; each ends the process"),
    "step": _seconds("route_step", "One step: records were there, until their transaction was committed", STEP_BUCKETS),
    "lag": _gauge("route_lag_records", "Records of MAIN_TOPIC that are not copied yet"),
}


def _stage(stage: str) -> Series:
    meaning = (
        "Where a delivered tap's time went: batch (accepted to counted), route (to the cluster topic), "
        "push (to the client's 2xx)"
    )
    return _seconds("deliver_stage", meaning, TAP_BUCKETS, "stage", stage)


DELIVER: Stage = {
    "consumed": _counter("deliver_consumed", "Counts that were read from the cluster's topic"),
    "skipped": _counter("deliver_skipped", "Records that were skipped because they are no counts"),
    "delivered": _counter("deliver_delivered", "Pushes that a client took"),
    "merged": _counter("deliver_merged", "Counts that arrived within another's push"),
    "dropped": _counter("deliver_dropped", "Counts never tried: no room, or their client was evicted"),
    "lost": _counter("deliver_lost", "Counts tried and given up"),
    "expired": _counter("deliver_expired", "Counts never tried: older than MAX_AGE_SECONDS"),
    "evicted": _counter("deliver_evicted", "Clients that lost their slot"),
    "failed_attempts": _counter("deliver_failed_attempts", "Pushes that failed and were tried again, or given up"),
    "clients": _gauge("deliver_clients", "Registered clients"),
    "slots": _gauge("deliver_slots", "Clients that may be registered: MAX_CLIENTS"),
    "lag": _gauge("deliver_lag_records", "Records of the cluster's topic that were not read yet"),
    "streams": _gauge("deliver_streams", "Open event streams"),
    "streams_refused": _counter("deliver_streams_refused", "Streams refused because MAX_STREAMS were open"),
    "streamed": _counter("deliver_streamed", "Micro-batches that streams were given"),
    "stream_merged": _counter("deliver_stream_merged", "Micro-batches that streams were given within another's event"),
    "streams_stalled": _counter("deliver_streams_stalled", "Streams closed because they took nothing for too long"),
    "streams_resumed": _counter("deliver_streams_resumed", "Streams that went on after the last one's end"),
    "stream_gaps": _counter("deliver_stream_gaps", "Streams that were told that something is missing"),
    "stream_records_lost": _counter("deliver_stream_records_lost", "Counts forgotten before streams got them"),
    "stream_requests_timed_out": _counter("deliver_stream_requests_timed_out", "Connections that asked for nothing"),
    "client_behind": _gauge("deliver_client_behind_records", "Counts that wait for a registered client", "client_url"),
    "client_failing": _gauge(
        "deliver_client_failing_seconds", "For how long the pushes to a registered client have failed", "client_url"
    ),
    "stage_batch": _stage("batch"),
    "stage_route": _stage("route"),
    "stage_push": _stage("push"),
    "tap_to_screen": _seconds(
        "deliver_tap_to_screen", "A delivered tap from the app's acceptance to the client's 2xx", TAP_BUCKETS
    ),
    "stream": _seconds(
        "deliver_stream", "A micro-batch from its record on the cluster topic to its event on all streams", TAP_BUCKETS
    ),
}
RECEIVE: Stage = {
    "shown": _counter("receive_shown", "Records that were printed"),
    "repeats": _counter("receive_repeats", "Records that came again and were not printed"),
    "sent": _counter("receive_sent", "Taps that the app took"),
    "failed": _counter("receive_failed", "Taps that the app did not take"),
}
# What prometheus-client tells of a process; here of its children, too, in one sum.
PROCESS: Stage = {
    "cpu": Series("process_cpu_seconds_total", "counter", "CPU time of the process and its children"),
    "resident": Series("process_resident_memory_bytes", "gauge", "Memory in use by the process and its children"),
    "virtual": Series("process_virtual_memory_bytes", "gauge", "Addresses in use by the process and its children"),
    "start": Series("process_start_time_seconds", "gauge", "When the process began, in Unix seconds"),
    "open_fds": Series("process_open_fds", "gauge", "Open file descriptors of the process and its children"),
    "max_fds": Series("process_max_fds", "gauge", "File descriptors that the process may open"),
}
BUILD = Series("emostream_build_info", "gauge", "Always 1; the label is the version", "version", __version__)
STAGES: tuple[Stage, ...] = (INGEST, SUPERVISED, AGGREGATE, ROUTE, DELIVER, RECEIVE, PROCESS, {"build": BUILD})
