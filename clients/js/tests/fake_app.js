// An app with one subscriber, whose answers a test decides.

import { createServer } from "node:http";

export class FakeApp {
  constructor() {
    this.asked = []; // the path of each request, with its query
    this.posts = []; // {events, authorization} of each POST
    this.streams = new Set();
    this.pulse = null; // the batches of /pulse.json; null: there is no such path
    this.places = 10;
    this.past = [];
    this.answer = [200, { rejected: [] }];
    this.server = createServer((request, response) => this._answer(request, response));
  }

  async start() {
    await new Promise((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    this.url = `http://127.0.0.1:${this.server.address().port}/`;
    return this;
  }

  stop() {
    this.server.close();
    this.server.closeAllConnections();
  }

  /** Write to every stream. */
  write(text) {
    for (const stream of this.streams) stream.write(text);
  }

  send(batch, id = `1-${batch.batch_id}-0`) {
    this.write(`id: ${id}\ndata: ${JSON.stringify({ batched_ms: Date.now(), pushed_ms: Date.now(), ...batch })}\n\n`);
  }

  end() {
    for (const stream of this.streams) stream.end();
  }

  count(path) {
    return this.asked.filter((asked) => asked.startsWith(path)).length;
  }

  async _answer(request, response) {
    const { pathname } = new URL(request.url, this.url);
    this.asked.push(request.url);
    const json = (status, body, headers = {}) => {
      response.writeHead(status, { "Content-Type": "application/json", ...headers });
      response.end(JSON.stringify(body));
    };
    if (pathname === "/subscribers") {
      const one = { stream_url: `${this.url}stream`, cluster: 1, alive: true, streams: 0, available_streams: this.places };
      json(200, { subscribers: [one], batch_seconds: 0.1 });
    } else if (pathname === "/stream" && this.places > 0) {
      response.writeHead(200, { "Content-Type": "text/event-stream" });
      const resumed = /last_event_id=/.test(request.url);
      const recent = JSON.stringify({ pushed_ms: Date.now(), batches: this.past });
      response.write(resumed ? ":\n\n" : `id: 1-0-0\nevent: recent\ndata: ${recent}\n\n`);
      this.streams.add(response);
      response.on("close", () => this.streams.delete(response));
    } else if (pathname === "/stream") {
      json(503, { error: "full" }, { "Retry-After": "5" });
    } else if (pathname === "/pulse.json" && this.pulse) {
      json(200, { room: "", batch_seconds: 0.05, batches: this.pulse });
    } else if (pathname === "/send-emojis") {
      let body = "";
      for await (const part of request) body += part;
      this.posts.push({ events: JSON.parse(body), authorization: request.headers.authorization, url: request.url });
      json(...this.answer);
    } else {
      json(404, { error: "not found" });
    }
  }
}

export async function until(what, condition, ms = 30000) {
  const deadline = Date.now() + ms;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
