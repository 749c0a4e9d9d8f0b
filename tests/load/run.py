"""The load generator: many clients of the AI protocol, and what they saw.

Rules of this file: the clients are the project's own (`tokenwire_asyncio.client`), so that any
server of this protocol can be measured. A stream that is not whole, or out of order, fails the run.
Latency is from the model's write (`load.model`) to the client, on one machine.

    cd tests && ../.venv/bin/python -m load.run --clients 100 --tokens 2000 --rate 20

starts a model server and `tokenwire serve` of its own; `--url` names a server that stands before a
`load.model` already.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import IO, NamedTuple

import msgspec
from load import model
from load.model import Workload
from tokenwire.client import ConnectError, Event
from tokenwire.client.config import Transport
from tokenwire.client.url import parse as parse_url
from tokenwire_asyncio.client import connect

_AT_ONCE = 50  # clients that connect at the same time
_READY = "AI Streaming WebSocket: "


class Seen(msgspec.Struct):
    """What one client saw of its stream."""

    tokens: int = 0
    events: int = 0
    waits: list[float] = []
    """How long each token took, in milliseconds."""
    first: float = 0.0
    """Milliseconds from the request to the first token."""
    fault: str | None = "not begun"


async def play(
    url: str, work: Workload, transports: tuple[Transport, ...], door: asyncio.Semaphore
) -> Seen:
    """Play one client: connect, ask for a stream, read it to its end."""
    seen = Seen()
    async with AsyncExitStack() as stack:
        try:
            async with door:
                connecting = connect(url, transports=transports, reconnect=False)
                socket = await stack.enter_async_context(connecting)
        except ConnectError as error:
            seen.fault = str(error)
            return seen
        asked = time.perf_counter()
        socket.emit("ai:stream", {"prompt": work.prompt(), "useOrchestrator": False})
        async for event in socket:
            data = event.args[0] if isinstance(event, Event) else None
            if not isinstance(event, Event) or not isinstance(data, dict):
                seen.fault = type(event).__name__
                break
            if event.name == "ai:token":
                seen.first = seen.first or (time.perf_counter() - asked) * 1e3
                _take(seen, data)
            elif event.name == "ai:done":
                whole = seen.tokens == data["totalTokens"] == work.tokens
                seen.fault = None if whole else f"{seen.tokens} of {work.tokens} tokens"
                break
            elif event.name in ("ai:error", "ai:stream:error"):
                seen.fault = str(data["code"])
                break
    return seen


def _take(seen: Seen, data: dict[str, object]) -> None:
    now = time.time_ns()
    waits = [(now - int(written)) / 1e6 for written in str(data["data"]).split()]
    seen.events += 1
    seen.tokens += len(waits)
    seen.waits += waits
    if data["seq"] != seen.tokens:
        seen.tokens = -1  # never whole again


async def run(
    url: str, work: Workload, clients: int, transports: tuple[Transport, ...]
) -> list[Seen]:
    """Play so many clients at once."""
    door = asyncio.Semaphore(_AT_ONCE)
    return list(await asyncio.gather(*(play(url, work, transports, door) for _ in range(clients))))


def report(seen: list[Seen], seconds: float) -> list[str]:
    """Return what is to be told, a line each."""
    waits = sorted(wait for one in seen for wait in one.waits)
    firsts = sorted(one.first for one in seen)
    tokens = sum(max(0, one.tokens) for one in seen)
    events = sum(one.events for one in seen)
    lines = [
        f"{len(seen)} clients, {tokens} tokens in {events} events, {seconds:.1f} s: "
        f"{tokens / seconds:.0f} tokens/s",
        f"latency of a token: p50 {_at(waits, 50):.2f} ms, p99 {_at(waits, 99):.2f} ms, "
        f"most {_at(waits, 100):.2f} ms",
        f"time to the first: p50 {_at(firsts, 50):.1f} ms, most {_at(firsts, 100):.1f} ms",
    ]
    faults = [one.fault for one in seen if one.fault is not None]
    if faults:
        lines.append(f"{len(faults)} streams failed, the first: {faults[0]}")
    return lines


def _at(values: list[float], percent: int) -> float:
    """Return a percentile of sorted values; 0 if there is none."""
    return values[(len(values) - 1) * percent // 100] if values else 0


class Started(NamedTuple):
    """A server in a process of its own."""

    url: str
    """Of its namespace."""
    port: int
    pid: int


@asynccontextmanager
async def server(*arguments: str, log: IO[bytes] | None = None) -> AsyncIterator[Started]:
    """Start a model server, and a server before it.

    Args:
        arguments: more of them, for `tokenwire serve`.
        log: gets what the server logs; None: nobody.
    """
    models = await model.serve(0)
    address = f"http://127.0.0.1:{models.sockets[0].getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tokenwire_cli", "serve", "--port", "0"),
        *("--ollama-base-url", address, "--ollama-default-model", model.NAME),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=log or asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async for line in process.stdout:
            _, found, url = line.decode().strip().partition(_READY)
            if found:
                url = url.replace("ws://", "http://")
                yield Started(url, parse_url(url).port, process.pid)
                break
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        models.close()


async def _main(options: argparse.Namespace) -> int:
    work = Workload(options.tokens, options.rate, options.batch)
    transports: tuple[Transport, ...] = tuple(options.transports.split(","))
    started = time.perf_counter()
    if options.url:
        seen = await run(options.url, work, options.clients, transports)
    else:
        async with server() as local:
            started = time.perf_counter()
            seen = await run(local.url, work, options.clients, transports)
    print("\n".join(report(seen, time.perf_counter() - started)))
    return int(any(one.fault is not None for one in seen))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Plays many clients of the AI protocol.")
    parser.add_argument("--url", help="the server's namespace; without it, one is started")
    parser.add_argument("--clients", type=int, default=50, help="clients, a stream each [50]")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of each stream [200]")
    parser.add_argument("--rate", type=int, default=20, help="tokens a second; 0: no limit [20]")
    parser.add_argument("--batch", type=int, default=1, help="tokens in a write of the model [1]")
    parser.add_argument(
        "--transports", default="websocket", help="websocket, polling or polling,websocket"
    )
    try:
        sys.exit(asyncio.run(_main(parser.parse_args())))
    except KeyboardInterrupt:
        sys.exit(130)
