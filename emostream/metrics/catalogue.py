"""Every series of GET /metrics, by stage, under the key that the stage's code uses for it.

docs/metrics.md has the same table. No label holds a user or an emoji, because there may be millions. There are at most
MAX_CLIENTS client URLs, and ten rooms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from emostream import __version__

# For steps that take milliseconds unless something is wrong.
STEP_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
# For the time from a tap to a client: 50 ms apart up to 3 s, which is normal, then up to a minute.
TAP_BUCKETS = (
    0.005, 0.01, 0.025, *(step / 20 for step in range(1, 61)), 3.5, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One series. With a `label`, it is the series of one `value` of that label; of all values if `value` is "".

    Several workers report the sum of their numbers, or with `greatest` the greatest of them.
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


def _seconds(
    name: str, meaning: str, buckets: tuple[float, ...] = STEP_BUCKETS, label: str = "", value: str = ""
) -> Series:
    return Series(f"emostream_{name}_seconds", "histogram", meaning, label, value, buckets)


INGEST: Stage = {
    "received": _counter("ingest_received", "Taps received: accepted, or refused for any reason except http"),
    "accepted": _counter("ingest_accepted", "Taps accepted; an event of n merged taps counts as n"),
    **{
        f"refused_{reason}": _counter(
            "ingest_refused",
            "Events refused: invalid, rate (over a limit), full (no room in the buffer); "
            "and requests refused: busy (too many at once), http (before an event was read)", "reason", reason,
        )
        for reason in ("invalid", "rate", "full", "busy", "http")
    },
    "gone": _counter("ingest_gone", "Requests whose sender disconnected before the answer"),
    "not_acknowledged": _counter("ingest_not_acknowledged", "Requests not acknowledged by the broker in time"),
    "in_flight": _gauge("ingest_in_flight", "Requests that are not answered yet"),
    "buffered": _gauge("ingest_buffered", "Records in the producer's buffer"),
    "produced": _counter("ingest_produced", "Records that the broker acknowledged"),
    "send_errors": _counter("ingest_send_errors", "Records that the broker refused for good; they are lost"),
    "broker_away": _gauge("ingest_broker_away", "1 while the broker takes no events, otherwise 0", greatest=True),
}
SUPERVISED: Stage = {
    "restarts": _counter("process_restarts", "Restarts of a process by supervisor", "process"),
    "up": _gauge("process_up", "1 while supervisor has the process running, otherwise 0", "process"),
}
AGGREGATE: Stage = {
    "batches": _counter("aggregate_batches", "Micro-batches published"),
    "events": _counter("aggregate_events", "Taps counted and published"),
    "bad_records": _counter("aggregate_bad_records", "Records skipped because they are not events"),
    "counts": _counter("aggregate_counts", "Counts published: one per room, emoji and micro-batch"),
    "cut_rooms": _counter("aggregate_cut_rooms", "Rooms not published, because of MAX_ROOMS_PER_BATCH"),
    "cut_emojis": _counter(
        "aggregate_cut_emojis", "Emojis not published, because of MAX_EMOJIS_PER_BATCH or MAX_ROOMS_PER_BATCH"
    ),
    "cut_events": _counter("aggregate_cut_events", "Taps on emojis that were not published"),
    "capped": _counter("aggregate_capped", "Taps not counted, because their user sent more than MAX_TAPS_PER_USER"),
    "transactions": _counter("aggregate_transactions", "Transactions committed"),
    "transaction_aborts": _counter("aggregate_transaction_aborts", "Transactions that failed"),
    "batch": _seconds("aggregate_batch", "Time of a micro-batch, from its start to its commit"),
    "count": _seconds("aggregate_count", "Time that Spark takes to read and count a micro-batch"),
    "publish": _seconds("aggregate_publish", "Time that the transaction of a micro-batch takes"),
    "lag": _gauge("aggregate_lag_events", "Records of EMOJI_TOPIC that are not counted yet"),
    "rooms": _gauge("aggregate_rooms", "Rooms in the last micro-batch"),
    "room_events": _gauge("aggregate_room_events", "Taps in the last micro-batch, of the ten largest rooms", "room"),
    "emojis": _gauge("aggregate_emojis", "Different emojis in the last micro-batch, of all rooms together"),
    "spark_input": _gauge("spark_input_rows_per_second", "Rows per second that came for Spark's last micro-batch"),
    "spark_processed": _gauge("spark_processed_rows_per_second", "Rows per second that Spark's last micro-batch took"),
    "spark_step": _gauge("spark_step_seconds", "Time of each step of Spark's last micro-batch", "step"),
}
ROUTE: Stage = {
    "routed": _counter("route_records", "Counts copied to the cluster's topic"),
    "skipped": _counter("route_skipped", "Records skipped because they are not counts"),
    "transactions": _counter("route_transactions", "Transactions committed"),
    "transaction_aborts": _counter("route_transaction_aborts", "Transactions that failed; each ends the process"),
    "step": _seconds("route_step", "Time from the poll that returned records to the commit of their copies"),
    "lag": _gauge("route_lag_records", "Records of MAIN_TOPIC that are not copied yet"),
}
DELIVER: Stage = {
    "consumed": _counter("deliver_consumed", "Counts read from the cluster's topic"),
    "skipped": _counter("deliver_skipped", "Records skipped because they are not counts"),
    "delivered": _counter("deliver_delivered", "Pushes that a client answered with 2xx"),
    "merged": _counter("deliver_merged", "Counts delivered as part of another count's push"),
    "dropped": _counter("deliver_dropped", "Counts never pushed: the buffer was full, or the client was evicted"),
    "lost": _counter("deliver_lost", "Counts pushed without success and given up"),
    "expired": _counter("deliver_expired", "Counts never pushed: they were older than MAX_AGE_SECONDS"),
    "evicted": _counter("deliver_evicted", "Clients that lost their slot"),
    "failed_attempts": _counter("deliver_failed_attempts", "Attempts to push that failed"),
    "clients": _gauge("deliver_clients", "Registered clients"),
    "slots": _gauge("deliver_slots", "Clients that can register: MAX_CLIENTS"),
    "lag": _gauge("deliver_lag_records", "Records of the cluster's topic that are not read yet"),
    "streams": _gauge("deliver_streams", "Open event streams"),
    "streams_refused": _counter("deliver_streams_refused", "Event streams refused because MAX_STREAMS were open"),
    "streamed": _counter("deliver_streamed", "Micro-batches sent to event streams"),
    "stream_merged": _counter("deliver_stream_merged", "Micro-batches sent as part of another one's event"),
    "streams_stalled": _counter("deliver_streams_stalled", "Event streams closed because the client read nothing"),
    "streams_resumed": _counter("deliver_streams_resumed", "Event streams that went on where an earlier one had ended"),
    "stream_gaps": _counter("deliver_stream_gaps", "Event streams that were told of a gap"),
    "stream_records_lost": _counter("deliver_stream_records_lost", "Counts that streams lost: too old to be sent"),
    "stream_requests_timed_out": _counter("deliver_stream_requests_timed_out", "Connections without a request in time"),
    "client_behind": _gauge("deliver_client_behind_records", "Counts that wait for a client", "client_url"),
    "client_failing": _gauge("deliver_client_failing_seconds", "How long pushes to a client have failed", "client_url"),
    **{
        f"stage_{stage}": _seconds(
            "deliver_stage",
            "Time of a delivered tap in each stage: batch (accepted to counted), route (to the cluster topic), "
            "push (to the client's 2xx)", TAP_BUCKETS, "stage", stage,
        )
        for stage in ("batch", "route", "push")
    },
    "tap_to_screen": _seconds("deliver_tap_to_screen", "Time from a tap's acceptance to the client's 2xx", TAP_BUCKETS),
    "stream": _seconds("deliver_stream", "Time from a count's record to its event on all streams", TAP_BUCKETS),
}
# The names are prometheus-client's; the numbers here include the children of the process.
PROCESS: Stage = {
    "cpu": Series("process_cpu_seconds_total", "counter", "CPU time of the process and its children"),
    "resident": Series("process_resident_memory_bytes", "gauge", "Memory in use by the process and its children"),
    "virtual": Series("process_virtual_memory_bytes", "gauge", "Virtual memory of the process and its children"),
    "start": Series("process_start_time_seconds", "gauge", "When the process started, in Unix seconds"),
    "open_fds": Series("process_open_fds", "gauge", "Open file descriptors of the process and its children"),
    "max_fds": Series("process_max_fds", "gauge", "File descriptors that the process can open"),
}
BUILD = Series("emostream_build_info", "gauge", "Always 1; the label is the version", "version", __version__)
STAGES: tuple[Stage, ...] = (INGEST, SUPERVISED, AGGREGATE, ROUTE, DELIVER, PROCESS, {"build": BUILD})
