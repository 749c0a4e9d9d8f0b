"""Looks at the model server: one that is late, and what they bring into the process.

Rules of this file: the loop's clock stands still until the test moves it.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import tokenwire_anyio
import tokenwire_asyncio
from runtimes.server_thread import LIMIT, SystemIds
from runtimes.stepped_clock import SteppedClock, SteppedLoop
from tokenwire import Config, Server
from tokenwire.types import Millis
from tokenwire_asyncio.upstream import UpstreamClient

PROBE_TIMEOUT = 5_000
TURNS = 50

Running = Callable[[Server, str, UpstreamClient], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def on_asyncio(core: Server, url: str, client: UpstreamClient) -> AsyncIterator[None]:
    runtime = tokenwire_asyncio.Runtime(core, upstream_url=url, upstream_client=client)
    await runtime.start("127.0.0.1", 0)
    try:
        yield
    finally:
        await runtime.aclose()


@asynccontextmanager
async def on_anyio(core: Server, url: str, client: UpstreamClient) -> AsyncIterator[None]:
    runtime = tokenwire_anyio.Runtime(core, upstream_url=url, upstream_client=client)
    task = asyncio.ensure_future(runtime.run("127.0.0.1", 0))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("running", [on_asyncio, on_anyio])
@pytest.mark.parametrize("client", ["auto", "httpx"])
def test_a_model_server_that_does_not_answer_in_time_is_down(
    running: Running, client: UpstreamClient
) -> None:
    clock = SteppedClock()

    async def main() -> None:
        asked = asyncio.Event()
        left = asyncio.Event()

        async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await reader.read()
            left.set()
            writer.close()

        listening = await asyncio.start_server(model, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        core = Server(Config(), ids=SystemIds())
        async with listening, running(core, f"http://127.0.0.1:{port}", client):
            await asked.wait()
            clock.move_to(Millis(clock.now() + PROBE_TIMEOUT - 1))
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert core.upstream_status() == "unknown"
            clock.move_to(Millis(clock.now() + 1))
            await left.wait()
            while core.upstream_status() == "unknown":
                await asyncio.sleep(0)
            assert core.upstream_status() == "down"

    with asyncio.Runner(loop_factory=lambda: SteppedLoop(clock)) as runner:
        runner.run(main())


IMPORTED = """
import sys
from runtimes.server_thread import SystemIds
from tokenwire import Config, Server
from {module} import Runtime

async def main():
    Runtime(Server(Config(), ids=SystemIds()), upstream_url="{url}")
    print("httpx" in sys.modules)

import asyncio
asyncio.run(main())
"""


@pytest.mark.parametrize("module", ["tokenwire_asyncio", "tokenwire_anyio"])
@pytest.mark.parametrize(("url", "wanted"), [("http://models:1", False), ("https://models", True)])
def test_httpx_is_imported_where_it_is_needed(module: str, url: str, wanted: bool) -> None:
    program = IMPORTED.format(module=module, url=url)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=6 * LIMIT,
    )
    assert done.stdout == f"{wanted}\n"
