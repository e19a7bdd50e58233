// Answers → everything that the operator's page shows, as plain numbers and words. This file touches no element.

import { summary } from "./rates.js";
import { isSlowClient } from "./what_is_slow.js";

const RATE_SECONDS = 10; // five micro-batches; over a shorter time a rate would jump with each micro-batch
const LATENCY_SECONDS = 60;
// How long a process may take until it is ready. Spark on a busy machine is the slowest.
const START_SECONDS = 90;
const STAGES = ["batch", "route", "push"];

const DOWN = { BACKOFF: "keeps failing", EXITED: "down", FATAL: "failed", STOPPED: "stopped", STOPPING: "stopping" };

/** The state of a process as a word, and its level: "well", "new" or "bad". */
export function stateOf(process) {
  const { state, ready, page, uptime_seconds: up } = process;
  if (state === null) return page ? ["running", "well"] : ["no answer", "bad"];
  if (state === "STARTING") return ["starting", "new"];
  if (state !== "RUNNING") return [DOWN[state] ?? state.toLowerCase(), "bad"];
  if (!ready) return up < START_SECONDS ? ["starting", "new"] : ["not ready", "bad"];
  if (!page && !process.name.startsWith("kafka_")) return ["no answer", up < START_SECONDS ? "new" : "bad"];
  return ["running", "well"];
}

/**
 * @param {import("./rates.js").Answers} answers at least one answer
 * @param {Set<string>} seen the names of the processes that have ever answered
 */
export function figuresOf(answers, seen) {
  const { at_ms: atMs, supervised, batch_seconds: batchSeconds } = answers.newest;
  const rate = (kind, series) => answers.rate(kind, series, RATE_SECONDS);
  const latency = (name) => summary(answers.histogram("subscriber", name, LATENCY_SECONDS));
  const processes = answers.newest.processes
    .filter((process) => process.state !== null || process.page || seen.has(process.name))
    .map(processOf);
  return {
    atMs,
    supervised,
    batchSeconds,
    measured: answers.list.length > 1,
    refused: answers.ratesBy("app", "emostream_ingest_refused_total", "reason", RATE_SECONDS).filter(([, r]) => r > 0),
    brokerAway: answers.most("app", "emostream_ingest_broker_away") > 0,
    hops: hops(answers, rate),
    screens: {
      rate: countsDelivered(rate),
      clients: answers.sum("subscriber", "emostream_deliver_clients"),
      streams: answers.sum("subscriber", "emostream_deliver_streams"),
    },
    tapToScreen: latency("emostream_deliver_tap_to_screen_seconds"),
    stream: latency("emostream_deliver_stream_seconds"),
    stages: STAGES.map((name) => ({ name, ...latency(`emostream_deliver_stage_seconds{stage="${name}"}`) })),
    processes,
    slow: slowClients(answers),
    evicted: answers.newest.processes
      .flatMap(({ name, evicted }) => evicted.map((one) => ({ ...one, subscriber: name })))
      .sort((a, b) => b.at_ms - a.at_ms)
      .slice(0, 10),
    stuck: stuckProcesses(answers, batchSeconds),
  };
}

/** Counts per second that reached screens: in a push one and those merged into it, on a stream all of a micro-batch. */
function countsDelivered(rate) {
  const batches = rate("main_publisher", "emostream_aggregate_batches_total");
  const perBatch = batches ? rate("main_publisher", "emostream_aggregate_counts_total") / batches : 0;
  return rate("subscriber", "emostream_deliver_delivered_total") + rate("subscriber", "emostream_deliver_merged_total")
    + rate("subscriber", "emostream_deliver_streamed_total") * perBatch;
}

/**
 * The hops of an emoji: what each handles per second (`rate`), what arrives per second, and how much waits. If a hop has
 * several processes, `furthest` is the one that is furthest behind, and `waiting` is what waits for that one.
 */
function hops(answers, rate) {
  const events = rate("app", "emostream_ingest_accepted_total");
  const counts = rate("main_publisher", "emostream_aggregate_counts_total");
  const furthestBehind = (kind, lag) =>
    answers.now(kind, lag).reduce((most, [furthest, waiting]) => (waiting > most.waiting ? { furthest, waiting } : most), { waiting: 0 });
  return [
    { name: "ingest", unit: "event", rate: events, arriving: events, waiting: answers.sum("app", "emostream_ingest_buffered") },
    {
      name: "aggregate", unit: "event", rate: rate("main_publisher", "emostream_aggregate_events_total"), arriving: events,
      waiting: answers.sum("main_publisher", "emostream_aggregate_lag_events"),
    },
    {
      name: "route", unit: "count", rate: rate("cluster_publisher", "emostream_route_records_total"), arriving: counts,
      ...furthestBehind("cluster_publisher", "emostream_route_lag_records"),
    },
    {
      name: "deliver", unit: "count", rate: rate("subscriber", "emostream_deliver_consumed_total"), arriving: counts,
      ...furthestBehind("subscriber", "emostream_deliver_lag_records"),
    },
  ];
}

function processOf(process) {
  const [word, level] = stateOf(process);
  const series = process.page?.series ?? {};
  return {
    name: process.name, word, level, restarts: process.restarts, reason: level === "well" ? null : process.reason,
    upSeconds: process.uptime_seconds ?? upSince(series.process_start_time_seconds),
    clients: series.emostream_deliver_clients,
    streams: series.emostream_deliver_streams,
    memoryBytes: series.process_resident_memory_bytes,
  };
}

function upSince(startSeconds) {
  return startSeconds ? Math.max(0, Date.now() / 1000 - startSeconds) : null;
}

function slowClients(answers) {
  const emojis = Math.max(1, answers.most("main_publisher", "emostream_aggregate_emojis"));
  return answers.newest.processes
    .flatMap(({ name, page }) => (page?.clients ?? []).map((client) => ({ ...client, subscriber: name })))
    .filter((client) => isSlowClient(client, emojis))
    .sort((a, b) => b.failing_seconds - a.failing_seconds || b.behind_records - a.behind_records)
    .slice(0, 20);
}

/**
 * The processes that hang: something arrived on their topic four to seven micro-batches ago, and they have read nothing
 * since then. Their lag does not show this, because a process that hangs does not update its lag.
 */
function stuckProcesses(answers, batchSeconds) {
  const from = 7 * batchSeconds;
  const until = 4 * batchSeconds;
  if (answers.span(from) < from || answers.span(from, until) === 0) return [];
  const found = [];
  const compare = (source, made, kind, taken) => {
    if (answers.increase(source, made, from, until) > 0) {
      const names = new Set(answers.now(kind, taken).map(([name]) => name));
      for (const name of names) if (answers.increase(name, taken, from) === 0) found.push(name);
    }
  };
  compare("app", "emostream_ingest_produced_total", "main_publisher", "emostream_aggregate_events_total");
  compare("main_publisher", "emostream_aggregate_counts_total", "cluster_publisher", "emostream_route_records_total");
  for (const [name] of answers.now("cluster_publisher", "emostream_route_records_total")) {
    const cluster = name.slice("cluster_publisher_".length);
    compare(name, "emostream_route_records_total", `subscriber_${cluster}`, "emostream_deliver_consumed_total");
  }
  return found;
}
