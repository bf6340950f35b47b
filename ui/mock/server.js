// A small stand-in for the API: the stream list, one stream, the live feed and the built page.
//
// Tests use it to misbehave (`drop`, `mute`, `refuse`), the benchmark to send fast, and
// `npm run mock` to develop the page without the rest. It speaks the API's own contract:
// cursors, heartbeats, gaps, problem documents.

import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

import { EventMaker } from "./events.js";

const DIST = join(dirname(fileURLToPath(import.meta.url)), "../dist");
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};
/** The Worker takes these from `_headers`; the policy is checked here too. */
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export class MockServer {
  /** streamId → { summary, entries: [{ cursor, text }], clients } */
  streams = new Map();
  /** The `after` of every feed request, oldest first. */
  requests = [];
  heartbeatMs = 15_000;
  #server;
  #refusal;
  #muted = false;
  #timer;

  async listen(port = 0) {
    this.#server = createServer((request, response) => this.#answer(request, response));
    await new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(port, "127.0.0.1", resolve);
    });
    this.#beat();
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  async close() {
    clearTimeout(this.#timer);
    this.drop();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** A stream that the list names; `summary` overrides what it says. */
  open(streamId, summary = {}) {
    const now = new Date().toISOString();
    this.streams.set(streamId, {
      summary: {
        streamId,
        username: "mock",
        displayName: "Mock Creator",
        title: "A stream that nobody recorded",
        status: "live",
        startedAt: now,
        lastEventAt: now,
        ...summary,
      },
      entries: [],
      clients: new Set(),
    });
  }

  end(streamId) {
    this.streams.get(streamId).summary.status = "ended";
  }

  push(streamId, event) {
    const stream = this.streams.get(streamId);
    const entry = {
      cursor: Buffer.from(`1.${streamId}.${event.seqNo}`).toString("base64url"),
      text: JSON.stringify(event),
    };
    stream.entries.push(entry);
    stream.summary.lastEventAt = event.ingestedAt;
    this.#send(stream, frame(entry));
  }

  /** Writes as it is to every client of a stream. */
  write(streamId, text) {
    this.#send(this.streams.get(streamId), text);
  }

  /** Cuts every live feed. */
  drop() {
    for (const { clients } of this.streams.values()) {
      for (const client of clients) client.destroy();
      clients.clear();
    }
  }

  /** Connections stay, nothing is sent any more: not even heartbeats. */
  mute(muted = true) {
    this.#muted = muted;
  }

  /** Answers feed requests with this status until told otherwise. */
  refuse(status, headers = {}) {
    this.#refusal = status === undefined ? undefined : { status, headers };
  }

  #send(stream, text) {
    if (this.#muted) return;
    for (const client of stream.clients) client.write(text);
  }

  #beat() {
    const data = JSON.stringify({ at: new Date().toISOString() });
    for (const stream of this.streams.values()) {
      this.#send(stream, `event: heartbeat\ndata: ${data}\n\n`);
    }
    this.#timer = setTimeout(() => this.#beat(), this.heartbeatMs);
    this.#timer.unref();
  }

  #answer(request, response) {
    const url = new URL(request.url, "http://mock");
    const [, root, id, leaf] = url.pathname.split("/");
    if (root !== "streams") return serveFile(url.pathname, response);
    if (id === undefined) {
      const items = [...this.streams.values()].map(({ summary, entries }) => ({
        ...summary,
        eventCount: entries.length,
      }));
      return json(response, 200, { items: items.toReversed() });
    }
    const stream = this.streams.get(decodeURIComponent(id));
    if (leaf === "events" && this.#refusal) {
      this.requests.push(url.searchParams.get("after"));
      return problem(response, this.#refusal.status, "refused by the test", this.#refusal.headers);
    }
    if (!stream) return problem(response, 404, "no such stream");
    if (leaf === "events") return this.#feed(stream, url, request, response);
    return json(response, 200, { ...stream.summary, eventCount: stream.entries.length });
  }

  #feed(stream, url, request, response) {
    const after = url.searchParams.get("after");
    this.requests.push(after);
    let from = stream.entries.length;
    if (after === "start") from = 0;
    else if (after !== null) {
      const at = stream.entries.findIndex((entry) => entry.cursor === after);
      if (at < 0) return problem(response, 400, "not a cursor of this stream");
      from = at + 1;
    }
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    response.write(
      `event: heartbeat\ndata: ${JSON.stringify({ at: new Date().toISOString() })}\n\n`,
    );
    if (!this.#muted) response.write(stream.entries.slice(from).map(frame).join(""));
    stream.clients.add(response);
    request.on("close", () => stream.clients.delete(response));
  }
}

function frame({ cursor, text }) {
  return `id: ${cursor}\ndata: ${text}\n\n`;
}

function json(response, status, body, type = "application/json", headers = {}) {
  response.writeHead(status, { "content-type": type, ...headers });
  response.end(JSON.stringify(body));
}

function problem(response, status, detail, headers) {
  json(
    response,
    status,
    { type: "urn:ttlc:problem:mock", title: "Refused", status, detail },
    "application/problem+json",
    headers,
  );
}

function serveFile(pathname, response) {
  const path = join(DIST, normalize(decodeURIComponent(pathname)));
  const found = path.startsWith(DIST) && existsSync(path) && statSync(path).isFile();
  const file = found ? path : join(DIST, "index.html");
  if (!existsSync(file)) return problem(response, 404, "not built: run `npm run build`");
  response.writeHead(200, {
    "content-type": TYPES[extname(file)] ?? "application/octet-stream",
    "content-security-policy": POLICY,
  });
  createReadStream(file).pipe(response);
}

// As a program: two creators, one of them busy.
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const server = new MockServer();
  const perMinute = Number(process.env.MOCK_EVENTS_PER_MINUTE ?? 300);
  server.open("7300000000000000001", { username: "quiet", displayName: "Quiet", status: "ended" });
  server.open("7300000000000000002");
  const quiet = new EventMaker({ streamId: "7300000000000000001", seed: 2 });
  const busy = new EventMaker({ streamId: "7300000000000000002" });
  for (let i = 0; i < 40; i += 1) server.push("7300000000000000001", quiet.next());
  server.push("7300000000000000001", quiet.end());
  server.push("7300000000000000002", busy.connected());
  for (let i = 0; i < 400; i += 1) server.push("7300000000000000002", busy.next());
  setInterval(() => server.push("7300000000000000002", busy.next()), 60_000 / perMinute);
  console.log(`mock API: ${await server.listen(Number(process.env.API_PORT ?? 3000))}`);
}
