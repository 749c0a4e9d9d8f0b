// socket.io's server over Bun's own engine.
//
//     bun bun_engine.mjs MODEL_SERVER_URL

import { Server as Engine } from "@socket.io/bun-engine";
import { Server } from "socket.io";

import { listening, serveAi } from "./ai.mjs";

const io = new Server();
const engine = new Engine({ path: "/socket.io/" });
io.bind(engine);
serveAi(io);
const server = Bun.serve({ hostname: "127.0.0.1", port: 0, ...engine.handler() });
listening(server.port);
