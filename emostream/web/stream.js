// GET /subscribers → one of them → its batches, each once; and on with another subscriber when that one is gone.

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 5000;
const ASK_TIMEOUT_MS = 4000;
const OPEN_TIMEOUT_MS = 5000;
const AVOID_MS = 10_000; // how long one that has failed is not tried again while there are others
const QUIET_MS = 30_000; // without a batch for this long, ask whether the subscriber is still there
const ANSWERED_WITHIN_MS = 10_000; // a tap that was taken comes back in a batch within this
const REMEMBERED = 500;

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
    this.subscriber = null;
    this.source = null;
    this.lastId = "";
    this.lastCluster = null; // which gave lastId
    this.heardAt = 0;
    this.pause = FIRST_PAUSE_MS;
    this.attempt = 0;
    this.avoided = new Map(); // stream_url → until when
    this.ids = new Remembered();
    this.batches = new Remembered();
    this.skewMs = Infinity;
  }

  start() {
    this.onState("connecting");
    this.#connect();
    setInterval(() => this.#watch(), QUIET_MS / 3);
    addEventListener("offline", () => this.onState("offline"));
    addEventListener("online", () => this.#again(0));
    // A page that comes back from sleep or from the browser's cache may hold a connection that is dead.
    addEventListener("pageshow", (event) => event.persisted && this.#again(0));
    document.addEventListener("visibilitychange", () => this.#watch());
  }

  /** Something was sent: if nothing comes back in time, look whether the subscriber is still there. */
  expect() {
    const sentAt = Date.now();
    setTimeout(() => this.heardAt < sentAt && this.#check(), ANSWERED_WITHIN_MS);
  }

  async #connect() {
    const attempt = ++this.attempt; // whatever an earlier one still hears is void
    this.source?.close();
    let found;
    try {
      found = await ask();
    } catch {
      if (attempt === this.attempt) this.#again();
      return;
    }
    if (attempt !== this.attempt) return;
    const chosen = choose(found, { cluster: this.lastCluster, avoid: this.#avoid() });
    if (chosen) {
      this.#open(chosen, attempt);
    } else {
      const full = found.some((s) => s.alive);
      this.#again(full ? LONGEST_PAUSE_MS : null, full ? "full" : "reconnecting");
    }
  }

  #open(subscriber, attempt) {
    const url = new URL(subscriber.stream_url);
    if (this.lastId) url.searchParams.set("last_event_id", this.lastId);
    const source = new EventSource(url);
    const current = (handle) => (event) => attempt === this.attempt && handle(event);
    const exact = this.lastCluster === subscriber.cluster;
    const [ids, batches] = [this.ids.copy(), this.batches.copy()];
    const failed = current(() => {
      this.avoided.set(subscriber.stream_url, Date.now() + AVOID_MS);
      this.#again();
    });
    const patience = setTimeout(failed, OPEN_TIMEOUT_MS);
    this.subscriber = subscriber;
    this.source = source;
    source.onerror = () => {
      clearTimeout(patience);
      failed();
    };
    source.onopen = current(() => {
      clearTimeout(patience);
      this.heardAt = Date.now();
      this.onState("live");
    });
    source.addEventListener("gap", current((event) => this.onGap(JSON.parse(event.data).reason)));
    source.onmessage = current((event) => {
      this.heardAt = Date.now();
      this.pause = FIRST_PAUSE_MS;
      const batch = JSON.parse(event.data);
      // One connection repeats nothing, and may send a batch in parts. What an earlier one has brought is known by
      // the event's id where that is this cluster's, and by the batch where it is not.
      const key = batch.batch_id === undefined ? "" : `${batch.batch_id} ${batch.batched_ms}`;
      const repeated = exact ? ids.has(event.lastEventId) : batches.has(key);
      this.lastId = event.lastEventId;
      this.lastCluster = subscriber.cluster;
      this.ids.add(this.lastId);
      this.batches.add(key);
      if (!repeated) this.onBatch(batch, this.#here(batch.batched_ms));
    });
  }

  /** Connect again after a pause; at once where it is 0. */
  #again(pauseMs = null, state = "reconnecting") {
    this.attempt += 1;
    this.source?.close();
    this.source = null;
    this.onState(navigator.onLine ? state : "offline");
    clearTimeout(this.timer);
    // Up to twice as long at random: the viewers of a subscriber that dies do not all come back at the same moment.
    this.timer = setTimeout(() => this.#connect(), (pauseMs ?? this.pause) * (1 + Math.random()));
    if (pauseMs === null) this.pause = Math.min(LONGEST_PAUSE_MS, this.pause * 2);
  }

  #watch() {
    if (!document.hidden && Date.now() - this.heardAt > QUIET_MS) this.#check();
  }

  /** A subscriber that hangs closes no connection: go on with another when the app does not see it alive. */
  async #check() {
    const attempt = this.attempt;
    if (!this.source) return;
    this.heardAt = Date.now();
    const found = await ask().catch(() => null);
    if (attempt !== this.attempt || !found) return;
    const ours = found.find((s) => s.stream_url === this.subscriber.stream_url);
    if (!ours?.alive) {
      this.avoided.set(this.subscriber.stream_url, Date.now() + AVOID_MS);
      this.#again();
    }
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

/** The newest few hundred of what was added. */
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

async function ask() {
  const answer = await fetch("/subscribers", { cache: "no-store", signal: AbortSignal.timeout(ASK_TIMEOUT_MS) });
  if (!answer.ok) throw new Error(`GET /subscribers: ${answer.status}`);
  return (await answer.json()).subscribers;
}

/** What a batch brought, as [{emoji, events}]; `events` is exact, and where it is missing `count` stands in. */
export function eventsOf(batch) {
  return batch.counts.map(({ emoji, count, events }) => ({ emoji, events: events ?? count }));
}
