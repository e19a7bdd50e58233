import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { Picture, pictureMs } from "../emo-reactions.js";

const batch = (server_ms, more = {}) => ({ server_ms, tapped_ms: server_ms, recent: false, isFresh: true, ...more });

function made(behind) {
  const clock = { ms: 0 };
  const shown = [];
  const gaps = [];
  const picture = new Picture(
    (one) => shown.push([clock.ms, one.server_ms, one.isFresh]), (reason) => gaps.push(reason), behind(clock), () => clock.ms,
  );
  const until = (ms, each = () => {}) => {
    for (; clock.ms < ms; clock.ms += 100) {
      each(clock.ms);
      picture.look();
    }
  };
  return { clock, shown, gaps, picture, until };
}

describe("a delayed picture", () => {
  it("shows everything at once without a delay", () => {
    const { shown, picture } = made(() => 0);
    picture.take(batch(99_000));
    assert.deepEqual(shown, [[0, 99_000, true]]);
  });

  for (const seconds of [3, 12, 40]) {
    it(`of ${seconds} s shows nothing early, and at most 0.1 s late`, () => {
      const { shown, picture, until } = made(() => seconds);
      until(120_000, (ms) => {
        if (ms >= 2000 && ms <= 60_000 && ms % 2000 === 0) picture.take(batch(ms - 1100)); // counted and sent 1.1 s later
      });
      const errors = shown.map(([at, tapped]) => at - tapped - seconds * 1000);
      assert.equal(shown.length, 30);
      assert.ok(Math.min(...errors) >= 0 && Math.max(...errors) <= 100, errors.join());
      assert.ok(shown.every(([, , isFresh]) => isFresh));
      picture.stop();
    });

    it(`whose player is ${seconds} s behind follows it through a pause and seeks`, () => {
      let at = -seconds * 1000 + 1e9;
      let playing = true;
      const { shown, picture, until } = made(() => () => at);
      const play = (ms) => {
        if (ms % 2000 === 0) picture.take(batch(1e9 + ms - 1100));
        if (playing) at += 100;
        for (const [, tapped] of shown.splice(0)) {
          assert.ok(tapped <= at, "early");
          errors.push(at - tapped);
        }
      };
      const errors = [];
      until(60_000, play);
      assert.ok(errors.length >= (60 - seconds) / 2 - 1);
      errors.sort((a, b) => a - b);
      assert.ok(errors[Math.floor(errors.length * 0.95)] <= 2500, errors.join());
      playing = false;
      const before = errors.length;
      until(70_000, play);
      assert.ok(errors.length <= before + 1); // what came while it stood still waits
      playing = true;
      at += 10_000; // to where it would be
      until(90_000, play);
      assert.ok(errors.length > before + 10);
      at -= 20_000;
      const seen = errors.length;
      until(108_000, play);
      assert.ok(errors.length <= seen + 1); // nothing twice
      until(120_000, play);
      assert.ok(errors.length > seen + 3);
      picture.stop();
    });
  }

  it("counts what a seek passes over, but lets only the newest float", () => {
    let at = 0;
    const { shown, picture } = made(() => () => at);
    for (let ms = 2000; ms <= 20_000; ms += 2000) picture.take(batch(ms));
    at = 20_500;
    picture.look();
    assert.deepEqual(shown.map(([, , isFresh]) => isFresh), [...Array(9).fill(false), true]);
    picture.stop();
  });

  it("shows nothing while nobody knows the time of the picture, and holds a bounded number", () => {
    const { shown, gaps, picture } = made(() => () => NaN);
    for (let ms = 0; ms < 2001; ms += 1) picture.take(batch(ms));
    assert.deepEqual(shown, []);
    assert.equal(picture.held.length, 2000);
    assert.match(gaps[0], /oldest reactions were left out/);
    picture.stop();
  });
});

describe("the time of a picture", () => {
  it("is what the player tells", () => {
    assert.equal(pictureMs({ programDateTime: new Date(5000) }), 5000);
    assert.equal(pictureMs({ programDateTime: 5000 }), 5000);
    assert.equal(pictureMs({ getStartDate: () => new Date(5000), currentTime: 2.5 }), 7500);
    for (const nobody of [null, {}, { getStartDate: () => new Date(NaN), currentTime: 1 }, { programDateTime: "soon" }]) {
      assert.ok(Number.isNaN(pictureMs(nobody)));
    }
  });
});
