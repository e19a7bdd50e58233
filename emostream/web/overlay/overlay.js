// The overlay: only floating emojis, on a transparent background. docs/overlay.md explains the query parameters.

import { normalised } from "../emo-reactions.js";

const query = new URLSearchParams(location.search);
const reactions = document.createElement("emo-reactions");

/** Set a look from a number of the query, kept within bounds, unless it is missing or not a number. */
function look(name, least, most, unit = "") {
  const value = Number.parseFloat(query.get(name));
  if (!Number.isNaN(value)) reactions.style.setProperty(`--emo-${name}`, Math.max(least, Math.min(most, value)) + unit);
}

look("size", 16, 400, "px");
look("speed", 0.25, 4);
reactions.style.setProperty("--emo-side", query.get("side") || "full");

const spelling = new Map(document.body.dataset.emojis.split(",").map((emoji) => [normalised(emoji), emoji]));
const wanted = (query.get("set") || "").split(/[\s,]+/).map((emoji) => spelling.get(normalised(emoji)) || emoji);

// An error must not appear in a broadcast, so it goes to the browser's console.
const log = ({ detail }) => console.info(`EmoStream: ${detail.reason || detail.state}`);
reactions.addEventListener("emo-state", log);
reactions.addEventListener("emo-gap", log);
reactions.setAttribute("src", "."); // beside this page, wherever a proxy has put both
reactions.setAttribute("mode", "floats");
reactions.setAttribute("room", query.get("room") || "");
reactions.setAttribute("emojis", wanted.join(" "));
document.body.append(reactions);
