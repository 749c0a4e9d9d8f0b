// Stock socket.io-client, driven from Python: commands in, everything that happens out.
//
// Rules of this file: one JSON object a line, both ways. It decides nothing: scenarios are in Python,
// so that every client plays the same ones. Names that begin with "$" are not the server's events:
// $connect [socket id, transport], $disconnect [reason], $connect_error [message],
// $upgrade [transport], $ack [call id, ...arguments], $fault [text].
//
//   {"op": "connect", "client": NAME, "url": URL, "options": {...}}
//   {"op": "emit", "client": NAME, "event": EVENT, "args": [...]}
//   {"op": "call", "client": NAME, "event": EVENT, "args": [...], "id": CALL}
//   {"op": "write", "client": NAME, "packet": TEXT}       a raw Engine.IO message
//   {"op": "disconnect", "client": NAME}
//   {"op": "quiet"}       says $quiet, of no client, once no connection is open or being made

import { createInterface } from "node:readline";

import { io } from "socket.io-client";

const clients = new Map();

const say = (client, name, ...args) => {
  process.stdout.write(`${JSON.stringify({ client, name, args })}\n`);
};

const connect = (client, url, options) => {
  const socket = io(url, { forceNew: true, ...options });
  clients.set(client, socket);
  socket.onAny((name, ...args) => say(client, name, ...args));
  socket.io.on("open", () => {
    socket.io.engine.on("upgrade", (transport) => say(client, "$upgrade", transport.name));
  });
  socket.on("connect", () => say(client, "$connect", socket.id, socket.io.engine.transport.name));
  socket.on("disconnect", (reason) => say(client, "$disconnect", reason));
  socket.on("connect_error", (error) => say(client, "$connect_error", error.message));
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
  const { op, client } = command;
  if (op === "connect") {
    connect(client, command.url, command.options);
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
    run(JSON.parse(line));
  } catch (error) {
    say(null, "$fault", `${error.stack}`);
  }
});
lines.on("close", () => process.exit(0));
