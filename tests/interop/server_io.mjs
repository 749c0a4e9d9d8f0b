// Node's socket.io server, for our client: says its port, ends with its standard input.
//
// Rules of this file: the program is the one of server_py.py, event for event.

import { createServer } from "node:http";

import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, {
  connectionStateRecovery: { maxDisconnectionDuration: 10_000, skipMiddlewares: true },
  pingInterval: 300,
  pingTimeout: 5_000,
});

const serve = (socket) => {
  socket.on("who", (ack) => ack(socket.handshake.auth));
  socket.on("echo", (...args) => socket.emit("echoed", ...args));
  socket.on("call", (...args) => args.pop()(...args));
  socket.on("ask", (...args) =>
    socket.emit("question", ...args, (...answer) => socket.emit("answered", ...answer)),
  );
  socket.on("cut", () => {
    socket.on("disconnect", () => socket.nsp.emit("missed", "while away"));
    socket.conn.close();
  });
  socket.on("leave", () => socket.disconnect());
};

io.on("connection", serve);
io.of("/chat").on("connection", serve);
io.of("/private")
  .use((socket, next) => {
    const error = new Error("not you");
    error.data = { code: 7 };
    next(socket.handshake.auth.token === "good" ? undefined : error);
  })
  .on("connection", serve);

http.listen(0, "127.0.0.1", () => console.log(http.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
