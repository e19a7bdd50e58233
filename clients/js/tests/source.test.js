import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";

import { Batches, Source } from "../emo-reactions.js";
import { FakeApp, until } from "./fake_app.js";

describe("a source", () => {
  let app, source, messages, batches;

  beforeEach(async () => {
    app = await new FakeApp().start();
    messages = [];
    batches = [];
  });
  afterEach(() => {
    source.stop();
    app.stop();
  });

  function run({ room = "", poll = false } = {}) {
    const each = new Batches((batch) => batches.push(batch));
    source = new Source(app.url, room, (message) => (messages.push(message), each.take(message)), poll);
    source.batchSeconds = 0.1; // until a list of subscribers says the same
    source.start();
  }
  const shown = () => batches.map(({ batch_id, counts }) => [batch_id, ...counts.map(({ emoji, events }) => emoji + events)].join(" "));
  const state = () => messages.filter(({ type }) => type === "state").map((message) => message.state).pop();
  const one = (batch_id, events = 1) => ({ batch_id, counts: [{ emoji: "🔥", count: 1, events }] });
  const pulsed = (batch_id, events = 1) => ({ batch_id, batched_ms: Date.now(), counts: [{ emoji: "🔥", count: 1, events }] });

  it("begins with the last minute and goes on with the stream", async () => {
    app.past = [{ ...one(1, 5), batched_ms: Date.now() - 4000, pushed_ms: Date.now() - 3900 }];
    run({ room: "final" });
    await until("the stream", () => app.streams.size === 1);
    assert.equal(app.asked.filter((path) => path.startsWith("/stream"))[0], "/stream?room=final&recent=60");
    app.send(one(2));
    await until("the batch", () => batches.length === 2);
    assert.deepEqual(shown(), ["1 🔥5", "2 🔥1"]);
    assert.deepEqual(batches.map(({ recent, isFresh }) => [recent, isFresh]), [[true, false], [false, true]]);
    assert.equal(state(), "live");
  });

  it("goes on after the last event when the stream breaks", async () => {
    run();
    await until("the stream", () => app.streams.size === 1);
    app.send(one(7));
    await until("the batch", () => batches.length === 1);
    app.end();
    await until("another stream", () => app.count("/stream") === 2 && app.streams.size === 1);
    assert.equal(app.asked.filter((path) => path.startsWith("/stream"))[1], "/stream?last_event_id=1-7-0");
    assert.ok(messages.some((message) => message.state === "reconnecting"));
  });

  it("tells of a gap", async () => {
    run();
    await until("the stream", () => app.streams.size === 1);
    app.write('event: gap\ndata: {"reason": "too late"}\n\n');
    await until("the gap", () => messages.some(({ type, data }) => type === "gap" && data.reason === "too late"));
  });

  it("polls when it is told to, and opens no stream", async () => {
    app.pulse = [pulsed(1), pulsed(2), pulsed(3)];
    run({ poll: true, room: "final" });
    await until("three polls", () => app.count("/pulse.json?room=final") >= 3);
    app.pulse = [pulsed(2), pulsed(3, 4), pulsed(4)];
    await until("the next batch", () => batches.length === 5);
    assert.deepEqual(shown(), ["1 🔥1", "2 🔥1", "3 🔥1", "3 🔥3", "4 🔥1"]);
    assert.deepEqual(batches.map(({ isFresh }) => isFresh), [false, true, true, true, true]);
    assert.equal(app.count("/stream"), 0);
    assert.equal(state(), "polling");
  });

  it("polls while every place is taken, and shows each batch once when it streams again", async () => {
    run();
    await until("the stream", () => app.streams.size === 1);
    app.send(one(1));
    await until("the batch", () => batches.length === 1);
    app.places = 0;
    app.pulse = [pulsed(1), pulsed(2)];
    app.end();
    await until("polls", () => state() === "polling");
    app.pulse = [pulsed(1), pulsed(2), pulsed(3)];
    await until("the third batch", () => batches.length === 3);
    app.past = [one(1), one(2), one(3), one(4)];
    app.places = 10;
    await until("a stream again", () => app.streams.size === 1);
    await until("live", () => state() === "live");
    assert.match(app.asked.filter((path) => path.startsWith("/stream")).pop(), /^\/stream\?recent=60$/);
    app.send(one(3)); // a late part, which the poll had already
    app.send(one(5));
    await until("the fifth batch", () => batches.length === 5);
    assert.deepEqual(shown(), ["1 🔥1", "2 🔥1", "3 🔥1", "4 🔥1", "5 🔥1"]);
    const polls = app.count("/pulse.json");
    await new Promise((resolve) => setTimeout(resolve, 300)); // three polls' time
    assert.equal(app.count("/pulse.json"), polls);
  });

  it("says that all is full where there is nothing to poll", async () => {
    app.places = 0;
    run();
    await until("full", () => state() === "full");
    assert.equal(app.count("/stream"), 0);
    await until("a poll", () => app.count("/pulse.json") >= 1);
  });
});

describe("batches", () => {
  const clock = { ms: 1_000_000 };
  const make = () => {
    const shown = [];
    return [new Batches((batch) => shown.push(batch), () => clock.ms), shown];
  };
  const counts = [{ emoji: "🔥", count: 1, events: 3 }];

  it("adds the parts of a batch", () => {
    const [batches, shown] = make();
    batches.take({ type: "batch", data: { batch_id: 1, counts } });
    batches.take({ type: "batch", data: { batch_id: 1, counts: [{ emoji: "😊", count: 2 }] } });
    assert.deepEqual(shown.map((batch) => batch.counts), [[{ emoji: "🔥", events: 3 }], [{ emoji: "😊", events: 2 }]]);
  });

  it("takes what a stream had shown off what a poll brings", () => {
    const [batches, shown] = make();
    batches.take({ type: "batch", data: { batch_id: 1, counts } });
    const all = [{ emoji: "🔥", count: 1, events: 3 }, { emoji: "😊", count: 1, events: 1 }];
    batches.take({ type: "pulse", data: { batches: [{ batch_id: 1, batched_ms: 5, counts: all }] } });
    assert.deepEqual(shown.map((batch) => batch.counts), [[{ emoji: "🔥", events: 3 }], [{ emoji: "😊", events: 1 }]]);
  });

  it("knows old batches whatever the difference of the clocks, and whenever the first one came", () => {
    const [batches, shown] = make();
    batches.take({ type: "batch", data: { batch_id: 1, counts, batched_ms: 600_000, pushed_ms: 600_500 } });
    clock.ms += 90_000; // asleep
    batches.take({ type: "batch", data: { batch_id: 2, counts, batched_ms: 602_000, pushed_ms: 602_500 } });
    batches.take({ type: "batch", data: { batch_id: 3, counts, batched_ms: 690_000, pushed_ms: 690_500 } });
    assert.deepEqual(shown.map((batch) => batch.isFresh), [true, false, true]);
    assert.deepEqual(shown.map((batch) => batch.at_ms), [1_000_000, 1_002_000, 1_090_000]);
  });

  it("gives a tab that comes later the last minute", () => {
    const [batches] = make();
    batches.take({ type: "batch", data: { batch_id: 1, counts, batched_ms: 5 } });
    clock.ms += 61_000;
    batches.take({ type: "batch", data: { batch_id: 2, counts, batched_ms: 61_005 } });
    const [later, shown] = make();
    clock.ms += 1000;
    later.take({ type: "past", data: batches.past() });
    assert.deepEqual(shown.map(({ batch_id, at_ms, isFresh }) => [batch_id, clock.ms - at_ms, isFresh]), [[2, 1000, true]]);
  });

  it("forgets", () => {
    const [batches] = make();
    for (let id = 0; id < 100_000; id += 1) {
      clock.ms += 50;
      batches.take({ type: "batch", data: { batch_id: id, counts, batched_ms: clock.ms } });
    }
    assert.ok(batches.shown.size <= 1801);
  });
});
