"""python-socketio's server on aiohttp, for our client.

Rules of this file: the program is the one of server_io.mjs, event for event; the server has no
connection state recovery. Its missing types stay here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import socketio
from aiohttp import web
from runtimes.loop_thread import LoopThread


class Program(socketio.AsyncNamespace):  # type: ignore[misc]
    """What happens in a namespace."""

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace)
        self._auths: dict[str, object] = {}

    async def on_connect(self, sid: str, environ: object, auth: dict[str, Any] | None) -> None:
        if self.namespace == "/private" and (auth or {}).get("token") != "good":
            raise socketio.exceptions.ConnectionRefusedError("not you", {"code": 7})
        self._auths[sid] = auth or {}

    async def on_who(self, sid: str) -> object:
        return self._auths[sid]

    async def on_echo(self, sid: str, *args: object) -> None:
        await self.emit("echoed", args, to=sid)

    async def on_call(self, sid: str, *args: object) -> tuple[object, ...]:
        return args

    async def on_ask(self, sid: str, *args: object) -> None:
        async def answered(*answer: object) -> None:
            await self.emit("answered", answer, to=sid)

        await self.emit("question", args, to=sid, callback=answered)

    async def on_cut(self, sid: str) -> None:
        await self.server.eio.disconnect(self.server.manager.eio_sid_from_sid(sid, self.namespace))

    async def on_leave(self, sid: str) -> None:
        await self.disconnect(sid)


async def _start() -> tuple[web.AppRunner, int]:
    server = socketio.AsyncServer(async_mode="aiohttp", ping_interval=1, ping_timeout=5)
    for namespace in ("/", "/chat", "/private"):
        server.register_namespace(Program(namespace))
    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, runner.addresses[0][1]


@contextmanager
def running() -> Iterator[str]:
    """Run the server; give its URL."""
    thread = LoopThread("python-socketio server")
    try:
        runner, port = thread.run(_start())
        yield f"http://127.0.0.1:{port}"
        thread.run(runner.cleanup())
    finally:
        thread.close()
