// Answers of GET /dashboard.json → increases, rates and quantiles, from the differences between the answers.

const KEPT_MS = 65_000;

/** Whether a process is of this kind. The kind "subscriber_2" is every subscriber of cluster 2. */
function isOfKind(name, kind) {
  return name === kind || name.startsWith(`${kind}_`);
}

/** The answers of the last minute, oldest first. */
export class Answers {
  constructor() {
    this.list = [];
  }

  /** Keep an answer if it is newer than the newest one. */
  add(answer) {
    if (this.list.length && answer.at_ms <= this.newest.at_ms) return;
    this.list.push(answer);
    while (this.list[0].at_ms < answer.at_ms - KEPT_MS) this.list.shift();
  }

  get newest() {
    return this.list[this.list.length - 1];
  }

  /** The answers from `seconds` ago until `until` seconds ago, and the one before them, to compare with. */
  #within(seconds, until = 0) {
    const first = this.newest.at_ms - seconds * 1000;
    const last = this.newest.at_ms - until * 1000;
    let start = 0;
    while (start + 1 < this.list.length && this.list[start + 1].at_ms <= first) start += 1;
    return this.list.slice(start).filter((answer) => answer.at_ms <= last);
  }

  /** How many of these seconds the answers cover. */
  span(seconds, until = 0) {
    const found = this.#within(seconds, until);
    return found.length < 2 ? 0 : (found[found.length - 1].at_ms - found[0].at_ms) / 1000;
  }

  /**
   * The growth of a number, summed over all processes of a kind. `get(page)` reads the number.
   * A number that became smaller has started again at 0. A process without an answer keeps its last number.
   */
  #grown(kind, get, seconds, until) {
    const before = new Map();
    let sum = 0;
    for (const answer of this.#within(seconds, until)) {
      for (const { name, page } of answer.processes) {
        if (!page || !isOfKind(name, kind)) continue;
        const value = get(page) ?? 0;
        if (before.has(name)) sum += value < before.get(name) ? value : value - before.get(name);
        before.set(name, value);
      }
    }
    return sum;
  }

  increase(kind, series, seconds, until = 0) {
    return this.#grown(kind, (page) => page.series[series], seconds, until);
  }

  /** The increase per second; 0 if there is only one answer. */
  rate(kind, series, seconds) {
    const span = this.span(seconds);
    return span ? this.increase(kind, series, seconds) / span : 0;
  }

  /** What all processes of a kind have observed within these seconds. */
  histogram(kind, name, seconds) {
    const within = this.#within(seconds);
    const one = within.flatMap((answer) => answer.processes).find((p) => isOfKind(p.name, kind) && p.page?.histograms[name]);
    const le = one ? one.page.histograms[name].le : [];
    const part = (get) => this.#grown(kind, (page) => page.histograms[name] && get(page.histograms[name]), seconds);
    return {
      le,
      atMost: le.map((_, index) => part((histogram) => histogram.at_most[index])),
      count: part((histogram) => histogram.count),
      sum: part((histogram) => histogram.sum),
    };
  }

  /** The rate of a series for each value of its label: [value, rate]. */
  ratesBy(kind, series, label, seconds) {
    const found = new Set();
    for (const { name, page } of this.newest.processes) {
      if (page && isOfKind(name, kind)) for (const key of Object.keys(page.series)) if (key.startsWith(`${series}{`)) found.add(key);
    }
    return [...found].map((key) => [key.slice(series.length + label.length + 3, -2), this.rate(kind, key, seconds)]);
  }

  /** The current value in each process of a kind that has this series: [name, value]. */
  now(kind, series) {
    return this.newest.processes
      .filter(({ name, page }) => isOfKind(name, kind) && page && series in page.series)
      .map(({ name, page }) => [name, page.series[series]]);
  }

  sum(kind, series) {
    return this.now(kind, series).reduce((sum, [, value]) => sum + value, 0);
  }

  most(kind, series) {
    return this.now(kind, series).reduce((most, [, value]) => Math.max(most, value), 0);
  }
}

/**
 * The quantile `q`, by linear interpolation within its bucket: null without observations, and the last bound if it is
 * greater than that.
 */
export function quantile(q, { le, atMost, count }) {
  if (!count) return null;
  const rank = q * count;
  let below = 0;
  let from = 0;
  for (let index = 0; index < le.length; index += 1) {
    if (atMost[index] >= rank && atMost[index] > below) {
      return from + ((le[index] - from) * Math.max(0, rank - below)) / (atMost[index] - below);
    }
    below = atMost[index];
    from = le[index];
  }
  return le.length ? le[le.length - 1] : null;
}

/** p50, p99 and mean of a histogram; null if nothing was observed. */
export function summary(histogram) {
  const { count, sum } = histogram;
  if (!count) return null;
  return { count, mean: sum / count, p50: quantile(0.5, histogram), p99: quantile(0.99, histogram) };
}
