"""A model server that streams as fast as its prompts say: Ollama's API, over loopback.

Rules of this file: a prompt is a workload, `tokens=2000 rate=20 batch=1`: so many tokens, so many a
second (0: as fast as they are taken), so many in one write. Each token is the time at which it was
written, in nanoseconds, so that who reads it knows how long it took.

    cd tests && ../.venv/bin/python -m load.model --port 11434
"""

import argparse
import asyncio
import re
import time
from contextlib import suppress

import msgspec

NAME = "load"
_LINE = b'{"message":{"role":"assistant","content":"%d "},"done":false}\n'
_LAST = b'{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}\n'
_TAGS = msgspec.json.encode({"models": [{"name": f"{NAME}:latest"}]})
_MAX_HEAD = 64 * 1024


class Workload(msgspec.Struct, frozen=True):
    """What one stream is."""

    tokens: int = 200
    rate: int = 20
    """Tokens a second; 0: as fast as they are taken."""
    batch: int = 1
    """Tokens in one write."""

    def prompt(self) -> str:
        """Return the prompt that asks for it."""
        return f"tokens={self.tokens} rate={self.rate} batch={self.batch}"


def parse(prompt: str) -> Workload:
    """Return the workload of a prompt; what it does not say is the default."""
    found = {name: int(value) for name, value in re.findall(r"(tokens|rate|batch)=(\d+)", prompt)}
    return Workload(**found)


async def serve(port: int) -> asyncio.Server:
    """Listen on loopback; port 0 takes a free one."""
    return await asyncio.start_server(_connection, "127.0.0.1", port, limit=_MAX_HEAD)


async def _connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await _answer(reader, writer)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    size = re.search(r"(?i)content-length: *(\d+)", head)
    body = await reader.readexactly(int(size[1]) if size else 0)
    if head.startswith("POST /api/chat"):
        message = msgspec.json.decode(body)["messages"][-1]
        await _stream(writer, parse(message["content"]))
    else:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(_TAGS) + _TAGS)
    await writer.drain()


async def _stream(writer: asyncio.StreamWriter, work: Workload) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    started = loop.time()
    for first in range(0, work.tokens, work.batch):
        if work.rate:
            await asyncio.sleep(started + first / work.rate - loop.time())
        count = min(work.batch, work.tokens - first)
        lines = (_LINE * count) % tuple(time.time_ns() for _ in range(count))
        writer.write(b"%x\r\n%b\r\n" % (len(lines), lines))
        await writer.drain()
    writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(_LAST), _LAST))


async def _main(port: int) -> None:
    server = await serve(port)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Plays a model server with workloads for prompts.")
    parser.add_argument("--port", type=int, default=11434, help="0 takes a free one [11434]")
    with suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args().port))
