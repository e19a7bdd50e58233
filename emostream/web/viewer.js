// The viewer's page: buttons → taps; batches → floating emojis, totals, and a sentence for screen readers.

import { Floats } from "./floats.js";
import { eventsOf, STATES, Stream } from "./stream.js";
import { Taps, userId } from "./taps.js";
import { Chart, Minute } from "./totals.js";

const SUMMARY_MS = 8000;
const NOTICE_MS = 6000;
// For how long a batch that holds one's own taps does not show them a second time.
const ECHO_MS = 10_000;

const batchSeconds = Number(document.body.dataset.batchSeconds);
const stillness = matchMedia("(prefers-reduced-motion: reduce)");
const footer = document.querySelector("footer");
const floats = new Floats(document.getElementById("floats"), { floor: () => footer.getBoundingClientRect().top });
const buttons = document.getElementById("buttons");
const minute = new Minute();
const chart = new Chart();
const echoes = []; // [emoji, when] of one's own taps that no batch has brought yet

const stream = new Stream({ onBatch: showBatch, onState: showState, onGap: showNotice });
const taps = new Taps(userId(), showNotice);

function showBatch(batch, atMs) {
  const counts = eventsOf(batch);
  minute.add(counts, atMs);
  draw();
  if (stillness.matches) {
    chart.pulse(counts.map((count) => count.emoji));
  } else {
    floats.spread(withoutEchoes(counts), batchSeconds);
  }
  // For whoever embeds or extends this page.
  document.dispatchEvent(new CustomEvent("emostream:batch", { detail: batch }));
}

/** The counts less one's own taps, which have floated already. */
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
  button.animate([{ backgroundColor: "var(--accent-soft)" }, {}], { duration: 400 });
  if (stillness.matches) return;
  button.querySelector(".emoji").animate(
    [{ transform: "scale(1)" }, { transform: "scale(1.35)", offset: 0.3 }, { transform: "scale(1)" }],
    { duration: 300, easing: "ease-out" },
  );
  const box = button.getBoundingClientRect();
  if (floats.launch(emoji, { x: box.x + box.width / 2, y: box.y })) echoes.push([emoji, performance.now()]);
}

buttons.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) tap(button);
});

addEventListener("keydown", (event) => {
  const held = event.repeat && event.target.closest?.("button");
  if (held && (event.key === "Enter" || event.key === " ")) event.preventDefault(); // one press is one tap
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const button = buttons.querySelector(`[aria-keyshortcuts="${CSS.escape(event.key)}"]`);
  if (button) tap(button);
});

function showState(state) {
  const element = document.getElementById("state");
  element.dataset.state = state;
  if (element.textContent !== STATES[state]) element.textContent = STATES[state];
}

let noticeTimer;
function showNotice(sentence) {
  clearTimeout(noticeTimer);
  document.getElementById("notice").textContent = sentence;
  if (sentence) noticeTimer = setTimeout(() => showNotice(""), NOTICE_MS);
}

function draw() {
  chart.draw(minute.at(Date.now()));
}

/** One sentence at most every few seconds, and none where it would be the same again. */
function summarize() {
  const { total, byEmoji } = minute.at(Date.now());
  const most = byEmoji.slice(0, 3).map(([emoji, events]) => `${emoji} ${events}`).join(", ");
  const sentence = total ? `${total} reactions in the last minute: ${most}.` : "";
  const summary = document.getElementById("summary");
  if (summary.textContent !== sentence) summary.textContent = sentence;
}

setInterval(draw, 1000);
setInterval(summarize, SUMMARY_MS);
draw();
stream.start();
