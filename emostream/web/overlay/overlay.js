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
const allowed = new Set((query.get("set") ?? "").split(",").map((emoji) => emoji.trim()).filter(Boolean));
const batchSeconds = Number(document.body.dataset.batchSeconds);

new Stream({
  onBatch(batch) {
    const counts = eventsOf(batch).filter(({ emoji }) => allowed.size === 0 || allowed.has(emoji));
    floatingEmojis.spread(counts, batchSeconds);
    document.dispatchEvent(new CustomEvent("emostream:batch", { detail: batch }));
  },
  // An error must not appear in a broadcast, so it goes to the browser's console.
  onState: (state) => console.info(`EmoStream: ${state}`),
  onGap: (reason) => console.info(`EmoStream: ${reason}`),
}).start();
