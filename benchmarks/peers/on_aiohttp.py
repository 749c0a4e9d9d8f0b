"""python-socketio in an application of aiohttp's, aiohttp's client towards the model.

python on_aiohttp.py MODEL_SERVER_URL
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import socketio
from ai import Ai
from aiohttp import web


async def main(model: str) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(model, connector=connector, timeout=timeout) as session:

        async def lines(body: dict[str, Any]) -> AsyncIterator[str | bytes]:
            async with session.post("/api/chat", json=body) as response:
                response.raise_for_status()
                async for line in response.content:
                    yield line

        server = socketio.AsyncServer(async_mode="aiohttp")
        server.register_namespace(Ai(lines))
        app = web.Application()
        server.attach(app)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"AI Streaming WebSocket: ws://localhost:{runner.addresses[0][1]}/ai", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
