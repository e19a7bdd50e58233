// The overlay: only floating emojis, on a transparent background. docs/overlay.md explains the query parameters.

import { FloatingEmojis } from "../shared/floating_emojis.js";
import { eventsOf, Stream } from "../shared/stream.js";

const query = new URLSearchParams(location.search);

/** A number from the query, kept within bounds; `otherwise` if it is missing or not a number. */
function number(name, least, most, otherwise) {
  const value = Number.parseFloat(query.get(name));
  return Number.isNaN(value) ? otherwise : Math.max(least, Math.min(most, value));
}

const floatingEmojis = new FloatingEmojis(document.getElementById("floats"), {
  size: number("size", 16, 400, 72),
  speed: number("speed", 0.25, 4, 1),
  side: ["left", "right"].includes(query.get("side")) ? query.get("side") : "full",
});

/** The emoji without variation selectors and skin tones, so that ❤ and ❤️, 👍 and 👍🏽 are equal, as in the app. */
function normalised(emoji) {
  return emoji.replace(/[\uFE0E\uFE0F]|\uD83C[\uDFFB-\uDFFF]/g, "");
}

const allowed = new Set((query.get("set") || "").split(/[\s,]+/).map(normalised).filter(Boolean));
const spelling = new Map(); // a plain emoji → its spelling in EMOJIS, or the first that came
for (const emoji of document.body.dataset.emojis.split(",")) spelling.set(normalised(emoji), emoji);

/** The counts of a batch that `set` allows. All spellings of an emoji are one count. */
function allowedOf(counts) {
  if (allowed.size === 0) return counts;
  const sums = new Map();
  for (const { emoji, events } of counts) {
    const key = normalised(emoji);
    if (!allowed.has(key)) continue;
    if (!spelling.has(key)) spelling.set(key, emoji);
    sums.set(key, (sums.get(key) || 0) + events);
  }
  return [...sums].map(([key, events]) => ({ emoji: spelling.get(key), events }));
}

const batchSeconds = Number(document.body.dataset.batchSeconds);

new Stream({
  onBatch(batch) {
    floatingEmojis.spread(allowedOf(eventsOf(batch)), batchSeconds);
    document.dispatchEvent(new CustomEvent("emostream:batch", { detail: batch }));
  },
  // An error must not appear in a broadcast, so it goes to the browser's console.
  onState: (state) => console.info(`EmoStream: ${state}`),
  onGap: (reason) => console.info(`EmoStream: ${reason}`),
}).start();
