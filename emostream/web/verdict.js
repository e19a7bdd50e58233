// What the page shows → one sentence that answers "what is slow now?", and what else there is to say.

import { count, duration, list } from "./words.js";

// Behind by more than this many micro-batches of what comes in is no longer the rhythm of the batches.
const LAG_BATCHES = 3;
const LEAST = { ingest: 2000, aggregate: 1000, route: 50, deliver: 50 };
// The linger and the trigger alone make p99 1.25 micro-batches; twice, and a second, is not their doing any more.
const slowSeconds = (batchSeconds) => 2 * batchSeconds + 1;
// What a stage takes when all is well, of the length of a micro-batch and in seconds.
const USUAL = { batch: [0.8, 0], route: [0, 0.1], push: [0, 0.1] };
const PREDICATES = { "no answer": ["gives no answer", "give no answer"], "keeps failing": ["keeps failing", "keep failing"] };
const RECENT_SECONDS = 120;
const REASONS = { full: "its buffer is full", busy: "it has too many requests at a time", rate: "senders are over their rate" };

/**
 * @param view what lookAt returned
 * @returns {{level: "bad"|"slow"|"well", sentence: string, also: string[]}} the worst first; `also` is the rest
 */
export function judge(view) {
  const findings = [...broken(view), ...behind(view), ...late(view), ...asides(view)];
  const [first] = findings;
  if (first && first.level !== "well") {
    const name = first.level === "bad" ? "Broken" : "Slow";
    return { level: first.level, sentence: `${name}: ${first.text}.`, also: findings.slice(1).map(sentence) };
  }
  return { level: "well", sentence: `All well: ${calm(view)}.`, also: findings.map(sentence) };
}

function sentence({ text }) {
  const isName = /^\w+_/.test(text);
  return `${isName ? text : text[0].toUpperCase() + text.slice(1)}.`;
}

function calm({ whole, stream, hops: [ingest], measured }) {
  if (whole) return `p99 ${duration(whole.p99)} from tap to screen`;
  if (stream) return `streams get each batch ${duration(stream.p99)} after it was routed`;
  if (!measured) return "nothing waits";
  return ingest.rate > 0 ? "nothing waits" : "nobody taps, and nothing waits";
}

function* broken({ brokerAway, hops: [ingest], processes, standing }) {
  if (brokerAway) {
    yield { level: "bad", text: `the broker takes no events; ${count(ingest.waiting, "event")} wait for it` };
  }
  const words = new Map();
  for (const { name, word, level } of processes) {
    if (level === "bad") words.set(word, [...(words.get(word) ?? []), name]);
  }
  for (const [word, names] of words) {
    const predicate = PREDICATES[word] ?? [`is ${word}`, `are ${word}`];
    yield { level: "bad", text: `${list(names, 3)} ${predicate[names.length > 1 ? 1 : 0]}` };
  }
  const known = new Set(processes.filter(({ level }) => level !== "well").map(({ name }) => name));
  const names = standing.filter((name) => !known.has(name));
  if (names.length) {
    const takes = names.length > 1 ? "take" : "takes";
    yield { level: "bad", text: `${list(names, 3)} ${takes} nothing though there is something to take` };
  }
}

function* behind({ hops, batchSeconds, refused }) {
  const late = hops
    .map((hop) => ({ ...hop, seconds: hop.waiting / Math.max(1, hop.comes) }))
    .filter(({ name, waiting, comes }) => waiting > Math.max(LEAST[name], LAG_BATCHES * batchSeconds * comes))
    .sort((a, b) => b.seconds - a.seconds);
  for (const { name, unit, waiting, worst, rate, comes } of late) {
    const what = name === "ingest" ? `holds ${count(waiting, unit)} that the broker has not taken`
      : `is ${count(waiting, unit)} behind`;
    const ahead = name === "aggregate" && rate > comes ? `, and there in ${duration(waiting / (rate - comes))}` : "";
    yield { level: "slow", text: `${worst ?? name} ${what}${ahead}` };
  }
  for (const [reason, rate] of refused) {
    if (reason === "full" || reason === "busy") {
      yield { level: "slow", text: `ingest refuses ${count(Math.ceil(rate), "event")} a second because ${REASONS[reason]}` };
    }
  }
}

function* late({ whole, stages, stream, batchSeconds }) {
  if (stream && stream.p99 > batchSeconds) {
    yield { level: "slow", text: `streams get a batch up to ${duration(stream.p99)} after it was routed` };
  }
  if (!whole || whole.p99 <= slowSeconds(batchSeconds)) return;
  const over = stages
    .filter(({ p99 }) => p99 !== undefined)
    .map(({ name, p99 }) => ({ name, p99, over: p99 - 1.25 * USUAL[name][0] * batchSeconds - USUAL[name][1] }))
    .sort((a, b) => b.over - a.over)[0];
  const where = over ? `, most of it in ${over.name} (${duration(over.p99)})` : "";
  yield { level: "slow", text: `p99 is ${duration(whole.p99)} from tap to screen${where}` };
}

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
      const why = REASONS[reason] ?? "they are not what was expected";
      yield { level: "well", text: `ingest refuses ${count(Math.ceil(rate), "event")} a second because ${why}` };
    }
  }
}
