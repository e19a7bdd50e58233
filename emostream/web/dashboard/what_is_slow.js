// The page's figures → one sentence that answers "what is slow now?", and other findings.
// The limits for "slow" are at the top of this file.

import { count, duration, list } from "./format.js";

// A hop is slow if more waits for it than arrives in SLOW_HOP_BATCHES micro-batches, and more than SLOW_HOP_LEAST events
// (ingest, aggregate) or counts (route, deliver). Less than that comes and goes with every micro-batch.
const SLOW_HOP_BATCHES = 3;
const SLOW_HOP_LEAST = { ingest: 2000, aggregate: 1000, route: 50, deliver: 50 };
// The way from tap to screen is slow if p99 is above this. Linger and trigger alone make it 1.25 micro-batches.
const slowTapToScreenSeconds = (batchSeconds) => 2 * batchSeconds + 1;
// What a stage usually takes at most, in micro-batches and in seconds. The page names the stage that exceeds this most.
const USUAL_STAGE = { batch: [1, 0], route: [0, 0.1], push: [0, 0.1] };
// A stream is slow if p99 of its delay is above this.
const slowStreamSeconds = (batchSeconds) => batchSeconds;
// A client is slow if its pushes have failed for so long, or if more micro-batches than this wait for it.
const SLOW_CLIENT_FAILING_SECONDS = 3;
const SLOW_CLIENT_BATCHES = 3;

const RECENT_SECONDS = 120;
const PREDICATES = { "no answer": ["gives no answer", "give no answer"], "keeps failing": ["keeps failing", "keep failing"] };
const REASONS = {
  full: "its buffer is full",
  busy: "it has too many requests at a time",
  rate: "senders exceed their rate limit",
  invalid: "they are invalid",
};

/** Whether a client is slow; `emojis` is how many counts a micro-batch has. */
export function isSlowClient(client, emojis) {
  return client.failing_seconds >= SLOW_CLIENT_FAILING_SECONDS || client.behind_records > SLOW_CLIENT_BATCHES * emojis;
}

/**
 * @param figures what figuresOf returned
 * @returns {{level: "bad"|"slow"|"well", sentence: string, also: string[]}} the worst finding, and the others in `also`
 */
export function judge(figures) {
  const findings = [...broken(figures), ...behind(figures), ...late(figures), ...asides(figures)];
  const [first] = findings;
  if (first && first.level !== "well") {
    const name = first.level === "bad" ? "Broken" : "Slow";
    return { level: first.level, sentence: `${name}: ${first.text}.`, also: findings.slice(1).map(sentence) };
  }
  return { level: "well", sentence: `All well: ${calm(figures)}.`, also: findings.map(sentence) };
}

function sentence({ text }) {
  const isName = /^\w+_/.test(text);
  return `${isName ? text : text[0].toUpperCase() + text.slice(1)}.`;
}

function calm({ tapToScreen, stream, hops: [ingest], measured }) {
  if (tapToScreen) return `p99 ${duration(tapToScreen.p99)} from tap to screen`;
  if (stream) return `streams get each batch ${duration(stream.p99)} after it was routed`;
  if (!measured) return "nothing waits";
  return ingest.rate > 0 ? "nothing waits" : "nobody taps, and nothing waits";
}

/** What does not work: the broker, processes that are down, processes that hang. */
function* broken({ brokerAway, hops: [ingest], processes, stuck }) {
  if (brokerAway) {
    yield { level: "bad", text: `the broker accepts no events; ${count(ingest.waiting, "event")} wait for it` };
  }
  const states = new Map(); // a state and its reason → the processes in it
  for (const { name, word, level, reason } of processes) {
    const why = reason ? `: ${reason}` : "";
    if (level === "bad") states.set(word + why, { word, why, names: [...(states.get(word + why)?.names ?? []), name] });
  }
  for (const { word, why, names } of states.values()) {
    const predicate = PREDICATES[word] ?? [`is ${word}`, `are ${word}`];
    yield { level: "bad", text: `${list(names, 3)} ${predicate[names.length > 1 ? 1 : 0]}${why}` };
  }
  const known = new Set(processes.filter(({ level }) => level !== "well").map(({ name }) => name));
  const names = stuck.filter((name) => !known.has(name));
  if (names.length) {
    const [read, them] = names.length > 1 ? ["read", "them"] : ["reads", "it"];
    yield { level: "bad", text: `${list(names, 3)} ${read} nothing although something waits for ${them}` };
  }
}

/** Hops for which too much waits, and what ingest refuses because of that. */
function* behind({ hops, batchSeconds, refused }) {
  const slowHops = hops
    .map((hop) => ({ ...hop, seconds: hop.waiting / Math.max(1, hop.arriving) }))
    .filter(({ name, waiting, arriving }) => waiting > Math.max(SLOW_HOP_LEAST[name], SLOW_HOP_BATCHES * batchSeconds * arriving))
    .sort((a, b) => b.seconds - a.seconds);
  for (const { name, unit, waiting, furthest, rate, arriving } of slowHops) {
    const what = name === "ingest" ? `holds ${count(waiting, unit)} that the broker has not accepted`
      : `is ${count(waiting, unit)} behind`;
    const catchesUp = name === "aggregate" && rate > arriving;
    const when = catchesUp ? `, and will have caught up in ${duration(waiting / (rate - arriving))}` : "";
    yield { level: "slow", text: `${furthest ?? name} ${what}${when}` };
  }
  for (const [reason, rate] of refused) {
    if (reason === "full" || reason === "busy") {
      yield { level: "slow", text: `ingest refuses ${count(Math.ceil(rate), "event")} a second because ${REASONS[reason]}` };
    }
  }
}

/** Streams and pushes that arrive too late. */
function* late({ tapToScreen, stages, stream, batchSeconds }) {
  if (stream && stream.p99 > slowStreamSeconds(batchSeconds)) {
    yield { level: "slow", text: `streams get a batch up to ${duration(stream.p99)} after it was routed` };
  }
  if (!tapToScreen || tapToScreen.p99 <= slowTapToScreenSeconds(batchSeconds)) return;
  const worst = stages
    .filter(({ p99 }) => p99 !== undefined)
    .map(({ name, p99 }) => ({ name, p99, excess: p99 - USUAL_STAGE[name][0] * batchSeconds - USUAL_STAGE[name][1] }))
    .sort((a, b) => b.excess - a.excess)[0];
  const where = worst ? `, most of it in ${worst.name} (${duration(worst.p99)})` : "";
  yield { level: "slow", text: `p99 is ${duration(tapToScreen.p99)} from tap to screen${where}` };
}

/** Findings that do not make the system slow or broken. */
function* asides({ slow, processes, evicted, atMs, refused }) {
  if (slow.length === 1) yield { level: "well", text: `1 client is slow: ${slow[0].client_url}` };
  if (slow.length > 1) yield { level: "well", text: `${slow.length} clients are slow` };
  const recent = processes.filter((p) => p.restarts > 0 && p.level !== "bad" && p.upSeconds < RECENT_SECONDS);
  if (recent.length) {
    const youngest = Math.min(...recent.map((p) => p.upSeconds));
    yield { level: "well", text: `${list(recent.map((p) => p.name), 3)} came back ${duration(youngest)} ago` };
  }
  const gone = evicted.filter(({ at_ms: at }) => atMs - at < RECENT_SECONDS * 1000).length;
  if (gone) yield { level: "well", text: `${count(gone, "client")} ${gone > 1 ? "were" : "was"} evicted in the last 2 minutes` };
  for (const [reason, rate] of refused) {
    if (reason === "invalid" || reason === "rate") {
      yield { level: "well", text: `ingest refuses ${count(Math.ceil(rate), "event")} a second because ${REASONS[reason]}` };
    }
  }
}
