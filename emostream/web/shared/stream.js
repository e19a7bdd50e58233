// GET /subscribers → the stream of one of them → its batches. If that subscriber fails, another one sends the rest.

import { report, timeoutSignal } from "./old_browsers.js";

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 5000;
const ASK_TIMEOUT_MS = 4000;
const OPEN_TIMEOUT_MS = 5000;
const SILENCE_MS = 40000; // a healthy stream sends a comment every 15 s
const AVOID_MS = 10000; // for so long after a failure, other subscribers are tried first
const RECENT_SECONDS = 60;

/** The states of the connection, as the page shows them. */
export const STATES = {
  connecting: "Connecting…",
  live: "Live",
  reconnecting: "Reconnecting…",
  full: "Full: every place is taken. Trying again…",
  offline: "Offline. Waiting for the network…",
};

/**
 * Pick two subscribers with free streams at random, and take the one with fewer streams. So not all viewers go to the
 * same one. Those of `cluster` come first, because only there the stream goes on without a gap.
 */
export function choose(subscribers, { cluster = null, avoid = new Set(), random = Math.random } = {}) {
  const free = subscribers.filter((s) => s.alive && s.stream_url && s.available_streams !== 0);
  const untried = free.filter((s) => !avoid.has(s.stream_url));
  const good = untried.length ? untried : free;
  const near = good.filter((s) => s.cluster === cluster);
  const pool = near.length ? near : good;
  if (pool.length === 0) return null;
  const pick = () => pool[Math.floor(random() * pool.length)];
  const [one, other] = [pick(), pick()];
  return (other.streams || 0) < (one.streams || 0) ? other : one;
}

export class Stream {
  /**
   * @param {(batch: object, atMs: number) => void} onBatch gets each batch, and when it was counted, by this browser's
   *   clock
   * @param {?(batches: [object, number][]) => void} onRecent gets the batches of the last minute, once, in the same form
   * @param {(state: keyof STATES) => void} onState
   * @param {(reason: string) => void} onGap is called if batches were missed for good
   */
  constructor({ onBatch, onRecent = null, onState = () => {}, onGap = () => {} }) {
    Object.assign(this, { onBatch, onRecent, onState, onGap });
    this.connection = new AbortController();
    this.attempt = 0;
    this.lastId = "";
    this.lastCluster = null; // the cluster that lastId is from
    this.pause = FIRST_PAUSE_MS;
    this.avoided = new Map(); // stream_url → until when
    this.skewMs = Infinity;
  }

  start() {
    this.onState("connecting");
    this._connect();
    addEventListener("offline", () => this.onState("offline"));
    addEventListener("online", () => this._again(0));
    // When the viewer leaves, the page ends its stream at once. The browser may keep the page and show it again later.
    addEventListener("pagehide", () => this._stop());
    addEventListener("pageshow", (event) => event.persisted && this._again(0));
  }

  async _connect() {
    const connection = (this.connection = new AbortController());
    const attempt = ++this.attempt;
    let subscriber;
    try {
      const found = await ask();
      if (attempt !== this.attempt) return;
      subscriber = choose(found, { cluster: this.lastCluster, avoid: this._avoid() });
      if (!subscriber) {
        const full = found.some((one) => one.alive);
        this._again(full ? LONGEST_PAUSE_MS : null, full ? "full" : "reconnecting");
        return;
      }
      await this._read(subscriber, connection);
    } catch (error) {
      if (!error.isLost) report(error); // a bug in this page, which must not end the stream
    }
    if (attempt !== this.attempt) return; // another attempt has begun
    if (subscriber) this.avoided.set(subscriber.stream_url, Date.now() + AVOID_MS);
    this._again();
  }

  /** Read what a subscriber sends until the connection ends, or is silent for too long. */
  async _read(subscriber, connection) {
    const url = new URL(subscriber.stream_url);
    if (this.lastId) url.searchParams.set("last_event_id", this.lastId);
    else if (this.onRecent) url.searchParams.set("recent", RECENT_SECONDS);
    let alarm;
    const patience = (ms) => {
      clearTimeout(alarm);
      alarm = setTimeout(() => connection.abort(), ms);
    };
    try {
      patience(OPEN_TIMEOUT_MS);
      const answer = await get(url, connection.signal);
      this.onState("live");
      await readEvents(answer.body, () => patience(SILENCE_MS), (event) => {
        if (event.id) [this.lastId, this.lastCluster] = [event.id, subscriber.cluster];
        if (event.data) this._handle(event.type, parsed(event.data));
      });
    } finally {
      clearTimeout(alarm);
      connection.abort();
    }
  }

  _handle(type, data) {
    if (type === "gap") {
      this.onGap(data.reason);
    } else if (type === "recent") {
      const { onRecent } = this;
      this.onRecent = null;
      const skewMs = Date.now() - data.pushed_ms; // between the subscriber's clock and this one
      for (const { batched_ms: batchedMs, pushed_ms: pushedMs } of data.batches) this._localTime(batchedMs, pushedMs + skewMs);
      onRecent(data.batches.map((batch) => [batch, this._localTime(batch.batched_ms, batch.pushed_ms + skewMs)]));
    } else if (type === "message") {
      this.pause = FIRST_PAUSE_MS;
      this.onBatch(data, this._localTime(data.batched_ms));
    }
  }

  /** Connect again after a pause; at once if `pauseMs` is 0. */
  _again(pauseMs = null, state = "reconnecting") {
    this._stop();
    this.onState(navigator.onLine ? state : "offline");
    // Add a random pause, so that not all viewers of a dead subscriber come back at the same moment.
    this.timer = setTimeout(() => this._connect(), (pauseMs === null ? this.pause : pauseMs) * (1 + Math.random()));
    if (pauseMs === null) this.pause = Math.min(LONGEST_PAUSE_MS, this.pause * 2);
  }

  _stop() {
    this.attempt += 1;
    this.connection.abort();
    clearTimeout(this.timer);
  }

  _avoid() {
    for (const [url, until] of this.avoided) if (until < Date.now()) this.avoided.delete(url);
    return new Set(this.avoided.keys());
  }

  /**
   * Convert a time of the servers' clock to this browser's clock, as if the quickest batch so far had had no delay.
   * `nowMs` is when the batch came, by this browser's clock.
   */
  _localTime(serverMs, nowMs = Date.now()) {
    if (serverMs === undefined) return nowMs;
    this.skewMs = Math.min(this.skewMs, nowMs - serverMs);
    return serverMs + this.skewMs;
  }
}

/** Throw an error that the network or the other side caused. Trying again may help. */
function lost(error) {
  throw Object.assign(new Error(String(error)), { isLost: true });
}

async function get(url, signal) {
  const answer = await fetch(url, { cache: "no-store", signal }).catch(lost);
  return answer.ok ? answer : lost(`${url}: ${answer.status}`);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    return lost(error);
  }
}

async function ask() {
  const answer = await get("/subscribers", timeoutSignal(ASK_TIMEOUT_MS));
  return parsed(await answer.text().catch(lost)).subscribers;
}

/**
 * Read the Server-Sent Events of a body. EventSource cannot do this: it stays with one server, and it hides both an id
 * without data (the position before the first batch) and comments (without them, a quiet stream looks dead).
 * @param {() => void} heard is called whenever anything arrives
 * @param {(event: {type: string, id: string, data: string}) => void} onEvent
 */
async function readEvents(body, heard, onEvent) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let event = { type: "message", id: "", data: "" };
  for (;;) {
    const { value, done } = await reader.read().catch(lost);
    if (done) return;
    heard();
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines.map((line) => line.replace(/\r$/, ""))) {
      if (line === "") {
        onEvent(event);
        event = { type: "message", id: "", data: "" };
        continue;
      }
      const [, name, text] = /^([^:]*):? ?(.*)$/.exec(line);
      if (name === "event") event.type = text;
      else if (name === "id") event.id = text;
      else if (name === "data") event.data += (event.data && "\n") + text;
    }
  }
}

/** The counts of a batch as [{emoji, events}]. `events` is exact; if it is missing, it is `count`. */
export function eventsOf(batch) {
  return batch.counts.map(({ emoji, count, events = count }) => ({ emoji, events }));
}
