// Numbers, times and lists → the text that the operator's page shows.

/** "1 event", "12,000 events". */
export function count(number, noun) {
  return `${whole(number)} ${noun}${Math.round(number) === 1 ? "" : "s"}`;
}

export function whole(number) {
  return Math.round(number).toLocaleString("en");
}

/** A rate. Below 10 it has a digit after the point. */
export function perSecond(number) {
  return number > 0 && number < 10 ? number.toFixed(1) : whole(number);
}

/** "120 ms", "2.4 s", "3 min", "5 h", "2 days". */
export function duration(seconds) {
  if (seconds < 0.0995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 0.995) return `${(seconds * 1000).toPrecision(2) * 1} ms`;
  if (seconds < 59.5) return `${seconds < 9.95 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

export function megabytes(bytes) {
  return `${whole(bytes / 1e6)} MB`;
}

/** "a", "a and b", "a, b, c and 4 more". */
export function list(names, shown) {
  if (names.length <= 1) return names.join("");
  if (names.length <= shown) return `${names.slice(0, -1).join(", ")} and ${names[names.length - 1]}`;
  return `${names.slice(0, shown).join(", ")} and ${names.length - shown} more`;
}

/** The time of day, in the browser's time zone. */
export function clock(ms, seconds = false) {
  return new Date(ms).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(seconds && { second: "2-digit" }) });
}
