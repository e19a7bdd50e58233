import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";

import { Batches, Source, Tabs } from "../emo-reactions.js";
import { FakeApp, until } from "./fake_app.js";

/** The locks of a browser: one holder of a name at a time, the others in a queue. */
class Locks {
  constructor() {
    this.held = new Map(); // name → {reject}
    this.queue = [];
  }

  request(name, options, granted) {
    return new Promise((resolve, reject) => {
      const aborted = Object.assign(new Error("aborted"), { name: "AbortError" });
      const take = () => {
        const holder = { reject: () => reject(aborted) };
        this.held.set(name, holder);
        Promise.resolve(granted({ name })).then((value) => {
          if (this.held.get(name) === holder) this.free(name);
          resolve(value);
        });
      };
      if (options.steal) {
        this.held.get(name).reject();
        take();
      } else if (this.held.has(name)) {
        const waiting = { name, take };
        this.queue.push(waiting);
        options.signal.addEventListener("abort", () => {
          this.queue = this.queue.filter((one) => one !== waiting);
          reject(aborted);
        });
      } else {
        setImmediate(take);
        this.held.set(name, {});
      }
    });
  }

  free(name) {
    this.held.delete(name);
    const next = this.queue.findIndex((one) => one.name === name);
    if (next >= 0) this.queue.splice(next, 1)[0].take();
  }
}

describe("tabs", () => {
  let app;
  let open = [];

  afterEach(() => {
    for (const tab of open) tab.tabs.stop();
    app.stop();
    open = [];
  });

  function tab(locks) {
    const shown = [];
    const states = [];
    const batches = new Batches((batch) => shown.push(...batch.counts.map(({ events }) => `${batch.batch_id}:${events}`)));
    const take = (message) => {
      batches.take(message);
      if (message.type === "state") states.push(message.state);
    };
    const tabs = new Tabs(`test ${app.url}`, new Source(app.url, "", null), take, () => batches.past(), {
      locks, Channel: locks && BroadcastChannel,
    });
    tabs.start();
    const found = { tabs, shown, states };
    open.push(found);
    return found;
  }
  const send = (batch_id) => app.send({ batch_id, counts: [{ emoji: "🔥", count: 1, events: batch_id }] });
  const all = (expected) => until(`all have ${expected}`, () => open.every(({ shown }) => shown.join() === expected));

  it("of one browser share one stream, and those that come later begin with what there was", async () => {
    app = await new FakeApp().start();
    const locks = new Locks();
    for (let number = 0; number < 20; number += 1) tab(locks);
    await until("all are live", () => open.every(({ states }) => states[states.length - 1] === "live"));
    send(1);
    await all("1:1");
    tab(locks);
    await until("it is live", () => open[20].states.includes("live"));
    send(2);
    await all("1:1,2:2");
    assert.equal(app.count("/stream"), 1);
  });

  it("go on without a gap when the one with the stream ends", async () => {
    app = await new FakeApp().start();
    const locks = new Locks();
    for (let number = 0; number < 5; number += 1) tab(locks);
    await until("a stream", () => app.streams.size === 1);
    send(1);
    await all("1:1");
    const [leader] = open.splice(open.findIndex(({ tabs }) => tabs.isLeading), 1);
    leader.tabs.stop();
    await until("another stream", () => app.count("/stream") === 2 && app.streams.size === 1);
    assert.match(app.asked.filter((path) => path.startsWith("/stream"))[1], /last_event_id=1-1-0/);
    send(2);
    await all("1:1,2:2");
    assert.deepEqual(leader.shown, ["1:1"]);
  });

  it("take the stream from one that hangs, unless they were asleep themselves", async () => {
    app = await new FakeApp().start();
    const locks = new Locks();
    const [first, second] = [tab(locks), tab(locks)];
    await until("both are live", () => open.every(({ states }) => states.includes("live")));
    assert.ok(first.tabs.isLeading);
    second.tabs._watch(second.tabs.watchedMs + 200_000);
    assert.ok(first.tabs.isLeading);
    for (let number = 0; number < 12; number += 1) second.tabs._watch(second.tabs.watchedMs + 10_000);
    await until("the second leads", () => second.tabs.isLeading && !first.tabs.isLeading);
    await until("its stream", () => app.count("/stream") === 2 && app.streams.size === 1);
    send(1);
    await all("1:1");
  });

  it("are each for themselves without locks", async () => {
    app = await new FakeApp().start();
    tab(undefined);
    tab(undefined);
    await until("two streams", () => app.streams.size === 2);
    send(1);
    await all("1:1");
  });
});
