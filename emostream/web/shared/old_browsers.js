// Functions of newer browsers, for older ones from Chromium 75 on, which is in OBS 27.

/** AbortSignal.timeout(). */
export function timeoutSignal(ms) {
  const controller = new AbortController();
  setTimeout(() => controller.abort(), ms);
  return controller.signal;
}

/** reportError(): a bug in this page shows in the console, and the page goes on. */
export function report(error) {
  setTimeout(() => {
    throw error;
  });
}
