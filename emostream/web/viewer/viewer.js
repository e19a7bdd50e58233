// The viewer's page: batches of the element → totals of the last minute, and a sentence for screen readers.

import "../emo-reactions.js";
import { LastMinute, LastMinuteChart } from "./last_minute.js";
import { showPicture } from "./picture.js";

const SUMMARY_MS = 8000;

const query = new URLSearchParams(location.search);
const [room, video, delay] = ["room", "video", "delay"].map((name) => query.get(name) || "");
const behindMs = Number(delay) * 1000 || 0;
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const reactions = document.querySelector("emo-reactions");
const lastMinute = new LastMinute();
const chart = new LastMinuteChart();
let isKnown = false; // whether a stream has sent the last minute

/** Milliseconds since 1970, by the clock of the element's batches. With ?delay=12, what happened 12 s ago is now. */
const now = () => performance.timeOrigin + performance.now() - behindMs;

reactions.addEventListener("emo-batch", ({ detail }) => {
  lastMinute.add(detail.counts, detail.at_ms);
  draw();
  if (reducedMotion.matches && !detail.recent) chart.pulse(detail.counts.map((count) => count.emoji));
});

reactions.addEventListener("emo-state", ({ detail }) => {
  const element = document.getElementById("state");
  element.dataset.state = detail.state === "polling" ? "live" : detail.state;
  isKnown = isKnown || element.dataset.state === "live";
  if (element.textContent !== detail.sentence) element.textContent = detail.sentence;
});

// The digits tap wherever the focus is.
addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const emoji = /^[1-9]$/.test(event.key) && reactions.emojis[event.key - 1];
  if (emoji) reactions.tap(emoji);
});

function draw() {
  chart.draw(lastMinute.at(now()), isKnown);
}

/** Tell screen readers the totals, but not the same sentence twice. */
function summarize() {
  const { total, byEmoji } = lastMinute.at(now());
  const most = byEmoji.slice(0, 3).map(([emoji, events]) => `${emoji} ${events}`).join(", ");
  const sentence = total ? `${total} reactions in the last minute: ${most}.` : "";
  const summary = document.getElementById("summary");
  if (summary.textContent !== sentence) summary.textContent = sentence;
}

if (room) {
  reactions.setAttribute("room", room);
  document.getElementById("room").textContent = room;
  document.title = `${room} · EmoStream`;
}
if (video) {
  document.body.classList.add("has-picture");
  showPicture(document.querySelector("footer"), video, !reducedMotion.matches);
}
reactions.setAttribute("delay", delay);
reactions.setAttribute("for", "player");
// If senders need a key, it is in the page's address after the #, which the browser sends to nobody.
reactions.setAttribute("key", new URLSearchParams(location.hash.slice(1)).get("key") || "");
setInterval(draw, 1000);
setInterval(summarize, SUMMARY_MS);
draw();
