"""A video of a match, which the browser records itself, at an address of its own."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager

from testkit.browser import Browser
from testkit.http_servers import Answer, http_server

_RECORD = """let [seconds, done] = arguments;
const canvas = Object.assign(document.createElement("canvas"), {width: 960, height: 540});
const pen = canvas.getContext("2d");
const began = performance.now();
const draw = setInterval(() => {
  const at = (performance.now() - began) / 1000;
  for (let stripe = 0; stripe < 12; stripe += 1) {
    pen.fillStyle = stripe % 2 ? "#2f7d3b" : "#358a43";
    pen.fillRect(stripe * 80, 0, 80, 540);
  }
  pen.strokeStyle = "#ffffffb0"; pen.lineWidth = 4;
  pen.strokeRect(40, 40, 880, 460); pen.strokeRect(40, 150, 150, 240); pen.strokeRect(770, 150, 150, 240);
  pen.beginPath(); pen.moveTo(480, 40); pen.lineTo(480, 500); pen.stroke();
  pen.beginPath(); pen.arc(480, 270, 80, 0, 7); pen.stroke();
  const dot = (x, y, size, color) => { pen.fillStyle = color; pen.beginPath(); pen.arc(x, y, size, 0, 7); pen.fill(); };
  for (let player = 0; player < 20; player += 1) {
    const x = 130 + (player * 173) % 700 + 26 * Math.sin(at + player);
    dot(x, 90 + (player * 97) % 360 + 20 * Math.cos(at * 0.8 + player), 11, player % 2 ? "#e8443a" : "#f4f4f4");
  }
  dot(480 + 330 * Math.sin(at * 0.9), 270 + 130 * Math.sin(at * 1.7), 7, "#111");
}, 33);
const options = {mimeType: "video/webm;codecs=vp8", videoBitsPerSecond: 2e6};
const plays = (blob) => new Promise((resolve) => {
  const video = Object.assign(document.createElement("video"), {muted: true, src: URL.createObjectURL(blob)});
  video.onloadeddata = () => resolve(true);
  video.onerror = () => resolve(false);
  setTimeout(() => resolve(false), 10000); // it may also say nothing at all
});
const record = () => {
  const parts = [], recorder = new MediaRecorder(canvas.captureStream(30), options);
  recorder.ondataavailable = ({data}) => parts.push(data);
  recorder.onstop = async () => {
    const blob = new Blob(parts);
    if (!(await plays(blob))) { // on a busy machine it may have no picture at all; a longer one has
      seconds = Math.min(2 * seconds, 8);
      return record();
    }
    clearInterval(draw);
    const reader = new FileReader();
    reader.onload = () => done(reader.result.split(",")[1]);
    reader.readAsDataURL(blob);
  };
  recorder.start();
  setTimeout(() => recorder.stop(), seconds * 1000);
};
record();"""


@contextmanager
def video_of(browser: Browser, seconds: float = 0.5) -> Iterator[str]:
    """The URL of a video of so many seconds, or of more on a busy machine. The browser leaves its page for it."""
    browser.get("about:blank")
    body = base64.b64decode(browser.execute_async_script(_RECORD, seconds))
    files = {"/match.webm": Answer(200, body, {"Content-Type": "video/webm"})}
    with http_server(lambda asked: files.get(asked.path, Answer(404))) as server:
        yield f"{server.url}match.webm"
