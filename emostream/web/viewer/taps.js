// Taps → POST /send-emojis, once per half second. Taps that could not be sent are tried again for 10 s.

import { timeoutSignal } from "../shared/old_browsers.js";

const MERGE_MS = 500;
const MOST_PER_EVENT = 1000; // the highest `count` that the app accepts
const MOST_WAITING = 20000;
const TRY_FOR_MS = 10000;
const PAUSE_MS = 1000;
const TIMEOUT_MS = 8000;
// Before Chromium 81, keepalive with a JSON body fails. Those browsers also lack a function that came a little later.
const KEEPALIVE = "replaceAll" in String.prototype;

export class Taps {
  /**
   * @param {string} userId
   * @param {(sentence: string) => void} tell called with what went wrong, and with "" when sending works again
   */
  constructor(userId, tell) {
    this.userId = userId;
    // If senders need a key, it is in the page's address after the #, which the browser sends to nobody.
    this.key = new URLSearchParams(location.hash.slice(1)).get("key");
    this.tell = tell;
    this.waiting = new Map(); // emoji → {count, since}
    this.timer = null;
    this.sending = false;
    addEventListener("pagehide", () => this.send());
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
      // keepalive lets a page that is being closed send its last taps.
      const answer = await fetch("/send-emojis", {
        method: "POST",
        headers: { "Content-Type": "application/json", ...(this.key && { Authorization: `Bearer ${this.key}` }) },
        body: JSON.stringify(events(taps, this.userId)),
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
function events(taps, userId) {
  const list = [];
  for (const [emoji, { count, since }] of taps) {
    const timestamp = new Date(since).toISOString();
    for (let left = count; left > 0; left -= MOST_PER_EVENT) {
      const event = { user_id: userId, emoji_type: emoji, timestamp };
      if (left > 1) event.count = Math.min(left, MOST_PER_EVENT);
      list.push(event);
    }
  }
  return list;
}

/** A random name for this browser. It stays the same at the next visit if the browser may store it. */
export function userId() {
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
