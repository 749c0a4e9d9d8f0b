// socket.io's server over node:http, on Node, or unchanged on Bun.
//
//     node socketio.mjs MODEL_SERVER_URL

import { createServer } from "node:http";

import { Server } from "socket.io";

import { listening, serveAi } from "./ai.mjs";

const http = createServer();
serveAi(new Server(http));
http.listen(0, "127.0.0.1", () => listening(http.address().port));
