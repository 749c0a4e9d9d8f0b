// The seed's API for a socket.io server, on Node and on Bun: one model stream a request.
//
// Rules of this file: it is what a user of socket.io would write. The model's answer is read with
// fetch, each line of it is one event, and nothing waits for a slow client: `emit` has no way to.

import { randomUUID } from "node:crypto";

const MODEL = process.argv[2];

export const listening = (port) =>
  console.log(`AI Streaming WebSocket: ws://localhost:${port}/ai`);

async function* linesOf(body) {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of body) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = lines.pop();
    yield* lines;
  }
}

async function stream(socket, streamId, request, signal) {
  const model = request.model ?? "bench";
  const started = Date.now();
  let totalTokens = 0;
  socket.emit("ai:stream:start", { streamId, model });
  const response = await fetch(`${MODEL}/api/chat`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      model,
      messages: [{ role: "user", content: request.prompt }],
      stream: true,
    }),
    signal,
  });
  if (!response.ok) throw new Error(`the model server answered ${response.status}`);
  for await (const line of linesOf(response.body)) {
    const { message, done } = JSON.parse(line);
    if (message.content) {
      totalTokens += 1;
      socket.emit("ai:token", {
        streamId,
        data: message.content,
        agent: "DirectOllama",
        tokenCount: totalTokens,
        metadata: { model },
      });
    }
    if (done) {
      socket.emit("ai:stream:complete", {
        streamId,
        agent: "DirectOllama",
        intent: "direct",
        confidence: 1,
      });
      socket.emit("ai:done", { streamId, totalTokens, duration: Date.now() - started });
    }
  }
}

export function serveAi(io) {
  io.of("/ai").on("connection", (socket) => {
    const streams = new Map();
    socket.emit("ai:connected", {
      clientId: randomUUID(),
      maxConcurrentStreams: 10,
      backpressureThreshold: 100,
    });
    socket.on("ai:stream", async (request) => {
      const streamId = request.streamId ?? randomUUID();
      const controller = new AbortController();
      streams.set(streamId, controller);
      try {
        await stream(socket, streamId, request, controller.signal);
      } catch (error) {
        if (!controller.signal.aborted)
          socket.emit("ai:stream:error", { streamId, error: String(error) });
      } finally {
        streams.delete(streamId);
      }
    });
    socket.on("ai:cancel", ({ streamId }) => {
      streams.get(streamId)?.abort();
      socket.emit("ai:stream:cancelled", { streamId });
    });
    socket.on("ai:heartbeat", () => {
      socket.emit("ai:heartbeat:ack", { activeStreams: streams.size, queueSize: 0 });
    });
    socket.on("disconnect", () => {
      for (const controller of streams.values()) controller.abort();
    });
  });
}
