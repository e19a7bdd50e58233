// Batches → the totals of the last minute, and the chart of them.

const BIN_MS = 2000;
const BINS = 30;
const SHOWN = 5;
const SVG = { width: 600, height: 120 };

/** The events of the last minute, in bins of two seconds. Times are milliseconds of this browser's clock. */
export class LastMinute {
  constructor() {
    this.bins = new Map(); // bin number → Map of emoji → events
  }

  add(counts, atMs) {
    const number = Math.floor(atMs / BIN_MS);
    const bin = this.bins.get(number) || new Map();
    for (const { emoji, events } of counts) bin.set(emoji, (bin.get(emoji) || 0) + events);
    this.bins.set(number, bin);
  }

  /**
   * The line ends with the newest bin that holds events: the current one, or one of the two before. Otherwise it would
   * fall to zero between two batches.
   * @returns {{total: number, line: number[], byEmoji: [string, number][]}} `line` oldest first, `byEmoji` most frequent first
   */
  at(nowMs) {
    const current = Math.floor(nowMs / BIN_MS);
    const newest = [current, current - 1, current - 2].find((number) => this.bins.has(number));
    const last = newest === undefined ? current : newest;
    const line = Array(BINS).fill(0);
    const byEmoji = new Map();
    for (const [number, bin] of this.bins) {
      const place = BINS - 1 - (last - number);
      if (place < 0) {
        this.bins.delete(number);
        continue;
      }
      for (const [emoji, events] of bin) {
        line[Math.min(place, BINS - 1)] += events; // not beyond the end, even if a clock is wrong
        byEmoji.set(emoji, (byEmoji.get(emoji) || 0) + events);
      }
    }
    const total = line.reduce((sum, events) => sum + events, 0);
    return { total, line, byEmoji: [...byEmoji].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)) };
  }
}

/** Draws a LastMinute into the viewer's page. */
export class LastMinuteChart {
  constructor(page = document) {
    this.total = page.getElementById("total");
    this.chart = page.getElementById("chart");
    this.area = page.querySelector("#chart .area");
    this.line = page.querySelector("#chart .line");
    this.shares = page.getElementById("shares");
    this.quiet = page.getElementById("quiet");
    this.rows = new Map(); // emoji → its row
  }

  /** @param {boolean} isKnown whether a stream has sent the last minute */
  draw({ total, line, byEmoji }, isKnown) {
    this.total.textContent = total.toLocaleString();
    this.quiet.hidden = total > 0 || !isKnown;
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
      const row = this._row(emoji);
      const number = row.querySelector(".number");
      const text = events.toLocaleString();
      if (number.textContent !== text) number.textContent = text;
      row.style.setProperty("--share", (events / shown[0][1]).toFixed(3));
      if (this.shares.children[index] !== row) this.shares.insertBefore(row, this.shares.children[index] || null);
    });
  }

  /** Highlight the numbers of these emojis once, for viewers who want no motion. */
  pulse(emojis) {
    for (const emoji of emojis) {
      const row = this.rows.get(emoji);
      if (row) row.querySelector(".number").animate(
        [{ backgroundColor: "var(--accent-soft)" }, { backgroundColor: "transparent" }],
        { duration: 1200, easing: "ease-out" },
      );
    }
  }

  _row(emoji) {
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
