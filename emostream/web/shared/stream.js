// GET /subscribers → the stream of one of them → its batches, each once; from another subscriber when that one is gone.

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 5000;
const ASK_TIMEOUT_MS = 4000;
const OPEN_TIMEOUT_MS = 5000;
const SILENCE_MS = 40_000; // a healthy stream sends a comment every 15 s
const AVOID_MS = 10_000; // how long a subscriber that has failed is not tried while there are others
const REMEMBERED = 5000;

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
 * same one. Those of `cluster` come first, because only they know exactly what this page has seen.
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
  return (other.streams ?? 0) < (one.streams ?? 0) ? other : one;
}

export class Stream {
  /**
   * @param {(batch: object, atMs: number) => void} onBatch gets each batch once, and when it was counted, by this
   *   browser's clock
   * @param {(state: keyof STATES) => void} onState
   * @param {(reason: string) => void} onGap is told when batches were missed that no subscriber keeps any more
   */
  constructor({ onBatch, onState = () => {}, onGap = () => {} }) {
    Object.assign(this, { onBatch, onState, onGap });
    this.connection = new AbortController();
    this.attempt = 0;
    this.lastId = "";
    this.lastCluster = null; // the cluster that lastId is from
    this.pause = FIRST_PAUSE_MS;
    this.avoided = new Map(); // stream_url → until when
    this.ids = new Remembered();
    this.counts = new Remembered(); // each as micro-batch and emoji
    this.skewMs = Infinity;
  }

  start() {
    this.onState("connecting");
    this.#connect();
    addEventListener("offline", () => this.onState("offline"));
    addEventListener("online", () => this.#again(0));
    // A page that is left frees its stream at once. The browser may keep the page, and show it again later.
    addEventListener("pagehide", () => this.#stop());
    addEventListener("pageshow", (event) => event.persisted && this.#again(0));
  }

  async #connect() {
    const connection = (this.connection = new AbortController());
    const attempt = ++this.attempt;
    let subscriber;
    try {
      const found = await ask();
      if (attempt !== this.attempt) return;
      subscriber = choose(found, { cluster: this.lastCluster, avoid: this.#avoid() });
      if (!subscriber) {
        const full = found.some((one) => one.alive);
        this.#again(full ? LONGEST_PAUSE_MS : null, full ? "full" : "reconnecting");
        return;
      }
      await this.#read(subscriber, connection);
    } catch (error) {
      if (!(error instanceof Lost)) reportError(error); // a bug in this page, which must not end the stream
    }
    if (attempt !== this.attempt) return; // another attempt has begun
    if (subscriber) this.avoided.set(subscriber.stream_url, Date.now() + AVOID_MS);
    this.#again();
  }

  /** Read what a subscriber sends until the connection ends, or is silent for too long. */
  async #read(subscriber, connection) {
    const url = new URL(subscriber.stream_url);
    if (this.lastId) url.searchParams.set("last_event_id", this.lastId);
    let alarm;
    const patience = (ms) => {
      clearTimeout(alarm);
      alarm = setTimeout(() => connection.abort(), ms);
    };
    const exact = this.lastCluster === subscriber.cluster;
    const before = { ids: this.ids.copy(), counts: this.counts.copy() };
    try {
      patience(OPEN_TIMEOUT_MS);
      const answer = await get(url, connection.signal);
      this.onState("live");
      for await (const event of events(answer.body, () => patience(SILENCE_MS))) {
        if (event.id) [this.lastId, this.lastCluster] = [event.id, subscriber.cluster];
        if (event.type === "gap") this.onGap(parsed(event.data).reason);
        else if (event.data) this.#handOn(parsed(event.data), event.id, exact, before);
      }
    } finally {
      clearTimeout(alarm);
      connection.abort();
    }
  }

  /**
   * Hand on a batch without the counts that an earlier connection has brought. (One connection repeats nothing, but may
   * send a batch in parts.) Within a cluster a repetition has the same event id. In another cluster it has another id, so
   * there each count is compared by micro-batch and emoji.
   */
  #handOn(batch, id, exact, before) {
    this.pause = FIRST_PAUSE_MS;
    // The sum of several micro-batches does not say which counts are in it.
    const known = batch.batch_id !== undefined && !(batch.merged > 1);
    const key = ({ emoji }) => known && `${batch.batch_id} ${batch.batched_ms} ${emoji}`;
    const fresh = batch.counts.filter((count) => !before.counts.has(key(count)));
    this.ids.add(id);
    batch.counts.forEach((count) => this.counts.add(key(count)));
    const counts = exact ? batch.counts : fresh;
    if (exact ? !before.ids.has(id) : fresh.length) this.onBatch({ ...batch, counts }, this.#localTime(batch.batched_ms));
  }

  /** Connect again after a pause; at once if `pauseMs` is 0. */
  #again(pauseMs = null, state = "reconnecting") {
    this.#stop();
    this.onState(navigator.onLine ? state : "offline");
    // Up to twice as long at random, so that the viewers of a dead subscriber do not all come back at the same moment.
    this.timer = setTimeout(() => this.#connect(), (pauseMs ?? this.pause) * (1 + Math.random()));
    if (pauseMs === null) this.pause = Math.min(LONGEST_PAUSE_MS, this.pause * 2);
  }

  #stop() {
    this.attempt += 1;
    this.connection.abort();
    clearTimeout(this.timer);
  }

  #avoid() {
    for (const [url, until] of this.avoided) if (until < Date.now()) this.avoided.delete(url);
    return new Set(this.avoided.keys());
  }

  /** Convert a time of the servers' clock to this browser's. The quickest batch so far counts as one without delay. */
  #localTime(serverMs) {
    const now = Date.now();
    if (serverMs === undefined) return now;
    this.skewMs = Math.min(this.skewMs, now - serverMs);
    return serverMs + this.skewMs;
  }
}

/** A failure of the network or the other side. Trying again may help. */
class Lost extends Error {}

const lost = (error) => {
  throw new Lost(String(error));
};

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
  const answer = await get("/subscribers", AbortSignal.timeout(ASK_TIMEOUT_MS));
  return parsed(await answer.text().catch(lost)).subscribers;
}

/**
 * The Server-Sent Events of a body. EventSource cannot be used: it stays with one server, it hides an id that comes
 * without data (the position before the first batch), and it hides comments (which tell a quiet stream from a dead one).
 * @param {() => void} heard is called whenever anything arrives
 */
async function* events(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { type: "message", id: "", data: "" };
  for (;;) {
    const { value, done } = await reader.read().catch(lost);
    if (done) return;
    heard();
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((line) => line.replace(/\r$/, ""))) {
      if (line === "") {
        yield event;
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

/** The newest few thousand items that were added. */
class Remembered {
  constructor(items = []) {
    this.items = new Set(items);
  }

  add(item) {
    if (item) this.items.add(item);
    if (this.items.size > REMEMBERED) this.items.delete(this.items.values().next().value);
  }

  has(item) {
    return this.items.has(item);
  }

  copy() {
    return new Remembered(this.items);
  }
}

/** The counts of a batch as [{emoji, events}]. `events` is exact; where it is missing, `count` stands in. */
export function eventsOf(batch) {
  return batch.counts.map(({ emoji, count, events }) => ({ emoji, events: events ?? count }));
}
