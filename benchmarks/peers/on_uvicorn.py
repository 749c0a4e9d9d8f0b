"""python-socketio as an ASGI application on uvicorn, httpx towards the model.

python on_uvicorn.py MODEL_SERVER_URL
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import socketio
import uvicorn
from ai import Ai


async def main(model: str) -> None:
    limits = httpx.Limits(max_connections=None)
    client = httpx.AsyncClient(base_url=model, timeout=None, limits=limits)

    async def lines(body: dict[str, Any]) -> AsyncIterator[str | bytes]:
        async with client.stream("POST", "/api/chat", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                yield line

    server = socketio.AsyncServer(async_mode="asgi")
    server.register_namespace(Ai(lines))
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    port = listener.getsockname()[1]

    async def listening() -> None:
        print(f"AI Streaming WebSocket: ws://localhost:{port}/ai", flush=True)

    app = socketio.ASGIApp(server, on_startup=listening)
    await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener])


if __name__ == "__main__":
    import uvloop  # uvicorn's own choice where it is installed

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
