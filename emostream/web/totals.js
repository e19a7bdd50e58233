// Batches → the totals of the last minute, and how they are drawn.

const BIN_MS = 2000;
const BINS = 30;
const SHOWN = 5;
const SVG = { width: 600, height: 120 };

/** What came in the last minute, in bins of two seconds. Times are milliseconds of this browser's clock. */
export class Minute {
  constructor() {
    this.bins = new Map(); // bin number → Map of emoji → events
  }

  add(counts, atMs) {
    const number = Math.floor(atMs / BIN_MS);
    const bin = this.bins.get(number) ?? new Map();
    for (const { emoji, events } of counts) bin.set(emoji, (bin.get(emoji) ?? 0) + events);
    this.bins.set(number, bin);
  }

  /**
   * The line ends with the newest bin that has anything, of the present one and the two before: between two batches
   * it would draw a fall that is none.
   * @returns {{total: number, line: number[], byEmoji: [string, number][]}} `line` oldest first, most frequent emoji first
   */
  at(nowMs) {
    const present = Math.floor(nowMs / BIN_MS);
    const last = [present, present - 1, present - 2].find((number) => this.bins.has(number)) ?? present;
    const line = Array(BINS).fill(0);
    const byEmoji = new Map();
    for (const [number, bin] of this.bins) {
      const place = BINS - 1 - (last - number);
      if (place < 0) {
        this.bins.delete(number);
        continue;
      }
      for (const [emoji, events] of bin) {
        line[Math.min(place, BINS - 1)] += events; // no further than now, whatever the clocks say
        byEmoji.set(emoji, (byEmoji.get(emoji) ?? 0) + events);
      }
    }
    const total = line.reduce((sum, events) => sum + events, 0);
    return { total, line, byEmoji: [...byEmoji].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)) };
  }
}

/** Draws a Minute into the viewer's page. */
export class Chart {
  constructor(page = document) {
    this.total = page.getElementById("total");
    this.chart = page.getElementById("chart");
    this.area = page.querySelector("#chart .area");
    this.line = page.querySelector("#chart .line");
    this.shares = page.getElementById("shares");
    this.quiet = page.getElementById("quiet");
    this.rows = new Map(); // emoji → its row
  }

  draw({ total, line, byEmoji }) {
    this.total.textContent = total.toLocaleString();
    this.quiet.hidden = total > 0;
    this.chart.classList.toggle("still", total === 0);
    const path = curve(line);
    this.line.setAttribute("d", path);
    this.area.setAttribute("d", `${path} V${SVG.height} H0 Z`);
    const shown = byEmoji.slice(0, SHOWN);
    const kept = new Set(shown.map(([emoji]) => emoji));
    for (const [emoji, row] of this.rows) {
      if (!kept.has(emoji)) {
        row.remove();
        this.rows.delete(emoji);
      }
    }
    shown.forEach(([emoji, events], index) => {
      const row = this.#row(emoji);
      const number = row.querySelector(".number");
      const text = events.toLocaleString();
      if (number.textContent !== text) number.textContent = text;
      row.style.setProperty("--share", (events / shown[0][1]).toFixed(3));
      if (this.shares.children[index] !== row) this.shares.insertBefore(row, this.shares.children[index] ?? null);
    });
  }

  /** Let the numbers of these emojis light up once: what moves where nothing may fly. */
  pulse(emojis) {
    for (const emoji of emojis) {
      this.rows.get(emoji)?.querySelector(".number").animate(
        [{ backgroundColor: "var(--accent-soft)" }, { backgroundColor: "transparent" }],
        { duration: 1200, easing: "ease-out" },
      );
    }
  }

  #row(emoji) {
    let row = this.rows.get(emoji);
    if (!row) {
      row = document.createElement("li");
      for (const name of ["emoji", "bar", "number"]) {
        const part = document.createElement("span");
        part.className = name;
        row.append(part);
      }
      row.querySelector(".emoji").textContent = emoji;
      this.rows.set(emoji, row);
    }
    return row;
  }
}

/** A smooth path through the bins that never dips below zero. */
function curve(line) {
  const most = Math.max(...line, 1);
  const x = (index) => (index / (line.length - 1)) * SVG.width;
  const y = (events) => SVG.height - 2 - (events / most) * (SVG.height - 8);
  let path = `M0 ${y(line[0]).toFixed(1)}`;
  for (let index = 1; index < line.length; index += 1) {
    const middle = ((x(index - 1) + x(index)) / 2).toFixed(1);
    path += ` C${middle} ${y(line[index - 1]).toFixed(1)} ${middle} ${y(line[index]).toFixed(1)} ${x(index).toFixed(1)} ${y(line[index]).toFixed(1)}`;
  }
  return path;
}
