// The viewer's page: buttons → taps; batches → floating emojis, totals and a sentence for screen readers.

import { FloatingEmojis } from "../shared/floating_emojis.js";
import { eventsOf, STATES, Stream } from "../shared/stream.js";
import { LastMinute, LastMinuteChart } from "./last_minute.js";
import { Taps, userId } from "./taps.js";

const SUMMARY_MS = 8000;
const NOTICE_MS = 6000;
// The viewer's own tap floats at once. A batch that brings it back within this time does not show it a second time.
const ECHO_MS = 10000;

const batchSeconds = Number(document.body.dataset.batchSeconds);
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const footer = document.querySelector("footer");
const floatingEmojis = new FloatingEmojis(document.getElementById("floats"), { floor: () => footer.getBoundingClientRect().top });
const buttons = document.getElementById("buttons");
const lastMinute = new LastMinute();
const chart = new LastMinuteChart();
let isKnown = false; // whether a stream has sent the last minute
const echoes = []; // [emoji, when] of the viewer's own taps that no batch has brought back yet

const stream = new Stream({ onBatch: showBatch, onRecent: showRecent, onState: showState, onGap: showNotice });
const taps = new Taps(userId(), showNotice);

function showBatch(batch, atMs) {
  const counts = eventsOf(batch);
  lastMinute.add(counts, atMs);
  draw();
  if (reducedMotion.matches) {
    chart.pulse(counts.map((count) => count.emoji));
  } else {
    floatingEmojis.spread(withoutEchoes(counts), batchSeconds);
  }
  // For scripts that embed or extend this page.
  document.dispatchEvent(new CustomEvent("emostream:batch", { detail: batch }));
}

/** Show the last minute as if the page had been open. Only the emojis of the newest batch float. */
function showRecent(batches) {
  for (const [batch, atMs] of batches) lastMinute.add(eventsOf(batch), atMs);
  draw();
  const [newest, atMs] = batches[batches.length - 1] || [null, 0];
  if (!reducedMotion.matches && Date.now() - atMs < 2000 * batchSeconds) floatingEmojis.spread(eventsOf(newest), batchSeconds);
}

/** The counts without the viewer's own taps, which have floated already. */
function withoutEchoes(counts) {
  const oldest = performance.now() - ECHO_MS;
  while (echoes.length && echoes[0][1] < oldest) echoes.shift();
  return counts.map(({ emoji, events }) => {
    let left = events;
    for (let index = 0; index < echoes.length && left > 0; ) {
      if (echoes[index][0] === emoji) {
        echoes.splice(index, 1);
        left -= 1;
      } else {
        index += 1;
      }
    }
    return { emoji, events: left };
  });
}

function tap(button) {
  const emoji = button.value;
  taps.add(emoji);
  button.animate([{ backgroundColor: "var(--accent-soft)" }, { backgroundColor: "var(--card)" }], { duration: 400 });
  if (reducedMotion.matches) return;
  button.querySelector(".emoji").animate(
    [{ transform: "scale(1)" }, { transform: "scale(1.35)", offset: 0.3 }, { transform: "scale(1)" }],
    { duration: 300, easing: "ease-out" },
  );
  const box = button.getBoundingClientRect();
  if (floatingEmojis.launch(emoji, { x: box.x + box.width / 2, y: box.y })) echoes.push([emoji, performance.now()]);
}

buttons.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) tap(button);
});

addEventListener("keydown", (event) => {
  const held = event.repeat && event.target.closest && event.target.closest("button");
  if (held && (event.key === "Enter" || event.key === " ")) event.preventDefault(); // a key that is held down is one tap
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const button = buttons.querySelector(`[aria-keyshortcuts="${CSS.escape(event.key)}"]`);
  if (button) tap(button);
});

function showState(state) {
  const element = document.getElementById("state");
  element.dataset.state = state;
  isKnown = isKnown || state === "live";
  if (element.textContent !== STATES[state]) element.textContent = STATES[state];
}

let noticeTimer;
function showNotice(sentence) {
  clearTimeout(noticeTimer);
  document.getElementById("notice").textContent = sentence;
  if (sentence) noticeTimer = setTimeout(() => showNotice(""), NOTICE_MS);
}

function draw() {
  chart.draw(lastMinute.at(Date.now()), isKnown);
}

/** Tell screen readers the totals, but not the same sentence twice. */
function summarize() {
  const { total, byEmoji } = lastMinute.at(Date.now());
  const most = byEmoji.slice(0, 3).map(([emoji, events]) => `${emoji} ${events}`).join(", ");
  const sentence = total ? `${total} reactions in the last minute: ${most}.` : "";
  const summary = document.getElementById("summary");
  if (summary.textContent !== sentence) summary.textContent = sentence;
}

setInterval(draw, 1000);
setInterval(summarize, SUMMARY_MS);
draw();
stream.start();
