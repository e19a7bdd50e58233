// The overlay: floating emojis and nothing else, on no background. docs/overlay.md tells of the query parameters.

import { Floats } from "./floats.js";
import { eventsOf, Stream } from "./stream.js";

const asked = new URLSearchParams(location.search);

/** A number of the query within bounds; its default where it is none. */
function number(name, least, most, otherwise) {
  const value = Number.parseFloat(asked.get(name));
  return Number.isNaN(value) ? otherwise : Math.max(least, Math.min(most, value));
}

const floats = new Floats(document.getElementById("floats"), {
  size: number("size", 16, 400, 72),
  speed: number("speed", 0.25, 4, 1),
  side: ["left", "right"].includes(asked.get("side")) ? asked.get("side") : "full",
});
const set = new Set((asked.get("set") ?? "").split(",").map((emoji) => emoji.trim()).filter(Boolean));
const batchSeconds = Number(document.body.dataset.batchSeconds);

new Stream({
  onBatch(batch) {
    const counts = eventsOf(batch).filter(({ emoji }) => set.size === 0 || set.has(emoji));
    floats.spread(counts, batchSeconds);
    document.dispatchEvent(new CustomEvent("emostream:batch", { detail: batch }));
  },
  // Nothing that goes wrong may be written over a broadcast; a browser's console takes it.
  onState: (state) => console.info(`EmoStream: ${state}`),
  onGap: (reason) => console.info(`EmoStream: ${reason}`),
}).start();
