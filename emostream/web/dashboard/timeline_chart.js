// GET /timeline.json → the area chart of the last 30 minutes, with its peaks marked.

import { clock, count, list, perSecond, whole } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 100;
// A peak rises above the valleys beside it by at least this part of the highest peak.
const PROMINENCE = 0.25;
const BUCKETS_APART = 9; // 90 s between two peaks
const MOST_PEAKS = 5;
// The chart shows at least so many buckets, even if the system has just started.
const LEAST_BUCKETS = 18;
const OTHERS = "others";

/** The timeline without the empty time before its first events. */
export function trimmed(timeline) {
  const { emojis, others, bucket_seconds: seconds, first_ms: firstMs } = timeline;
  const begun = others.findIndex((number, index) => number > 0 || emojis.some(({ events }) => events[index] > 0));
  const from = Math.max(0, Math.min(begun === -1 ? others.length : begun - 1, others.length - LEAST_BUCKETS));
  return {
    ...timeline,
    first_ms: firstMs + from * seconds * 1000,
    emojis: emojis.map(({ emoji, events }) => ({ emoji, events: events.slice(from) })),
    others: others.slice(from),
  };
}

/** The layers from the bottom up, the most frequent emoji first: [{name, rates}], in events per second. */
export function layersOf({ emojis, others, other_emojis: otherEmojis, bucket_seconds: seconds }) {
  const layers = emojis.map(({ emoji, events }) => ({ name: emoji, rates: events.map((number) => number / seconds) }));
  if (otherEmojis > 0) layers.push({ name: OTHERS, rates: others.map((number) => number / seconds), emojis: otherEmojis });
  return layers;
}

export function totalOf(layers) {
  return (layers[0]?.rates ?? []).map((_, index) => layers.reduce((sum, { rates }) => sum + rates[index], 0));
}

/** The indexes of the peaks, at most MOST_PEAKS, in order of time. */
export function peaksOf(total) {
  const highest = Math.max(0, ...total);
  if (highest === 0) return [];
  const found = [];
  for (let index = 0; index < total.length; index += 1) {
    const value = total[index];
    if (value < PROMINENCE * highest || value < (total[index + 1] ?? 0) || value <= (total[index - 1] ?? 0)) continue;
    if (value - Math.max(valley(total, index, -1), valley(total, index, 1)) >= PROMINENCE * highest) found.push(index);
  }
  const kept = [];
  for (const index of found.sort((a, b) => total[b] - total[a])) {
    if (kept.length < MOST_PEAKS && kept.every((other) => Math.abs(other - index) >= BUCKETS_APART)) kept.push(index);
  }
  return kept.sort((a, b) => a - b);
}

/** The lowest value between a peak and the next higher value, or the end of the chart. */
function valley(total, peak, step) {
  let lowest = total[peak];
  for (let index = peak + step; index >= 0 && index < total.length; index += step) {
    if (total[index] > total[peak]) return lowest;
    lowest = Math.min(lowest, total[index]);
  }
  return lowest;
}

/** Draws a timeline into the page. */
export class TimelineChart {
  constructor(page = document) {
    const parts = ["areas", "legend", "marks", "most", "times", "peaks", "readout", "cursor", "chart", "no-history"];
    this.parts = Object.fromEntries(parts.map((name) => [name, page.getElementById(name)]));
    this.parts.chart.addEventListener("pointermove", (event) => this.#point(event));
    this.parts.chart.addEventListener("pointerleave", () => this.#point(null));
  }

  draw(everything) {
    const timeline = trimmed(everything);
    const layers = layersOf(timeline);
    const total = totalOf(layers);
    const highest = Math.max(0, ...total);
    const width = Math.max(1, total.length - 1); // at least 1, also for an empty topic
    Object.assign(this, { timeline, layers, total, width });
    this.parts["no-history"].hidden = highest > 0;
    this.parts.chart.hidden = this.parts.times.hidden = highest === 0;
    this.#drawAreas(highest);
    this.#drawLegend();
    this.#drawPeaks(highest);
    this.parts.most.textContent = `${perSecond(highest)} /s`;
    const first = timeline.first_ms;
    const length = total.length * timeline.bucket_seconds * 1000;
    this.parts.areas.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.parts.times.replaceChildren(...[0, 1, 2, 3].map((third) => text("span", clock(first + (length * third) / 3))));
  }

  #drawAreas(highest) {
    const below = this.total.map(() => 0);
    const y = (rate) => (HEIGHT - (highest ? rate / highest : 0) * HEIGHT).toFixed(2);
    const areas = this.layers.map(({ name, rates }, layer) => {
      const bottom = below.map((rate, index) => `${index},${y(rate)}`).reverse();
      rates.forEach((rate, index) => { below[index] += rate; });
      const top = below.map((rate, index) => `${index},${y(rate)}`);
      const area = document.createElementNS(SVG, "polygon");
      area.setAttribute("points", [...top, ...bottom].join(" "));
      area.setAttribute("class", colour(name, layer));
      return area;
    });
    this.parts.areas.replaceChildren(...areas);
  }

  #drawLegend() {
    const seconds = this.timeline.bucket_seconds;
    const items = this.layers.map(({ name, rates, emojis }, layer) => {
      const item = text("li", "");
      const shown = name === OTHERS ? count(emojis, "other") : name;
      const sum = rates.reduce((all, rate) => all + rate * seconds, 0);
      item.append(text("i", "", colour(name, layer)), text("span", shown, name === OTHERS ? "" : "emoji"), text("span", whole(sum), "number"));
      return item;
    });
    this.parts.legend.replaceChildren(...items);
  }

  #drawPeaks(highest) {
    const peaks = peaksOf(this.total).map((index) => ({ index, ms: this.#time(index), emoji: this.#leader(index) }));
    const marks = peaks.map(({ index, ms, emoji }) => {
      const mark = text("p", "", "mark");
      mark.append(text("span", emoji, "emoji"), text("span", `${clock(ms)}`));
      const share = index / this.width;
      mark.style.left = `${(share * 100).toFixed(2)}%`;
      mark.style.top = `${((1 - this.total[index] / highest) * 100).toFixed(2)}%`;
      mark.classList.toggle("first", share < 0.04);
      mark.classList.toggle("last", share > 0.96);
      return mark;
    });
    this.parts.marks.replaceChildren(...marks);
    const told = peaks.map(({ index, ms, emoji }) => `${clock(ms)} with ${whole(this.total[index])} events per second, mostly ${emoji}`);
    const sentence = told.length ? `Peaks: ${list(told, MOST_PEAKS)}.` : "";
    if (this.parts.peaks.textContent !== sentence) this.parts.peaks.textContent = sentence;
  }

  /** The most frequent emoji of a bucket. */
  #leader(index) {
    return this.layers.reduce((most, layer) => (layer.rates[index] > most.rates[index] ? layer : most)).name;
  }

  #time(index) {
    return this.timeline.first_ms + index * this.timeline.bucket_seconds * 1000;
  }

  #point(event) {
    const { chart, cursor, readout } = this.parts;
    cursor.hidden = !event || !this.total?.length;
    readout.textContent = "";
    if (cursor.hidden) return;
    const box = chart.getBoundingClientRect();
    const share = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    const index = Math.min(Math.round(share * this.width), this.total.length - 1);
    cursor.style.left = `${((index / this.width) * 100).toFixed(2)}%`;
    const parts = this.layers.filter(({ rates }) => rates[index] > 0).map(({ name, rates }) => `${name} ${perSecond(rates[index])}`);
    readout.textContent = [`${clock(this.#time(index), true)}  ${perSecond(this.total[index])} /s`, ...parts].join("   ");
  }
}

function colour(name, layer) {
  return name === OTHERS ? "colour-others" : `colour-${layer}`;
}

function text(tag, content, className = "") {
  const node = document.createElement(tag);
  node.textContent = content;
  node.className = className;
  return node;
}
