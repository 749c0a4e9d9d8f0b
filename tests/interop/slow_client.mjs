// A stock client that asks one stream and says little: `node slow_client.mjs URL PROMPT`.
//
// Rules of this file: it has no code for slowness or drops; a test stops its process and wakes it. A
// line of JSON on standard output at the first token, and one at the end.

import { createHash } from "node:crypto";

import { io } from "socket.io-client";

const [, , url, prompt] = process.argv;
const socket = io(url, { transports: ["websocket"] });
const text = createHash("sha256");
let events = 0;
let recoveries = 0;

const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

socket.once("connect", () => socket.emit("ai:stream", { prompt, useOrchestrator: false }));
socket.on("connect", () => {
  if (socket.recovered) recoveries += 1;
});
socket.on("ai:token", ({ data }) => {
  text.update(data);
  events += 1;
  if (events === 1) say({ name: "first" });
});
socket.on("ai:done", ({ totalTokens }) => {
  say({ name: "done", totalTokens, events, recoveries, sha256: text.digest("hex") });
});
socket.on("ai:stream:error", ({ code }) => say({ name: "failed", code }));
process.stdin.on("end", () => process.exit(0)).resume();
