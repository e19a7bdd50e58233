// The operator's page: asks the app every two seconds what every process reports, and draws what has changed.

import { figuresOf } from "./figures.js";
import { clock, count, duration, megabytes, perSecond, whole } from "./format.js";
import { Answers } from "./rates.js";
import { TimelineChart } from "./timeline_chart.js";
import { judge } from "./what_is_slow.js";

const ASK_MS = 2000;
const TIMELINE_MS = 10_000;
const PATIENCE_MS = 8000; // without an answer for so long, the page says that its numbers are old
const GIVE_UP_MS = 6000;
const SUMMARY_MS = 15_000;
const SHOWN_ROOMS = 12;

const answers = new Answers();
const chart = new TimelineChart();
const seen = new Set();
let answeredAt = performance.now();
let told = { sentence: "", level: "", at: -Infinity };

const at = (id) => document.getElementById(id);

/** A new element. Its content is always text, never HTML, because anybody may choose the address of a client. */
function make(tag, content = "", className = "") {
  const node = document.createElement(tag);
  node.textContent = content;
  if (className) node.className = className;
  return node;
}

function set(id, content) {
  const node = at(id);
  if (node.textContent !== content) node.textContent = content;
}

async function ask(path) {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(GIVE_UP_MS) });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

async function refusal(response) {
  const { error = response.statusText } = await response.json().catch(() => ({}));
  return Object.assign(new Error(error), { status: response.status });
}

async function askAll() {
  if (document.hidden) return;
  let answer;
  try {
    answer = await ask("dashboard.json");
  } catch (error) {
    if (error.status >= 400 && error.status < 500) showRefused(error);
    else if (performance.now() - answeredAt > PATIENCE_MS) showAway();
    return;
  }
  answeredAt = performance.now();
  showLocked(false);
  for (const { name, page } of answer.processes) if (page) seen.add(name);
  answers.add(answer);
  show(figuresOf(answers, seen));
  showState("live", "Live");
}

async function askTimeline() {
  if (document.hidden) return;
  const room = chosenRoom();
  try {
    const [timeline, rooms] = await Promise.all([ask(room === null ? "timeline.json" : `timeline.json?${roomQuery(room)}`), ask("rooms")]);
    if (room !== chosenRoom()) return; // another one was chosen meanwhile, and is being asked for
    chart.draw(timeline);
    showRooms(rooms, room);
    set("history-note", "");
  } catch (error) {
    set("history-note", `Not up to date: ${error.message}`);
  }
}

/** The room in the page's address; null for all rooms together, "" for the default room. */
function chosenRoom() {
  return new URLSearchParams(location.search).get("room");
}

function roomQuery(room) {
  return new URLSearchParams({ room }).toString();
}

function chooseRoom(room) {
  history.replaceState(null, "", room === null ? location.pathname : `?${roomQuery(room)}`);
  askTimeline();
}

/** A button for each of the busiest rooms of the last minute. There is nothing to choose while only the default room is in use. */
function showRooms({ seconds, rooms, others, other_rooms: otherRooms }, chosen) {
  const total = rooms.reduce((sum, { events }) => sum + events, others);
  const busiest = rooms.slice(0, SHOWN_ROOMS);
  if (chosen !== null && !busiest.some(({ room }) => room === chosen)) {
    busiest.push(rooms.find(({ room }) => room === chosen) || { room: chosen, events: 0 });
  }
  const button = (room, name, events) => {
    const node = make("button", `${name}  ${perSecond(events / seconds)}`);
    node.type = "button";
    node.ariaPressed = String(room === chosen);
    if (room !== null) node.dataset.room = room;
    return node;
  };
  const hidden = rooms.length + otherRooms - busiest.length;
  const focused = at("rooms").contains(document.activeElement) && document.activeElement.dataset.room;
  at("rooms").hidden = chosen === null && rooms.every(({ room }) => room === "");
  fill("rooms", [
    button(null, "all rooms", total),
    ...busiest.map(({ room, events }) => button(room, room || "default room", events)),
    ...(hidden > 0 ? [make("span", `and ${count(hidden, "other room")}`)] : []),
  ]);
  if (focused !== false) [...at("rooms").children].find((node) => node.dataset.room === focused)?.focus();
  set("of-room", chosen === null ? "" : ` in ${chosen || "the default room"}`);
  at("csv").href = `timeline.csv?minutes=30${chosen ? `&${roomQuery(chosen)}` : ""}`;
}

function showState(state, sentence) {
  at("state").dataset.state = state;
  set("state", sentence);
}

function showAway() {
  showState("away", answers.list.length ? `Old: as of ${clock(answers.newest.at_ms, true)}` : "Not connected");
  showVerdict({ level: "bad", sentence: `Broken: the app has not answered for ${duration((performance.now() - answeredAt) / 1000)}.`, also: [] });
}

/** The app refuses the numbers: it wants the key (401), or does not answer this browser at all. */
function showRefused({ status, message }) {
  answeredAt = performance.now();
  showLocked(true, status === 401);
  showState("away", "Not allowed");
  showVerdict({ level: "unknown", sentence: status === 401 ? "This page needs the operator's key." : message, also: [] });
}

function showLocked(isLocked, needsKey = false) {
  document.body.classList.toggle("locked", isLocked);
  at("key-needed").hidden = !needsKey;
}

async function sendKey(event) {
  event.preventDefault();
  set("key-note", "");
  try {
    const response = await fetch("dashboard/key", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ key: at("key").value }),
      signal: AbortSignal.timeout(GIVE_UP_MS),
    });
    if (!response.ok) throw await refusal(response);
    at("key").value = "";
    await Promise.all([askAll(), askTimeline()]);
  } catch (error) {
    set("key-note", error.status === 401 ? "This is not the key." : `The key could not be sent: ${error.message}`);
  }
}

function show(figures) {
  showVerdict(judge(figures));
  showHops(figures);
  showLatency(figures);
  showProcesses(figures);
  showClients(figures);
}

function showVerdict({ level, sentence, also }) {
  at("verdict").dataset.level = level;
  set("sentence", sentence);
  document.title = `${level === "well" ? "✓" : "⚠"} ${sentence}`;
  fill("also", also.map((text) => make("li", text)));
  // Screen readers get a change of level at once, and other changes after SUMMARY_MS.
  const now = performance.now();
  if (level !== told.level || (sentence !== told.sentence && now - told.at > SUMMARY_MS)) {
    told = { level, sentence, at: now };
    set("summary", sentence);
  }
}

/** Replace what an element holds, unless it is the same already. */
function fill(id, nodes) {
  const parent = at(id);
  const holder = document.createElement("div");
  holder.append(...nodes);
  if (holder.innerHTML !== parent.innerHTML) parent.replaceChildren(...holder.childNodes);
}

function showHops({ hops, screens: delivered, refused, measured }) {
  const rate = (number, unit) => {
    const line = make("p", "", "rate");
    line.append(make("b", measured ? perSecond(number) : "–"), make("span", ` ${unit}/s`));
    return line;
  };
  const items = hops.map(({ name, unit, rate: number, waiting, furthest }) => {
    const item = make("li");
    const behind = name === "ingest" ? `${whole(waiting)} on the way` : `${count(waiting, unit)} behind`;
    item.append(make("h3", name), rate(number, name === "ingest" ? "events in" : `${unit}s`), make("p", behind, waiting > 0 ? "waits" : "waits none"));
    if (furthest && waiting > 0) item.append(make("p", furthest, "who"));
    if (name === "ingest") for (const [reason, r] of refused) item.append(make("p", `${perSecond(r)}/s refused: ${reason}`, "who"));
    return item;
  });
  const screens = make("li");
  screens.append(
    make("h3", "screens"), rate(delivered.rate, "counts out"),
    make("p", `${count(delivered.clients, "client")}, ${count(delivered.streams, "stream")}`, "waits none"),
  );
  fill("hops", [...items, screens]);
}

function showLatency({ tapToScreen, stages, stream }) {
  at("no-latency").hidden = Boolean(tapToScreen);
  for (const id of ["bar", "axis"]) at(id).hidden = !tapToScreen;
  set("p50", tapToScreen ? duration(tapToScreen.p50) : "–");
  set("p99", tapToScreen ? duration(tapToScreen.p99) : "–");
  const rows = stream ? [...stages, { name: "route → streams", ...stream }] : stages;
  fill("stages", rows.map(({ name, mean, p50, p99 }) => {
    const row = make("tr");
    const head = make("th", "");
    head.scope = "row";
    head.append(make("i", "", `stage-${name.split(" ")[0] === name ? name : "none"}`), name);
    row.append(head, ...[mean, p50, p99].map((seconds) => make("td", seconds === undefined ? "–" : duration(seconds))));
    return row;
  }));
  if (!tapToScreen) return;
  const end = Math.max(tapToScreen.p99 * 1.05, 1);
  const place = (seconds) => `${Math.min(100, (seconds / end) * 100).toFixed(2)}%`;
  const parts = stages.filter(({ mean }) => mean !== undefined).map(({ name, mean }) => {
    const part = make("span", "", `stage-${name}`);
    part.style.width = place(mean);
    return part;
  });
  const marks = [["p50", tapToScreen.p50], ["p99", tapToScreen.p99]].map(([name, seconds]) => {
    const mark = make("span", "", "quantile");
    mark.append(make("b", name));
    mark.style.left = place(seconds);
    return mark;
  });
  at("bar").replaceChildren(...parts, ...marks);
  at("axis").replaceChildren(make("span", "0"), make("span", `mean ${duration(tapToScreen.mean)} = ${stages.map((s) => s.name).join(" + ")}`), make("span", duration(end)));
}

function showProcesses({ processes, supervised }) {
  at("unsupervised").hidden = supervised;
  fill("processes", processes.map((process) => {
    const row = make("tr");
    const name = make("th", process.name);
    name.scope = "row";
    const state = make("td", process.word, "process-state");
    state.dataset.level = process.level;
    if (process.reason) state.append(make("span", process.reason, "why"));
    const number = (value) => (value === undefined || value === null ? "" : whole(value));
    row.append(
      name, state, make("td", number(process.restarts), process.restarts > 0 ? "restarted" : ""),
      make("td", process.upSeconds === null || process.level === "bad" ? "" : duration(process.upSeconds), "extra"),
      make("td", number(process.clients)), make("td", number(process.streams)),
      make("td", process.memoryBytes ? megabytes(process.memoryBytes) : "", "extra"),
    );
    return row;
  }));
}

function showClients({ screens, slow, evicted, atMs }) {
  set("clients-count", `${count(screens.clients, "client")} and ${count(screens.streams, "stream")} are served.`);
  const named = (url, what, who) => {
    const item = make("li");
    item.append(make("span", url, "url"), make("span", `${what} · ${who}`, "what"));
    return item;
  };
  const none = (sentence) => [make("li", sentence, "quiet")];
  fill("slow", slow.length ? slow.map((client) => {
    const failing = client.failing_seconds > 0 ? `failing for ${duration(client.failing_seconds)}, ` : "";
    return named(client.client_url, `${failing}${count(client.behind_records, "count")} behind`, client.subscriber);
  }) : none("None."));
  fill("evicted", evicted.length ? evicted.map((one) =>
    named(one.client_url, `${duration(Math.max(0, atMs - one.at_ms) / 1000)} ago: ${one.reason}`, one.subscriber),
  ) : none("None since their subscribers started."));
}

/** Ask again and again, with a pause after each answer. */
async function keepAsking(asking, pauseMs) {
  await asking().catch(reportError); // a bug in this page, which must not end the asking
  setTimeout(keepAsking, pauseMs, asking, pauseMs);
}

at("key-form").addEventListener("submit", sendKey);
at("rooms").addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (button) chooseRoom(button.ariaPressed === "true" ? null : button.dataset.room ?? null);
});
document.addEventListener("visibilitychange", () => {
  answeredAt = performance.now();
  askAll();
  askTimeline();
});
keepAsking(askAll, ASK_MS);
keepAsking(askTimeline, TIMELINE_MS);
