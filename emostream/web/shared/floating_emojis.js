// Counts → emojis that rise over a layer, spread over the time until the next batch.

const MAX_IN_THE_AIR = 70;
// How many emojis one batch may show. At any time, emojis of two batches rise, and the viewer's own taps too.
const MOST_PER_BATCH = 32;
const FEWEST_PER_BATCH = 8;
// In a small layer a batch shows fewer emojis: those of two batches cover only this part of it.
const COVERED = 0.25;
const RISE_SECONDS = 4;
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
  return shuffled(shown.flatMap((count, index) => Array(parts[index]).fill(count.emoji)));
}

export class FloatingEmojis {
  /**
   * @param {HTMLElement} layer
   * `size` is in CSS px. At `speed` 1 an emoji takes RISE_SECONDS to the top. `floor()` returns how far below
   * the top of the layer emojis start, in px.
   */
  constructor(layer, { size = 40, speed = 1, side = "full", floor = () => layer.clientHeight } = {}) {
    Object.assign(this, { layer, size, speed, side, floor });
    this.skipped = 0;
    this.place = Math.random();
  }

  /** Let the emojis of a batch rise one after the other within the next `seconds`. */
  spread(counts, seconds) {
    const emojis = share(counts, this._perBatch());
    const step = (seconds * 1000) / Math.max(1, emojis.length);
    emojis.forEach((emoji, index) => {
      // The first one starts at once, because a batch of a single emoji should not wait.
      setTimeout(() => this.launch(emoji), index && step * (index + Math.random() * 0.8));
    });
  }

  /** Let an emoji rise from `from` (px in the layer), or from the bottom. Return false if there was no space. */
  launch(emoji, from = null) {
    // In a hidden page animations do not run, so the emojis would pile up.
    if (document.hidden || this.layer.childElementCount >= MAX_IN_THE_AIR) {
      this.skipped += 1;
      return false;
    }
    const width = this.layer.clientWidth;
    const height = this.floor();
    const size = this.size * (0.8 + Math.random() * 0.5);
    const x = (from ? from.x : this._anywhere(width)) - size / 2;
    const y = (from ? from.y : height + size / 2) - size / 2;
    const sway = size * (0.3 + Math.random() * 0.7) * (Math.random() < 0.5 ? -1 : 1);
    const top = -size + Math.random() * height * 0.3;
    const at = (part, side, scale) =>
      `translate3d(${keep(x + side * sway, 0, width - size)}px, ${y + (top - y) * part}px, 0) scale(${scale})`;

    const node = document.createElement("span");
    node.textContent = emoji;
    node.style.fontSize = `${size.toFixed(1)}px`;
    this.layer.append(node);
    const rise = node.animate(
      [
        { transform: at(0, 0, from ? 0.9 : 0.4), opacity: 0 },
        { transform: at(0.08, 0.3, 1.15), opacity: 1, offset: 0.08 },
        { transform: at(0.3, 1, 1), opacity: 1, offset: 0.3 },
        { transform: at(0.6, -1, 1), opacity: 1, offset: 0.62 },
        { transform: at(0.85, 0.6, 0.95), opacity: 0.85, offset: 0.85 },
        { transform: at(1, 0, 0.85), opacity: 0 },
      ],
      { duration: ((RISE_SECONDS * 1000) / this.speed) * (0.85 + Math.random() * 0.3), easing: "linear", fill: "both" },
    );
    rise.onfinish = () => node.remove();
    return true;
  }

  _perBatch() {
    const [first, last] = this._band(this.layer.clientWidth);
    const covered = (COVERED * (last - first) * this.floor()) / this.size ** 2;
    return Math.round(Math.max(FEWEST_PER_BATCH, Math.min(MOST_PER_BATCH, covered / 2)));
  }

  /** The part of the width where emojis start: [first, last], in px. */
  _band(width) {
    const band = Math.min(width, Math.max(width * 0.22, this.size * 3));
    return { left: [0, band], right: [width - band, width], full: [0, width] }[this.side];
  }

  _anywhere(width) {
    const [first, last] = this._band(width);
    const margin = Math.min(this.size, (last - first) / 2);
    this.place = (this.place + GOLDEN + (Math.random() - 0.5) * 0.06) % 1;
    return first + margin + this.place * (last - first - 2 * margin);
  }
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
