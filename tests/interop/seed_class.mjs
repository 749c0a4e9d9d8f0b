// Drives the seed's class AIStreamingClient: each line on standard input is a prompt to stream.
// What the class logs is on standard output.

import { createInterface } from "node:readline";

import { AIStreamingClient } from "./seed_client.mjs";

const client = new AIStreamingClient();
client.connect();

const lines = createInterface({ input: process.stdin });
lines.on("line", (prompt) => client.streamAI(prompt, { useOrchestrator: false }));
lines.on("close", () => process.exit(0));
