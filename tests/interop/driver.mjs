// Stock socket.io-client, driven from Python: commands in, everything that happens out.
//
// Rules of this file: one JSON object a line, both ways. It decides nothing: scenarios are in Python,
// so that every client plays the same ones. Names that begin with "$" are not the server's events:
// $connect [socket id, transport, recovered], $disconnect [reason, HTTP status or WebSocket code if the library
// tells it], $connect_error [message], $upgrade [transport], $ack [call id, ...arguments],
// $fault [text]. An event that the server wants acknowledged is so at once, with its own arguments.
// Bytes are {"$bytes": HEXADECIMAL}, both ways.
//
//   {"op": "connect", "client": NAME, "library": PACKAGE, "url": URL, "options": {...}, "resume": WAY}
//                         WAY is null, or a name of resume.mjs
//   {"op": "join", "client": NAME, "beside": NAME, "namespace": NAMESPACE, "options": {...}}
//                         one more namespace on the connection of another client, which alone
//                         says $upgrade
//   {"op": "emit", "client": NAME, "event": EVENT, "args": [...]}
//   {"op": "call", "client": NAME, "event": EVENT, "args": [...], "id": CALL}
//   {"op": "write", "client": NAME, "packet": TEXT}       a raw Engine.IO message
//   {"op": "disconnect", "client": NAME}
//   {"op": "quiet"}       says $quiet, of no client, once no connection is open or being made

import { createInterface } from "node:readline";

import { io } from "socket.io-client";
import io3 from "socket.io-client-3";
import io40 from "socket.io-client-4.0";

import { resumers } from "./resume.mjs";

const LIBRARIES = { "socket.io-client": io, "socket.io-client-4.0": io40, "socket.io-client-3": io3 };

const clients = new Map();

// A replacer sees what a Buffer's own toJSON has made of it: hence `this`.
function pack(key, value) {
  const raw = this[key];
  const binary = ArrayBuffer.isView(raw) || raw instanceof ArrayBuffer;
  return binary ? { $bytes: Buffer.from(raw).toString("hex") } : value;
}

const unpack = (key, value) => (value?.$bytes === undefined ? value : Buffer.from(value.$bytes, "hex"));

const say = (client, name, ...args) => {
  process.stdout.write(`${JSON.stringify({ client, name, args }, pack)}\n`);
};

const listen = (client, socket) => {
  clients.set(client, socket);
  socket.onAny((name, ...args) => {
    const answer = typeof args.at(-1) === "function" ? args.pop() : () => {};
    say(client, name, ...args);
    answer(...args);
  });
  socket.on("connect", () => say(client, "$connect", socket.id, socket.io.engine.transport.name, socket.recovered));
  socket.on("disconnect", (reason, details) => {
    const code = details?.context?.status ?? details?.context?.code;
    say(client, "$disconnect", reason, ...(code === undefined ? [] : [code]));
  });
  socket.on("connect_error", (error) => say(client, "$connect_error", error.message));
};

const connect = (client, io, { url, options, resume }) => {
  const socket = io(url, { forceNew: true, ...options });
  listen(client, socket);
  if (resume) resumers[resume](socket);
  socket.io.on("open", () => {
    socket.io.engine.on("upgrade", (transport) => say(client, "$upgrade", transport.name));
  });
};

const BUSY = new Set(["TCPSocketWrap", "TCPConnectWrap", "GetAddrInfoReqWrap"]);

const sayWhenQuiet = () => {
  if (process.getActiveResourcesInfo().some((resource) => BUSY.has(resource))) {
    setTimeout(sayWhenQuiet, 2);
  } else {
    say(null, "$quiet");
  }
};

const run = (command) => {
  const { op, client, options } = command;
  if (op === "connect") {
    connect(client, LIBRARIES[command.library], command);
    return;
  }
  if (op === "join") {
    listen(client, clients.get(command.beside).io.socket(command.namespace, options));
    return;
  }
  if (op === "quiet") {
    sayWhenQuiet();
    return;
  }
  const socket = clients.get(client);
  if (op === "emit") {
    socket.emit(command.event, ...command.args);
  } else if (op === "call") {
    socket.emit(command.event, ...command.args, (...args) => say(client, "$ack", command.id, ...args));
  } else if (op === "write") {
    socket.io.engine.write(command.packet);
  } else if (op === "disconnect") {
    socket.disconnect();
    clients.delete(client);
  } else {
    throw new Error(`no such command: ${op}`);
  }
};

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  try {
    run(JSON.parse(line, unpack));
  } catch (error) {
    say(null, "$fault", `${error.stack}`);
  }
});
lines.on("close", () => process.exit(0));
