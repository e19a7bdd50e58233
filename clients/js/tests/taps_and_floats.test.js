import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";

import { Taps, choose, share } from "../emo-reactions.js";
import { FakeApp, until } from "./fake_app.js";

describe("taps", () => {
  let app, taps, told;

  beforeEach(async () => {
    app = await new FakeApp().start();
    const sentences = (told = []);
    const to = () => ({ url: new URL("send-emojis?room=final", app.url), user: "me", key: "secret" });
    taps = new Taps(to, (sentence) => sentences.push(sentence));
  });
  afterEach(() => {
    clearTimeout(taps.timer);
    app.stop();
  });
  const sums = () => app.posts.map(({ events }) => events.map((event) => event.emoji_type + (event.count || 1)).join(" "));

  it("of half a second go together", async () => {
    for (const emoji of ["🔥", "🔥", "👏"]) taps.add(emoji);
    await until("a request", () => app.posts.length === 1);
    assert.deepEqual(sums(), ["🔥2 👏1"]);
    const [{ authorization, url, events }] = app.posts;
    assert.deepEqual([authorization, url, events[0].user_id], ["Bearer secret", "/send-emojis?room=final", "me"]);
  });

  it("follow when the app can take them again", async () => {
    app.answer = [503, { error: "busy" }];
    taps.add("🔥");
    await until("a refusal", () => app.posts.length === 1);
    taps.add("🔥");
    app.answer = [200, { rejected: [] }];
    await until("they follow", () => app.posts.length === 2);
    assert.deepEqual(sums(), ["🔥1", "🔥2"]);
    await until("all is well", () => told[told.length - 1] === "");
    assert.match(told[0], /follow/);
  });

  it("that the app refuses are told in its words", async () => {
    app.answer = [429, { error: "expected at most 10/second" }];
    taps.add("🔥");
    await until("a sentence", () => told.length === 1);
    assert.deepEqual(told, ["Not sent: expected at most 10/second"]);
  });
});

describe("a share", () => {
  for (const [events, limit, expected] of [
    [{}, 10, {}],
    [{ a: 3, b: 1 }, 10, { a: 3, b: 1 }],
    [{ a: 900, b: 100 }, 12, { a: 10, b: 2 }],
    [{ a: 1e9, b: 1 }, 10, { a: 9, b: 1 }],
    [{ a: 5, b: 4, c: 3 }, 2, { a: 1, b: 1 }],
  ]) {
    it(`of ${JSON.stringify(events)} in ${limit} is ${JSON.stringify(expected)}`, () => {
      const found = {};
      const counts = Object.entries(events).map(([emoji, number]) => ({ emoji, events: number }));
      for (const emoji of share(counts, limit)) found[emoji] = (found[emoji] || 0) + 1;
      assert.deepEqual(found, expected);
    });
  }
});

describe("choosing a subscriber", () => {
  const listed = [
    { stream_url: "a", alive: true, cluster: 1, streams: 10, available_streams: 5 },
    { stream_url: "b", alive: true, cluster: 2, streams: 500, available_streams: 5 },
    { stream_url: "c", alive: true, cluster: 2, streams: 0, available_streams: 0 },
    { stream_url: "d", alive: false, cluster: 2, streams: 0, available_streams: 5 },
  ];

  it("takes only those with a place, the cluster's own first, and others while they are avoided", () => {
    const times = Array.from({ length: 200 }, () => choose(listed).stream_url);
    assert.deepEqual([...new Set(times)].sort(), ["a", "b"]);
    assert.equal(choose(listed, { cluster: 2 }).stream_url, "b");
    assert.equal(choose(listed, { cluster: 2, avoid: new Set(["b"]) }).stream_url, "a");
    assert.equal(choose([]), null);
  });
});
