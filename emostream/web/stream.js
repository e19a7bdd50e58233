// GET /subscribers → one of them → its batches, each once; and on with another subscriber when that one is gone.

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 5000;
const ASK_TIMEOUT_MS = 4000;
const OPEN_TIMEOUT_MS = 5000;
const SILENCE_MS = 40_000; // a stream that is well sends a comment every 15 s
const AVOID_MS = 10_000; // how long one that has failed is not tried again while there are others
const REMEMBERED = 5000;

/** The states, in the words of the page. */
export const STATES = {
  connecting: "Connecting…",
  live: "Live",
  reconnecting: "Reconnecting…",
  full: "Full: every place is taken. Trying again…",
  offline: "Offline. Waiting for the network…",
};

/**
 * The better of two at random among those that have room, so that not all viewers go to the same one.
 * Of `cluster` where it has any: only there does a resumption know exactly what was sent.
 */
export function choose(subscribers, { cluster = null, avoid = new Set(), random = Math.random } = {}) {
  const roomy = subscribers.filter((s) => s.alive && s.stream_url && s.available_streams !== 0);
  const fresh = roomy.filter((s) => !avoid.has(s.stream_url));
  const good = fresh.length ? fresh : roomy;
  const near = good.filter((s) => s.cluster === cluster);
  const pool = near.length ? near : good;
  if (pool.length === 0) return null;
  const pick = () => pool[Math.floor(random() * pool.length)];
  const [one, other] = [pick(), pick()];
  return (other.streams ?? 0) < (one.streams ?? 0) ? other : one;
}

export class Stream {
  /**
   * @param {(batch: object, atMs: number) => void} onBatch each batch once; when it was counted, by this browser's clock
   * @param {(state: keyof STATES) => void} onState
   * @param {(reason: string) => void} onGap batches were missed that no subscriber has any more
   */
  constructor({ onBatch, onState = () => {}, onGap = () => {} }) {
    Object.assign(this, { onBatch, onState, onGap });
    this.connection = new AbortController();
    this.attempt = 0;
    this.lastId = "";
    this.lastCluster = null; // which gave lastId
    this.pause = FIRST_PAUSE_MS;
    this.avoided = new Map(); // stream_url → until when
    this.ids = new Remembered();
    this.counts = new Remembered(); // each by its micro-batch and emoji
    this.skewMs = Infinity;
  }

  start() {
    this.onState("connecting");
    this.#connect();
    addEventListener("offline", () => this.onState("offline"));
    addEventListener("online", () => this.#again(0));
    // A page that is left gives its place free at once; the browser may keep it, and show it again.
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
      if (!(error instanceof Lost)) reportError(error); // a mistake of this page's; the stream goes on all the same
    }
    if (attempt !== this.attempt) return; // somebody else has begun anew
    if (subscriber) this.avoided.set(subscriber.stream_url, Date.now() + AVOID_MS);
    this.#again();
  }

  /** Take what a subscriber sends until the connection ends, or has been silent for too long. */
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
        else if (event.data) this.#take(parsed(event.data), event.id, exact, before);
      }
    } finally {
      clearTimeout(alarm);
      connection.abort();
    }
  }

  /**
   * Hand a batch on without what is a repetition. One connection repeats nothing, and may send a batch in parts; what an
   * earlier one has brought is known by the event's id if that was of the same cluster, and by batch and emoji if not.
   */
  #take(batch, id, exact, before) {
    this.pause = FIRST_PAUSE_MS;
    // A sum over several micro-batches does not say which counts are in it.
    const known = batch.batch_id !== undefined && !(batch.merged > 1);
    const key = ({ emoji }) => known && `${batch.batch_id} ${batch.batched_ms} ${emoji}`;
    const fresh = batch.counts.filter((count) => !before.counts.has(key(count)));
    this.ids.add(id);
    batch.counts.forEach((count) => this.counts.add(key(count)));
    const counts = exact ? batch.counts : fresh;
    if (exact ? !before.ids.has(id) : fresh.length) this.onBatch({ ...batch, counts }, this.#here(batch.batched_ms));
  }

  /** Connect again after a pause; at once where it is 0. */
  #again(pauseMs = null, state = "reconnecting") {
    this.#stop();
    this.onState(navigator.onLine ? state : "offline");
    // Up to twice as long at random: the viewers of a subscriber that dies do not all come back at the same moment.
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

  /** When that moment of the servers' clock was by this browser's, taking the quickest batch as without delay. */
  #here(serverMs) {
    const now = Date.now();
    if (serverMs === undefined) return now;
    this.skewMs = Math.min(this.skewMs, now - serverMs);
    return serverMs + this.skewMs;
  }
}

/** What the network or the other side has done, and trying again may mend. */
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
 * The Server-Sent Events of a body. Not by EventSource: that keeps to one server, and shows neither an id without an
 * event, which is where to go on before the first batch, nor the comments, which tell a quiet stream from a dead one.
 * @param {() => void} heard called whenever anything comes
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

/** The newest few thousand of what was added. */
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

/** What a batch brought, as [{emoji, events}]; `events` is exact, and where it is missing `count` stands in. */
export function eventsOf(batch) {
  return batch.counts.map(({ emoji, count, events }) => ({ emoji, events: events ?? count }));
}
