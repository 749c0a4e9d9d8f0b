"""The Autobahn WebSocket cases, played by kosoku against the HTTP layer.

Rules of this file: all sections but 12 and 13 (compression, which the server never agrees to).
"""

import asyncio

import kosoku
from interop import websocket_echo

COMPRESSION = ["12.*", "13.*"]
CASES = 301


async def play() -> list[object]:
    server = await websocket_echo.listen()
    port = server.sockets[0].getsockname()[1]
    async with server:
        results = await kosoku.run_fuzzingclient(
            f"ws://127.0.0.1:{port}", exclude_cases=COMPRESSION
        )
    return list(results)


def test_every_case_passes() -> None:
    results = asyncio.run(play())
    assert len(results) == CASES
