// <emo-reactions>: the crowd's reactions in anybody's page, explained in docs/element.md.
// Source (a stream, or polls) → Tabs (one Source for all tabs) → Batches (each once) → Picture (no spoilers) → the element.

const EMOJIS = ["😊", "😂", "😍", "🔥", "👏"];
const BATCH_SECONDS = 2; // until the app says how long its batches are

/** Milliseconds since 1970 as they were when the page was loaded; setting the clock makes no difference. */
const now = () => performance.timeOrigin + performance.now();

// --- what Chromium 75, which is in OBS 27, lacks ---

/** AbortSignal.timeout(). */
function timeoutSignal(ms) {
  const controller = new AbortController();
  setTimeout(() => controller.abort(), ms);
  return controller.signal;
}

/** reportError(): a bug here shows in the console, and the page goes on. */
function report(error) {
  setTimeout(() => {
    throw error;
  });
}

// --- the source ---

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 5000;
const ASK_TIMEOUT_MS = 4000;
const OPEN_TIMEOUT_MS = 5000;
const SILENCE_MS = 40000; // a healthy stream sends a comment every 15 s
const AVOID_MS = 10000; // for so long after a failure, other subscribers are tried first
const RECENT_SECONDS = 60;

/** The states of the connection, in words. */
const STATES = {
  connecting: "Connecting…",
  live: "Live",
  polling: "Live",
  reconnecting: "Reconnecting…",
  full: "Full: every place is taken. Trying again…",
  offline: "Offline. Waiting for the network…",
  refused: "Refused",
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

/**
 * GET /subscribers → the stream of one of them. If that subscriber fails, another one sends the rest. While all are
 * full, or always if `poll`: GET /pulse.json.
 */
export class Source {
  /**
   * @param {string} base where the app is
   * @param {string} room "" for the default room
   * @param {(message: object) => void} tell gets {type: "state", state, reason, batchSeconds}, {type: "batch", data},
   *   {type: "recent", data}, {type: "pulse", data}, {type: "gap", data} and {type: "beat"}. Those of a stream also have
   *   `id` and `cluster`, from which another Source can go on.
   */
  constructor(base, room, tell, poll = false) {
    Object.assign(this, { base, room, tell, poll });
    this.connection = new AbortController();
    this.attempt = 0;
    this.pause = FIRST_PAUSE_MS;
    this.avoided = new Map(); // stream_url → until when
    this.batchSeconds = BATCH_SECONDS;
    this.polling = null; // the running loop of polls
  }

  /** Begin, after `id` of `cluster` if it is known. */
  start(id = "", cluster = null) {
    Object.assign(this, { lastId: id, lastCluster: cluster });
    this._state("connecting");
    this._connect();
  }

  stop() {
    this.attempt += 1;
    this.polling = null;
    this.connection.abort();
    clearTimeout(this.timer);
  }

  offline() {
    this._state("offline");
  }

  online() {
    this.stop();
    this._again(0);
  }

  _state(state, reason = "") {
    this.state = state;
    this.tell({ type: "state", state, reason, batchSeconds: this.batchSeconds });
  }

  async _connect() {
    if (this.poll) return this._poll();
    const connection = (this.connection = new AbortController());
    const attempt = ++this.attempt;
    let subscriber = null;
    let isFull = false;
    try {
      const found = await this._ask();
      if (attempt !== this.attempt) return;
      subscriber = choose(found, { cluster: this.lastCluster, avoid: this._avoid() });
      isFull = !subscriber && found.some((one) => one.alive);
      if (subscriber) await this._read(subscriber, connection);
    } catch (error) {
      if (attempt === this.attempt && error.refusal) return this._refused(error);
      isFull = error.status === 503;
      if (!error.isLost) report(error); // a bug of ours, which must not end the stream
    }
    if (attempt !== this.attempt) return; // another attempt has begun
    if (subscriber) this.avoided.set(subscriber.stream_url, Date.now() + AVOID_MS);
    if (isFull) this._poll();
    this._again(isFull && !subscriber ? LONGEST_PAUSE_MS : null, isFull ? "full" : "reconnecting");
  }

  async _ask() {
    const found = await json(await get(new URL("subscribers", this.base), timeoutSignal(ASK_TIMEOUT_MS)));
    this.batchSeconds = found.batch_seconds || BATCH_SECONDS;
    return found.subscribers;
  }

  /** Read what a subscriber sends until the connection ends, or is silent for too long. */
  async _read({ stream_url: streamUrl, cluster }, connection) {
    const url = new URL(streamUrl);
    if (/^https:/.test(this.base)) url.protocol = "https:"; // a proxy speaks TLS for all ports
    if (this.room) url.searchParams.set("room", this.room);
    if (this.lastId) url.searchParams.set("last_event_id", this.lastId);
    else url.searchParams.set("recent", RECENT_SECONDS);
    let alarm;
    const patience = (ms) => {
      clearTimeout(alarm);
      alarm = setTimeout(() => connection.abort(), ms);
    };
    const heard = () => {
      patience(SILENCE_MS);
      this.tell({ type: "beat" });
    };
    try {
      patience(OPEN_TIMEOUT_MS);
      const answer = await get(url, connection.signal);
      this.polling = null;
      this._state("live");
      await readEvents(answer.body, heard, ({ type, id, data }) => {
        if (id) Object.assign(this, { lastId: id, lastCluster: cluster });
        const known = { gap: "gap", recent: "recent", message: "batch" }[type];
        const message = { type: data && known ? known : "beat", data: data ? parsed(data) : null };
        if (message.type === "batch") this.pause = FIRST_PAUSE_MS;
        this.tell(id ? Object.assign(message, { id, cluster }) : message);
      });
    } finally {
      clearTimeout(alarm);
      connection.abort();
    }
  }

  /** Ask for the newest batches again and again. A stream that opens ends this. */
  async _poll() {
    if (this.polling) return;
    const turn = (this.polling = {});
    const url = new URL("pulse.json", this.base);
    if (this.room) url.searchParams.set("room", this.room);
    while (this.polling === turn) {
      try {
        const data = await json(await get(url, timeoutSignal(ASK_TIMEOUT_MS), "default"));
        if (this.polling !== turn) return;
        this.batchSeconds = data.batch_seconds || BATCH_SECONDS;
        this.lastId = ""; // what the polls have brought is known by its batch ids alone, as ?recent= tells them
        if (this.state !== "polling") this._state("polling");
        this.tell({ type: "pulse", data });
      } catch (error) {
        if (this.polling !== turn) return;
        if (error.refusal) return this._refused(error);
        if (!error.isLost) report(error);
        if (this.poll || this.state === "polling") this._state(isOnline() ? "reconnecting" : "offline");
      }
      // Not all viewers at the same moment.
      await new Promise((resolve) => setTimeout(resolve, this.batchSeconds * 1000 * (0.9 + 0.2 * Math.random())));
    }
  }

  _refused({ refusal }) {
    this.stop();
    this._state("refused", refusal);
  }

  /** Connect again after a pause; at once if `pauseMs` is 0. */
  _again(pauseMs = null, state = "reconnecting") {
    clearTimeout(this.timer);
    if (this.state !== "polling" || !this.polling) this._state(isOnline() ? state : "offline");
    // Add a random pause, so that not all viewers of a dead subscriber come back at the same moment.
    this.timer = setTimeout(() => this._connect(), (pauseMs === null ? this.pause : pauseMs) * (1 + Math.random()));
    if (pauseMs === null) this.pause = Math.min(LONGEST_PAUSE_MS, this.pause * 2);
  }

  _avoid() {
    for (const [url, until] of this.avoided) if (until < Date.now()) this.avoided.delete(url);
    return new Set(this.avoided.keys());
  }
}

function isOnline() {
  return typeof navigator === "undefined" || navigator.onLine !== false;
}

/** Throw an error that the network or the other side caused. Trying again may help. */
function lost(error, status = 0) {
  throw Object.assign(new Error(String(error)), { isLost: true, status });
}

async function get(url, signal, cache = "no-store") {
  const answer = await fetch(url, { cache, signal }).catch((error) => lost(error));
  if (answer.status === 400) throw Object.assign(new Error(url), { refusal: (await json(answer)).error });
  return answer.ok ? answer : lost(`${url}: ${answer.status}`, answer.status);
}

async function json(answer) {
  return parsed(await answer.text().catch((error) => lost(error)));
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    return lost(error);
  }
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
    const { value, done } = await reader.read().catch((error) => lost(error));
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

// --- each batch once ---

const KEEP_MS = 90000; // longer than ?recent= reaches back
const FRESH_BATCHES = 2; // what is older is counted, but does not float
const KEPT_BATCHES = 2000;

/** Messages of a Source → each batch once, whichever way it came, with its time. */
export class Batches {
  /**
   * @param {(batch: object) => void} show gets {batch_id, counts: [{emoji, events}], at_ms, server_ms, tapped_ms, recent,
   *   isFresh}: `at_ms` is when it was counted by this browser's clock; its newest tap was made at `server_ms` by the
   *   servers' clock, at `tapped_ms` by this one
   */
  constructor(show, clock = now) {
    Object.assign(this, { show, clock });
    this.shown = new Map(); // batch id → {sums: Map of emoji → events, isWhole, times: {at_ms, server_ms, tapped_ms}}
    // How far this clock is ahead of those of two servers, as if the quickest message of each had had no delay.
    this.skewMs = { counted: Infinity, pushed: Infinity };
    this.batchSeconds = BATCH_SECONDS;
  }

  take({ type, data, batchSeconds }) {
    if (type === "state") this.batchSeconds = batchSeconds;
    const nowMs = this.clock();
    if (type === "batch") {
      this._seen("counted", data.batched_ms, nowMs);
      this._seen("pushed", data.pushed_ms, nowMs);
      this._add(data, { isFresh: this._isFresh(nowMs - this._local("pushed", data.pushed_ms)) });
    } else if (type === "recent") {
      this._seen("pushed", data.pushed_ms, nowMs);
      for (const one of data.batches) this._seen("counted", one.batched_ms, this._local("pushed", one.pushed_ms));
      for (const one of data.batches) {
        this._add(one, { isSum: true, recent: true, isFresh: this._isFresh(nowMs - this._local("counted", one.batched_ms)) });
      }
    } else if (type === "pulse") {
      for (const one of data.batches) this._seen("counted", one.batched_ms, nowMs);
      const freshest = data.batches.length - FRESH_BATCHES;
      data.batches.forEach((one, index) => this._add(one, { isSum: true, isWhole: true, isFresh: index >= freshest }));
    } else if (type === "past") {
      for (const { batch_id, counts, server_ms, at_age, tapped_age } of data) {
        const times = { at_ms: nowMs - at_age, server_ms, tapped_ms: nowMs - tapped_age };
        this._add({ batch_id, counts }, { times, isSum: true, recent: true, isFresh: this._isFresh(at_age) });
      }
    }
  }

  /** What this has shown of the last minute, for a `past` message. */
  past() {
    const nowMs = this.clock();
    const past = [...this.shown].map(([id, { sums, times: { at_ms, server_ms, tapped_ms } }]) => ({
      batch_id: typeof id === "number" ? id : undefined,
      counts: [...sums].map(([emoji, events]) => ({ emoji, events })),
      server_ms,
      at_age: nowMs - at_ms,
      tapped_age: nowMs - tapped_ms,
    }));
    return past.filter((batch) => batch.at_age < RECENT_SECONDS * 1000);
  }

  _seen(server, serverMs, nowMs) {
    if (serverMs) this.skewMs[server] = Math.min(this.skewMs[server], nowMs - serverMs);
  }

  /** A time of a server's clock by this one; now, if it is not known. */
  _local(server, serverMs) {
    return serverMs ? serverMs + this.skewMs[server] : this.clock();
  }

  _isFresh(ageMs) {
    return ageMs < FRESH_BATCHES * 1000 * this.batchSeconds;
  }

  /**
   * A stream sends the parts of a batch one after another. `isSum`: the counts are those of the whole batch so far, so
   * what was shown is taken off. `isWhole`: what a stream sends of this batch is in them too.
   */
  _add(batch, { times, isSum = false, isWhole = false, recent = false, isFresh }) {
    const { batch_id: id = {}, batched_ms: batchedMs, last_accepted_ms: newestMs = batchedMs } = batch;
    if (!times) {
      times = { at_ms: this._local("counted", batchedMs), server_ms: newestMs, tapped_ms: this._local("counted", newestMs) };
    }
    const known = this.shown.get(id) || { sums: new Map(), isWhole: false, times };
    if (known.isWhole && !isSum) return;
    known.isWhole = known.isWhole || isWhole;
    const counts = [];
    for (const { emoji, count, events = count } of batch.counts) {
      const before = known.sums.get(emoji) || 0;
      const added = isSum ? events - before : events;
      if (added <= 0) continue;
      known.sums.set(emoji, before + added);
      counts.push({ emoji, events: added });
    }
    this.shown.set(id, known);
    for (const [oldest, { times: { at_ms: atMs } }] of this.shown) {
      if (atMs > this.clock() - KEEP_MS && this.shown.size <= KEPT_BATCHES) break;
      this.shown.delete(oldest);
    }
    if (counts.length) this.show({ batch_id: batch.batch_id, counts, recent, isFresh, ...times });
  }
}

// --- no spoilers ---

const LOOK_MS = 100;
const LATE_MS = 1000; // after a seek, what is later than this is counted, but does not float
const MOST_HELD = 2000;

/** Batches → the same, each when the viewer's picture has come to the time of its newest tap. */
export class Picture {
  /**
   * @param {(batch: object) => void} show
   * @param {(reason: string) => void} onGap
   * @param {number | (() => number)} behind how many seconds the picture is behind, or a function that returns the time
   *   of the picture in Unix milliseconds, NaN while nobody knows
   */
  constructor(show, onGap, behind, clock = now) {
    Object.assign(this, { show, onGap, behind, clock });
    this.held = [];
  }

  take(batch) {
    if (this.held.length === 0 && this._lateMs(batch) >= 0) return this.show(batch);
    this.held.push(batch);
    if (this.held.length > MOST_HELD) {
      this.held.shift();
      this.onGap("the picture is so far behind that the oldest reactions were left out");
    }
    if (!this.timer) this.timer = setInterval(() => this.look(), LOOK_MS);
  }

  /** Show what is due. */
  look() {
    let lateMs;
    while (this.held.length && (lateMs = this._lateMs(this.held[0])) >= 0) {
      this.show(Object.assign(this.held.shift(), { recent: false, isFresh: lateMs < LATE_MS }));
    }
    if (this.held.length === 0) this.stop();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
  }

  _lateMs({ server_ms: serverMs, tapped_ms: tappedMs }) {
    if (typeof this.behind === "function") return this.behind() - serverMs;
    return this.behind > 0 ? this.clock() - tappedMs - this.behind * 1000 : 0;
  }
}

/** The time of a video's picture in Unix milliseconds; NaN if nobody tells it. */
export function pictureMs(video) {
  if (!video) return NaN;
  const told = video.programDateTime;
  if (told !== undefined && told !== null) return new Date(told).getTime();
  return video.getStartDate ? video.getStartDate().getTime() + video.currentTime * 1000 : NaN; // Safari, with HLS
}

// --- one stream for all tabs ---

const WATCH_MS = 10000;

/**
 * Messages of one Source → all tabs that show the same room. The tab that has the lock runs its Source and tells the
 * others. When it ends, the next one goes on after the last message. Without locks, each tab is for itself.
 */
export class Tabs {
  /** `take` gets the messages; `past()` returns the data of a `past` message, for tabs that come later. */
  constructor(name, source, take, past, { locks, Channel } = {}) {
    Object.assign(this, { name, source, take, past, locks, Channel });
    Object.assign(this, { id: "", cluster: null, isLeading: false, state: { type: "state", state: "connecting" } });
    source.tell = (message) => {
      if (this.channel) this.channel.postMessage(message);
      this._note(message);
    };
  }

  start() {
    if (!this.locks || !this.Channel) return this._lead();
    this.isWelcome = false;
    this.channel = new this.Channel(this.name);
    this.channel.onmessage = (event) => this._hear(event.data);
    this.channel.postMessage({ type: "hello" });
    this._queue(false);
    this.heardMs = this.watchedMs = now();
    this.timer = setInterval(() => this._watch(now()), WATCH_MS);
  }

  stop() {
    clearInterval(this.timer);
    this.isLeading = false;
    this.source.stop();
    if (!this.channel) return;
    this.channel.close();
    this.channel = null;
    this.waiting.abort();
    if (this.release) this.release();
  }

  online() {
    if (this.isLeading) this.source.online();
  }

  offline() {
    if (this.isLeading) this.source.offline();
  }

  _queue(steal) {
    const { channel } = this;
    let isHeld = false;
    this.waiting = new AbortController(); // which cannot be combined with `steal`
    const granted = () => {
      if (this.channel !== channel) return null;
      isHeld = true;
      this._lead();
      return new Promise((resolve) => (this.release = resolve));
    };
    this.locks.request(this.name, steal ? { steal } : { signal: this.waiting.signal }, granted).catch((error) => {
      if (this.channel !== channel) return;
      if (isHeld) {
        this.isLeading = false; // another tab has taken the lock, because this one was silent for too long
        this.source.stop();
        this._queue(false);
      } else if (error.name !== "AbortError") {
        this._lead(); // a page without an origin has no locks
      }
    });
  }

  _lead() {
    this.isLeading = true;
    if (this.channel) this.channel.postMessage(this._welcome()); // to those who have asked nobody
    this.source.start(this.id, this.cluster);
  }

  _welcome() {
    return { type: "welcome", state: this.state, past: this.past(), id: this.id, cluster: this.cluster };
  }

  _hear(message) {
    if (this.isLeading) {
      if (message.type === "hello") this.channel.postMessage(this._welcome());
      return;
    }
    this.heardMs = now();
    if (message.type === "welcome" && !this.isWelcome) {
      this.isWelcome = true;
      this._note(message.state);
      this._note({ type: "past", data: message.past, id: message.id, cluster: message.cluster });
    } else if (this.isWelcome && message.type !== "hello" && message.type !== "welcome") {
      this._note(message);
    }
  }

  _note(message) {
    if (message.id) Object.assign(this, { id: message.id, cluster: message.cluster });
    if (message.type === "pulse") this.id = "";
    if (message.type === "state") this.state = message;
    this.take(message);
  }

  /** Take the lock from a tab that hangs. */
  _watch(nowMs) {
    if (nowMs - this.watchedMs > 2 * WATCH_MS) this.heardMs = nowMs; // this tab was asleep itself
    this.watchedMs = nowMs;
    const isSilent = nowMs - this.heardMs > SILENCE_MS * (1.25 + Math.random());
    if (this.isLeading || this.state.state === "refused" || !isSilent) return;
    this.waiting.abort();
    this._queue(true);
  }
}

// --- taps ---

const MERGE_MS = 500;
const MOST_PER_EVENT = 1000; // the highest `count` that the app accepts
const MOST_WAITING = 20000;
const TRY_FOR_MS = 10000;
const PAUSE_MS = 1000;
const TIMEOUT_MS = 8000;
// Before Chromium 81, keepalive with a JSON body fails. Those browsers also lack a function that came a little later.
const KEEPALIVE = "replaceAll" in String.prototype;

/** Taps → POST /send-emojis, once per half second. Taps that could not be sent are tried again for 10 s. */
export class Taps {
  /**
   * @param {() => {url: URL, user: string, key: string}} to where taps go
   * @param {(sentence: string) => void} tell called with what went wrong, and with "" when sending works again
   */
  constructor(to, tell) {
    Object.assign(this, { to, tell });
    this.waiting = new Map(); // emoji → {count, since}
    this.timer = null;
    this.sending = false;
  }

  add(emoji) {
    const tap = this.waiting.get(emoji) || { count: 0, since: Date.now() };
    if (tap.count < MOST_WAITING) tap.count += 1;
    this.waiting.set(emoji, tap);
    this._sendIn(MERGE_MS);
  }

  _sendIn(ms) {
    if (this.timer === null) this.timer = setTimeout(() => this.send(), ms);
  }

  async send() {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.sending || this.waiting.size === 0) return;
    const taps = this.waiting;
    this.waiting = new Map();
    this.sending = true;
    let pause = 0;
    try {
      const { url, user, key } = this.to();
      // keepalive lets a page that is being closed send its last taps.
      const answer = await fetch(url, {
        method: "POST",
        headers: { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) },
        body: JSON.stringify(events(taps, user)),
        keepalive: KEEPALIVE,
        signal: timeoutSignal(TIMEOUT_MS),
      });
      if (answer.ok) {
        const { rejected = [] } = await answer.json();
        this.tell(rejected.length ? `Not sent: ${rejected[0].error}` : "");
      } else if (answer.status === 503) {
        pause = Math.max(PAUSE_MS, Number(answer.headers.get("Retry-After")) * 1000 || 0);
        this._putBack(taps, "EmoStream is busy; your reactions will follow in a moment.");
      } else {
        const { error = answer.statusText } = await answer.json().catch(() => ({}));
        this.tell(`Not sent: ${error}`);
      }
    } catch (error) {
      pause = PAUSE_MS;
      this._putBack(taps, "EmoStream cannot be reached; your reactions will follow.");
    } finally {
      this.sending = false;
      if (this.waiting.size > 0) this._sendIn(pause || MERGE_MS);
    }
  }

  /** Put back taps that were not sent, unless they are too old to be worth showing. */
  _putBack(taps, sentence) {
    const oldest = Date.now() - TRY_FOR_MS;
    let dropped = false;
    for (const [emoji, tap] of taps) {
      if (tap.since < oldest) {
        dropped = true;
        continue;
      }
      const newer = this.waiting.get(emoji);
      this.waiting.set(emoji, { count: Math.min(MOST_WAITING, tap.count + (newer ? newer.count : 0)), since: tap.since });
    }
    this.tell(dropped ? "EmoStream cannot be reached; your last reactions were not sent." : sentence);
  }
}

/** The body of POST /send-emojis. */
function events(taps, user) {
  const list = [];
  for (const [emoji, { count, since }] of taps) {
    const timestamp = new Date(since).toISOString();
    for (let left = count; left > 0; left -= MOST_PER_EVENT) {
      const event = { user_id: user, emoji_type: emoji, timestamp };
      if (left > 1) event.count = Math.min(left, MOST_PER_EVENT);
      list.push(event);
    }
  }
  return list;
}

/** A random name for this browser. It stays the same at the next visit if the browser may store it. */
function randomUser() {
  const made = `viewer-${Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16).padStart(2, "0")).join("")}`;
  try {
    const kept = localStorage.getItem("emostream-user");
    if (kept) return kept;
    localStorage.setItem("emostream-user", made);
  } catch (error) {
    // The browser forbids storage. A new name at each visit works too.
  }
  return made;
}

// --- floating emojis ---

const MAX_IN_THE_AIR = 70;
// How many emojis one batch may show. At any time, emojis of two batches rise, and the viewer's own taps too.
const MOST_PER_BATCH = 32;
const FEWEST_PER_BATCH = 8;
// In a small layer a batch shows fewer emojis: those of two batches cover only this part of it.
const COVERED = 0.25;
const RISE_SECONDS = 4;
const STEP_MS = 250;
const SPARE_MS = 2000;
// The next emoji starts this far from the one before (modulo 1). That spreads emojis more evenly than chance would.
const GOLDEN = 0.618;

/**
 * Choose the emojis of a batch to show: one per event if all fit; otherwise in proportion, but each at least once.
 * @param {{emoji: string, events: number}[]} counts
 * @returns {string[]} at most `limit` emojis, in random order
 */
export function share(counts, limit) {
  const shown = counts.filter((count) => count.events > 0).sort((a, b) => b.events - a.events).slice(0, limit);
  const total = shown.reduce((sum, count) => sum + count.events, 0);
  let parts;
  if (total <= limit) {
    parts = shown.map((count) => count.events);
  } else {
    // One for each emoji, and the rest by the largest-remainder method, so that the sum is exactly the limit.
    const rest = limit - shown.length;
    const exact = shown.map((count) => (count.events / total) * rest);
    parts = exact.map((part) => 1 + Math.floor(part));
    const byRemainder = exact.map((part, index) => [part % 1, index]).sort((a, b) => b[0] - a[0]);
    let left = limit - parts.reduce((sum, part) => sum + part, 0);
    for (const [, index] of byRemainder) {
      if (left-- <= 0) break;
      parts[index] += 1;
    }
  }
  return shuffled(shown.reduce((all, count, index) => all.concat(Array(parts[index]).fill(count.emoji)), []));
}

class Floats {
  /** `floor()` returns how far below the top of the layer emojis start, in px. */
  constructor(layer, floor) {
    Object.assign(this, { layer, floor });
    this.place = Math.random();
    this.waiting = []; // [emoji, when], the earliest first
    this.rising = []; // [node, animation, until when]
  }

  /** Let the emojis of a batch rise one after the other within the next `seconds`. */
  spread(counts, seconds) {
    if (document.hidden) return; // all would rise together when it is shown again
    const emojis = share(counts, this._perBatch(this._looks()));
    const step = (seconds * 1000) / Math.max(1, emojis.length);
    // The first one starts at once, because a batch of a single emoji should not wait.
    emojis.forEach((emoji, index) => this.waiting.push([emoji, now() + (index && step * (index + Math.random() * 0.8))]));
    this.waiting.sort((one, other) => one[1] - other[1]);
    this._step();
  }

  /** Let an emoji rise from `from` (px in the layer). Return false if there was no space. */
  launch(emoji, from) {
    const isUp = this._rise(emoji, 0, from, this._looks());
    if (!this.timer) this._step();
    return isUp;
  }

  /** Remove what has risen, and begin what is due until the next step: each change costs a frame of the whole layer. */
  _step() {
    clearTimeout(this.timer);
    const nowMs = now();
    this.rising = this.rising.filter(([node, animation, until]) => {
      if (until > nowMs) return true;
      animation.cancel();
      node.remove();
      return false;
    });
    const looks = this.waiting.length && this._looks();
    while (this.waiting.length && this.waiting[0][1] < nowMs + STEP_MS) {
      const [emoji, when] = this.waiting.shift();
      if (when > nowMs - LATE_MS) this._rise(emoji, Math.max(0, when - nowMs), null, looks);
    }
    this.timer = this.waiting.length || this.rising.length ? setTimeout(() => this._step(), STEP_MS) : null;
  }

  _rise(emoji, delay, from, looks) {
    // In a hidden page animations do not run, so the emojis would pile up.
    if (document.hidden || this.rising.length >= MAX_IN_THE_AIR) return false;
    const { width, height } = looks;
    const size = looks.size * (0.8 + Math.random() * 0.5);
    const x = (from ? from.x : this._anywhere(looks)) - size / 2;
    const y = (from ? from.y : height + size / 2) - size / 2;
    const sway = size * (0.3 + Math.random() * 0.7) * (Math.random() < 0.5 ? -1 : 1);
    const top = -size + Math.random() * height * 0.3;
    const at = (part, side, scale) =>
      `translate3d(${keep(x + side * sway, 0, width - size)}px, ${y + (top - y) * part}px, 0) scale(${scale})`;

    const node = made("span", { textContent: emoji }, { part: "float" });
    node.style.fontSize = `${size.toFixed(1)}px`;
    this.layer.append(node);
    const duration = ((RISE_SECONDS * 1000) / looks.speed) * (0.85 + Math.random() * 0.3);
    // An animation that begins or ends by itself makes Chromium draw every frame twice: here, and in the page's thread. So
    // it stands still for `delay` at first, and for SPARE_MS at the end, before which it is cancelled.
    const all = delay + duration + SPARE_MS;
    const frame = (part, side, scale, opacity) =>
      ({ transform: at(part, side, scale), opacity, offset: (delay + part * duration) / all });
    const first = frame(0, 0, from ? 0.9 : 0.4, 0);
    const last = frame(1, 0, 0.85, 0);
    const frames = [first, frame(0.08, 0.3, 1.15, 1), frame(0.3, 1, 1, 1), frame(0.61, -1, 1, 1), frame(0.85, 0.6, 0.95, 0.85), last];
    if (delay) frames.unshift({ transform: first.transform, opacity: 0, offset: 0 });
    frames.push({ transform: last.transform, opacity: 0, offset: 1 });
    const animation = node.animate(frames, { duration: all, easing: "linear", fill: "both" });
    this.rising.push([node, animation, now() + delay + duration]);
    return true;
  }

  _looks() {
    const style = getComputedStyle(this.layer);
    return {
      width: this.layer.clientWidth,
      height: this.floor(),
      size: parseFloat(style.fontSize),
      speed: parseFloat(style.getPropertyValue("--emo-speed")) || 1,
      side: style.getPropertyValue("--emo-side").trim(),
    };
  }

  _perBatch(looks) {
    const [first, last] = band(looks);
    const covered = (COVERED * (last - first) * looks.height) / looks.size ** 2;
    return Math.round(Math.max(FEWEST_PER_BATCH, Math.min(MOST_PER_BATCH, covered / 2)));
  }

  _anywhere(looks) {
    const [first, last] = band(looks);
    const margin = Math.min(looks.size, (last - first) / 2);
    this.place = (this.place + GOLDEN + (Math.random() - 0.5) * 0.06) % 1;
    return first + margin + this.place * (last - first - 2 * margin);
  }
}

/** The part of the width where emojis start: [first, last], in px. */
function band({ width, size, side }) {
  const wide = Math.min(width, Math.max(width * 0.22, size * 3));
  return { left: [0, wide], right: [width - wide, width] }[side] || [0, width];
}

function keep(value, least, most) {
  return Math.max(least, Math.min(most, value)).toFixed(1);
}

function shuffled(list) {
  for (let index = list.length - 1; index > 0; index -= 1) {
    const other = Math.floor(Math.random() * (index + 1));
    [list[index], list[other]] = [list[other], list[index]];
  }
  return list;
}

// --- the element ---

const NOTICE_MS = 6000;
// The viewer's own tap floats at once. A batch that brings it back within this time does not show it a second time.
const ECHO_MS = 10000;

const STYLE = `
:host {
  --_card: var(--emo-card, #fff); --_edge: var(--emo-edge, #e1e4ea); --_text: var(--emo-text, #16181d);
  --_accent: var(--emo-accent, #3b5bdb); --_soft: var(--emo-accent-soft, #3b5bdb38); --_warn: var(--emo-warn, #9a5b00);
  position: relative; display: flex; flex-direction: column; justify-content: flex-end;
  color: var(--_text); pointer-events: none;
}
@media (prefers-color-scheme: dark) {
  :host {
    --_card: var(--emo-card, #181b22); --_edge: var(--emo-edge, #2a2f3a); --_text: var(--emo-text, #eceef2);
    --_accent: var(--emo-accent, #8da2fb); --_soft: var(--emo-accent-soft, #8da2fb40); --_warn: var(--emo-warn, #fbbf24);
  }
}
:host([hidden]), :host([mode="floats"]) #bar, :host([mode="buttons"]) #floats { display: none; }
#bar, #bar * { box-sizing: border-box; }
#floats, .emoji { font-family: "Noto Color Emoji", "Apple Color Emoji", "Segoe UI Emoji", system-ui, sans-serif; }
#floats {
  position: absolute; top: 0; right: 0; bottom: 0; left: 0; overflow: hidden; contain: strict;
  font-size: 40px; font-size: var(--emo-size, 40px);
}
#floats span {
  position: absolute; left: 0; top: 0; line-height: 1; white-space: nowrap; user-select: none;
  will-change: transform, opacity;
}
#bar { position: relative; pointer-events: auto; }
#buttons { display: flex; flex-wrap: wrap; justify-content: center; max-height: 45vh; overflow-y: auto; }
#notice {
  position: absolute; bottom: calc(100% + 12px); left: 50%; width: max-content; max-width: calc(100% - 28px);
  transform: translateX(-50%); margin: 0; padding: 8px 16px; border: 1px solid var(--_edge); border-radius: 12px;
  background: var(--_card); color: var(--_warn); font-size: 0.9rem;
}
#notice:empty { display: none; }
button {
  position: relative; flex: 1 0 64px; margin: 4px 6px; max-width: 132px; height: 84px; padding: 0;
  border: 1px solid var(--_edge); border-radius: 18px; background: var(--_card); color: inherit; cursor: pointer;
  touch-action: manipulation; -webkit-tap-highlight-color: transparent; user-select: none;
}
.emoji { display: inline-block; font-size: 2.3rem; line-height: 1.2; pointer-events: none; }
kbd { position: absolute; top: 7px; left: 10px; right: 10px; font: 0.75rem/1 system-ui, sans-serif; text-align: end; }
button:hover { border-color: var(--_accent); }
button:active { background: var(--_soft); }
button:focus { outline: 3px solid var(--_accent); outline-offset: 2px; }
button:focus:not(:focus-visible) { outline: none; }
@media (pointer: coarse), (max-width: 480px) { kbd { display: none; } }
@media (max-width: 480px) {
  button { height: 70px; margin: 4px; border-radius: 16px; flex-basis: 58px; }
  .emoji { font-size: 1.9rem; }
}
`;

/** Give a shadow tree its style, in a way that no policy of the page forbids if the browser has it. */
function dress(shadow) {
  if (shadow.adoptedStyleSheets) {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
    shadow.adoptedStyleSheets = [sheet];
  } else {
    shadow.append(made("style", { textContent: STYLE }));
  }
}

function made(name, properties = {}, attributes = {}) {
  const element = Object.assign(document.createElement(name), properties);
  for (const attribute of Object.keys(attributes)) element.setAttribute(attribute, attributes[attribute]);
  return element;
}

/** The emoji without variation selectors and skin tones, so that ❤ and ❤️, 👍 and 👍🏽 are equal, as in the app. */
export function normalised(emoji) {
  return emoji.replace(/[\uFE0E\uFE0F]|\uD83C[\uDFFB-\uDFFF]/g, "");
}

// On a server, where there are no elements, importing this file does nothing.
const Base = typeof HTMLElement === "undefined" ? class {} : HTMLElement;

export class EmoReactions extends Base {
  static get observedAttributes() {
    return ["src", "room", "emojis", "delay", "for", "poll", "aria-label"];
  }

  constructor() {
    super();
    const shadow = this.attachShadow({ mode: "open" });
    dress(shadow);
    this._layer = made("div", { id: "floats" }, { part: "floats", "aria-hidden": "true" });
    this._bar = made("div", { id: "bar" }, { part: "bar" });
    this._notice = made("p", { id: "notice" }, { part: "notice", role: "alert" });
    this._buttons = made("div", { id: "buttons" }, { part: "buttons", role: "group" });
    this._bar.append(this._notice, this._buttons);
    shadow.append(this._layer, this._bar);
    this._floats = new Floats(this._layer, () => {
      const top = this._bar.offsetHeight && this._bar.getBoundingClientRect().top - this._layer.getBoundingClientRect().top;
      return top || this._layer.clientHeight;
    });
    this._taps = new Taps(() => this._to(), (sentence) => this._tell(sentence));
    this._echoes = []; // [emoji, when] of the viewer's own taps that no batch has brought back yet
    this._motion = matchMedia("(prefers-reduced-motion: reduce)");
    this._buttons.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.tap(button.value);
    });
    this._bar.addEventListener("keydown", (event) => this._press(event));
    this._onPage = {
      offline: () => this._tabs.offline(),
      online: () => this._tabs.online(),
      // When the viewer leaves, the page ends its stream at once. The browser may keep the page and show it again later.
      pagehide: () => (this._taps.send(), this._tabs.stop()),
      pageshow: (event) => event.persisted && this._tabs.start(),
    };
  }

  connectedCallback() {
    for (const name of Object.keys(this._onPage)) addEventListener(name, this._onPage[name]);
    this._setUp();
  }

  disconnectedCallback() {
    for (const name of Object.keys(this._onPage)) removeEventListener(name, this._onPage[name]);
    this._taps.send();
    this._stop();
  }

  attributeChangedCallback(name, before, after) {
    if (before !== after && this.isConnected) this._setUp(name);
  }

  /** React as if the viewer had tapped this emoji. */
  tap(emoji) {
    this._taps.add(emoji);
    const button = this._button(emoji);
    if (button) this._light(button, 400);
    if (this._isStill()) return;
    let from = null;
    if (button && button.offsetWidth) {
      button.firstChild.animate(
        [{ transform: "scale(1)" }, { transform: "scale(1.35)", offset: 0.3 }, { transform: "scale(1)" }],
        { duration: 300, easing: "ease-out" },
      );
      const [box, layer] = [button.getBoundingClientRect(), this._layer.getBoundingClientRect()];
      from = { x: box.x + box.width / 2 - layer.x, y: box.y - layer.y };
    }
    if (this._layer.clientWidth && this._floats.launch(emoji, from)) this._echoes.push([emoji, now()]);
  }

  /** The emojis of the buttons. */
  get emojis() {
    return this._listed().length ? this._listed() : EMOJIS;
  }

  _listed() {
    return this._text("emojis").split(/[\s,]+/).filter(Boolean);
  }

  _text(name) {
    return this.getAttribute(name) || "";
  }

  /** Where the app is, with a slash at the end. */
  _base() {
    const url = new URL(this._text("src") || "/", document.baseURI);
    return url.href.split(/[?#]/)[0].replace(/\/*$/, "/");
  }

  _to() {
    const url = new URL("send-emojis", this._base());
    if (this._text("room")) url.searchParams.set("room", this._text("room"));
    return { url, user: this._text("user") || randomUser(), key: this._text("key") };
  }

  /** Begin, once for all attributes that change now. */
  _setUp() {
    if (this._isDue) return;
    this._isDue = true;
    Promise.resolve().then(() => {
      this._isDue = false;
      if (!this.isConnected) return;
      this._draw();
      this._start();
    });
  }

  _draw() {
    this._buttons.setAttribute("aria-label", this._text("aria-label") || "Send an emoji");
    const listed = this._listed();
    this._spelling = listed.length ? new Map(listed.map((emoji) => [normalised(emoji), emoji])) : null;
    if (this._drawn === this.emojis.join()) return; // so that no button loses the focus
    this._drawn = this.emojis.join();
    this._buttons.textContent = "";
    this.emojis.forEach((emoji, index) => {
      const button = made("button", { type: "button", value: emoji }, { part: "button" });
      button.append(made("span", { className: "emoji", textContent: emoji }, { part: "emoji" }));
      if (index < 9) {
        button.setAttribute("aria-keyshortcuts", index + 1);
        button.append(made("kbd", { textContent: index + 1 }, { part: "digit", "aria-hidden": "true" }));
      }
      this._buttons.append(button);
    });
  }

  _start() {
    const wanted = ["room", "poll", "delay", "for"].map((name) => this.getAttribute(name)).concat(this._base()).join("\n");
    if (this._running === wanted) return;
    this._stop();
    this._running = wanted;
    const [base, room, delay, poll] = [this._base(), this._text("room"), this._text("delay"), this.hasAttribute("poll")];
    const behind = delay === "auto" ? () => pictureMs(this.getRootNode().getElementById(this._text("for"))) : Number(delay) || 0;
    this._picture = new Picture((batch) => this._show(batch), (reason) => this._gap(reason), behind);
    this._batches = new Batches((batch) => this._picture.take(batch));
    const name = `emo-reactions/1 ${base} ${room} ${poll}`;
    const take = (message) => this._take(message);
    const { locks } = navigator; // undefined in an old browser, and in a page that did not come by HTTPS
    this._tabs = new Tabs(name, new Source(base, room, null, poll), take, () => this._batches.past(), {
      locks,
      Channel: window.BroadcastChannel,
    });
    this._tabs.start();
  }

  _stop() {
    this._running = null;
    if (this._tabs) this._tabs.stop();
    if (this._picture) this._picture.stop();
  }

  _take(message) {
    this._batches.take(message);
    if (message.type === "gap") this._gap(message.data.reason);
    if (message.type !== "state") return;
    const { state, reason } = message;
    this._say("emo-state", { state, sentence: STATES[state], reason });
    if (state === "refused") this._notice.textContent = reason;
  }

  _gap(reason) {
    this._say("emo-gap", { reason });
    this._tell(reason);
  }

  _say(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }

  _show({ batch_id, counts, at_ms, recent, isFresh }) {
    if (isFresh && this._isStill()) {
      for (const { emoji } of counts) if (this._button(emoji)) this._light(this._button(emoji), 1200);
    } else if (isFresh) {
      this._floats.spread(this._withoutEchoes(this._spelled(counts)), this._batches.batchSeconds);
    }
    this._say("emo-batch", { batch_id, counts, at_ms, recent });
  }

  /** The counts that `emojis` allows, spelled as there. */
  _spelled(counts) {
    if (!this._spelling) return counts;
    const sums = new Map();
    for (const { emoji, events } of counts) {
      const spelled = this._spelling.get(normalised(emoji));
      if (spelled) sums.set(spelled, (sums.get(spelled) || 0) + events);
    }
    return [...sums].map(([emoji, events]) => ({ emoji, events }));
  }

  /** The counts without the viewer's own taps, which have floated already. */
  _withoutEchoes(counts) {
    const echoMs = ECHO_MS + (this.hasAttribute("delay") ? KEEP_MS : 0);
    this._echoes = this._echoes.filter(([, when]) => when > now() - echoMs);
    return counts.map(({ emoji, events }) => {
      let left = events;
      this._echoes = this._echoes.filter(([own]) => own !== emoji || left-- <= 0);
      return { emoji, events: Math.max(0, left) };
    });
  }

  /** Whether the viewer wants no motion, and the page does not say `--emo-motion: always`. */
  _isStill() {
    return this._motion.matches && getComputedStyle(this).getPropertyValue("--emo-motion").trim() !== "always";
  }

  _button(emoji) {
    return [...this._buttons.children].find((button) => button.value === emoji);
  }

  _light(button, duration) {
    const { backgroundColor } = getComputedStyle(button);
    button.animate([{ backgroundColor: "var(--_soft)" }, { backgroundColor }], { duration });
  }

  _press(event) {
    const isTap = event.key === "Enter" || event.key === " ";
    if (event.repeat && isTap) event.preventDefault(); // a key that is held down is one tap
    if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    const emoji = /^[1-9]$/.test(event.key) && this.emojis[event.key - 1];
    if (!emoji) return;
    event.preventDefault(); // for pages that give the digits to the whole page
    this.tap(emoji);
  }

  /** Tell the viewer something, for a moment. */
  _tell(sentence) {
    clearTimeout(this._noticeTimer);
    this._notice.textContent = sentence;
    if (sentence) this._noticeTimer = setTimeout(() => this._tell(""), NOTICE_MS);
  }
}

if (typeof customElements !== "undefined" && !customElements.get("emo-reactions")) {
  customElements.define("emo-reactions", EmoReactions);
}
