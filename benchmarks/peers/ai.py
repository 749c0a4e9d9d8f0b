"""The seed's API for python-socketio, as its users would write it: one model stream a request.

Rules of this file: each line of the model's answer is one event; how lines are read is the
program's own choice of an HTTP client.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import socketio

Lines = Callable[[dict[str, Any]], AsyncIterator[str | bytes]]
"""From the body of a request to /api/chat to the lines of its answer."""


class Ai(socketio.AsyncNamespace):  # type: ignore[misc]  # python-socketio has no types
    """The namespace /ai."""

    def __init__(self, lines: Lines) -> None:
        super().__init__("/ai")
        self._lines = lines
        self._tasks: dict[str, dict[str, asyncio.Task[None]]] = {}

    async def on_connect(self, sid: str, environ: object, auth: object = None) -> None:
        self._tasks[sid] = {}
        # Behind the answer to the CONNECT, which python-socketio sends when this returns.
        self.server.start_background_task(self._welcome, sid)

    async def _welcome(self, sid: str) -> None:
        connected = {
            "clientId": str(uuid.uuid4()),
            "maxConcurrentStreams": 10,
            "backpressureThreshold": 100,
        }
        await self.emit("ai:connected", connected, to=sid)

    async def on_disconnect(self, sid: str, reason: object = None) -> None:
        for task in self._tasks.pop(sid, {}).values():
            task.cancel()

    async def trigger_event(self, event: str, *args: Any) -> Any:
        # A method cannot be called on_ai:stream.
        return await super().trigger_event(event.replace(":", "_"), *args)

    async def on_ai_stream(self, sid: str, request: dict[str, Any]) -> None:
        stream_id = request.get("streamId") or str(uuid.uuid4())
        task = asyncio.create_task(self._stream(sid, stream_id, request))
        self._tasks[sid][stream_id] = task
        task.add_done_callback(lambda _: self._tasks.get(sid, {}).pop(stream_id, None))

    async def on_ai_cancel(self, sid: str, request: dict[str, Any]) -> None:
        stream_id = request["streamId"]
        if task := self._tasks[sid].get(stream_id):
            task.cancel()
        await self.emit("ai:stream:cancelled", {"streamId": stream_id}, to=sid)

    async def on_ai_heartbeat(self, sid: str, request: object = None) -> None:
        ack = {"activeStreams": len(self._tasks[sid]), "queueSize": 0}
        await self.emit("ai:heartbeat:ack", ack, to=sid)

    async def _stream(self, sid: str, stream_id: str, request: dict[str, Any]) -> None:
        started = time.monotonic()
        model = request.get("model") or "bench"
        await self.emit("ai:stream:start", {"streamId": stream_id, "model": model}, to=sid)
        messages = [{"role": "user", "content": request["prompt"]}]
        total = 0
        try:
            async for line in self._lines({"model": model, "messages": messages, "stream": True}):
                part = json.loads(line)
                if text := part["message"]["content"]:
                    total += 1
                    token = {
                        "streamId": stream_id,
                        "data": text,
                        "agent": "DirectOllama",
                        "tokenCount": total,
                        "metadata": {"model": model},
                    }
                    await self.emit("ai:token", token, to=sid)
                if part["done"]:
                    complete = {
                        "streamId": stream_id,
                        "agent": "DirectOllama",
                        "intent": "direct",
                        "confidence": 1,
                    }
                    await self.emit("ai:stream:complete", complete, to=sid)
                    duration = round((time.monotonic() - started) * 1000)
                    done = {"streamId": stream_id, "totalTokens": total, "duration": duration}
                    await self.emit("ai:done", done, to=sid)
        except Exception as error:
            failed = {"streamId": stream_id, "error": repr(error)}
            await self.emit("ai:stream:error", failed, to=sid)
