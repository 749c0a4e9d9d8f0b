"""The server over loopback, with a scripted model: framing, limits, and what a lost client does."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from tokenwire_ollama import (
    Finish,
    Limits,
    Message,
    ModelError,
    ModelInfo,
    OllamaServer,
    Options,
)

pytestmark = pytest.mark.anyio

HOLD = object()
"""In a script: wait for ever."""
DONE = Finish("stop", eval_tokens=2)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Scripted:
    """Follows its script for each request."""

    info = ModelInfo(size=1, digest="ab", modified_at="", context_tokens=2048)

    def __init__(self, *script: object) -> None:
        self.script = script
        self.started = asyncio.Event()
        self.ended = asyncio.Event()

    async def generate(
        self, messages: Sequence[Message], options: Options
    ) -> AsyncGenerator[str | Finish, None]:
        self.started.set()
        try:
            for step in self.script:
                if isinstance(step, ModelError):
                    raise step
                if step is HOLD:
                    await asyncio.Event().wait()
                assert isinstance(step, str | Finish)
                yield step
        finally:
            self.ended.set()


PORTS: WeakKeyDictionary[OllamaServer, int] = WeakKeyDictionary()


class Client:
    """A socket to the server, bytes in and out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def post(self, body: object, path: str = "/api/chat") -> None:
        raw = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(raw)}\r\n\r\n"
        self.send(head.encode() + raw)

    async def until(self, mark: bytes) -> bytes:
        return await self.reader.readuntil(mark)

    async def head(self) -> bytes:
        return await self.until(b"\r\n\r\n")

    async def reply(self) -> tuple[int, Any]:
        """Read one answer with a content-length; return its status and its object."""
        head = await self.head()
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head.split()[1]), json.loads(await self.reader.readexactly(length))

    async def rest(self) -> bytes:
        return await self.reader.read()


@asynccontextmanager
async def serving(
    model: Scripted, *, fallback: bool = True, limits: Limits | None = None
) -> AsyncIterator[OllamaServer]:
    server = OllamaServer(model, fallback=fallback, limits=limits)
    PORTS[server] = int((await server.start()).rpartition(":")[2])
    try:
        async with asyncio.timeout(10):
            yield server
    finally:
        await server.close()


@asynccontextmanager
async def connected(server: OllamaServer) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", PORTS[server]))
    try:
        yield client
    finally:
        client.writer.transport.abort()


CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "a secret"}]}
WHOLE = CHAT | {"stream": False}


# -- framing -----------------------------------------------------------------------------------


async def test_a_stream_is_one_chunk_per_line() -> None:
    async with serving(Scripted("Hé", "llo", DONE)) as server, connected(server) as client:
        client.post(CHAT)
        head = (await client.head()).lower()
        assert head.startswith(b"http/1.1 200 ok\r\n")
        assert b"content-type: application/x-ndjson\r\n" in head
        assert b"transfer-encoding: chunked\r\n" in head
        chunks = []
        while size := int(await client.until(b"\r\n"), 16):
            chunks.append(await client.reader.readexactly(size))
            await client.until(b"\r\n")
        assert [chunk.count(b"\n") for chunk in chunks] == [1, 1, 1]
        lines = [json.loads(chunk) for chunk in chunks]
        assert [line["message"]["content"] for line in lines] == ["Hé", "llo", ""]
        assert [line["done"] for line in lines] == [False, False, True]
        assert lines[-1]["done_reason"] == "stop"
        assert lines[-1]["total_duration"] > 0


async def test_the_head_comes_with_the_first_line() -> None:
    model = Scripted(HOLD)
    async with serving(model) as server, connected(server) as client:
        client.post(CHAT)
        await model.started.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.reader.read(1)


async def test_a_whole_answer_and_the_next_request() -> None:
    async with serving(Scripted("Hé", "llo", DONE)) as server, connected(server) as client:
        for _ in range(2):  # the second one before the first is answered
            client.post(WHOLE | {"prompt": "hi"}, "/api/generate")
        for _ in range(2):
            status, body = await client.reply()
            assert (status, body["response"], body["done"]) == (200, "Héllo", True)
        client.send(b"GET /api/tags?x=1 HTTP/1.1\r\nhost: 127.0.0.1:1\r\n\r\n")
        assert (await client.reply())[0] == 200


async def test_head_has_no_body() -> None:
    async with serving(Scripted()) as server, connected(server) as client:
        client.send(b"HEAD / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = await client.rest()
        assert b"content-length: 17\r\n" in answer
        assert answer.endswith(b"\r\n\r\n")
    async with serving(Scripted()) as server, connected(server) as client:
        client.send(b"HEAD /api/ps HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert b"allow: GET\r\n" in answer
        assert answer.endswith(b"\r\n\r\n")


async def test_an_error_after_a_head_has_a_body() -> None:
    async with serving(Scripted()) as server, connected(server) as client:
        client.send(b"HEAD / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await client.head()
        client.send(b"nonsense\r\n\r\n")
        assert (await client.reply())[0] == 400


async def test_expect_continue() -> None:
    async with serving(Scripted("a", DONE)) as server, connected(server) as client:
        body = json.dumps(WHOLE).encode()
        client.send(
            b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        client.send(body)
        assert (await client.reply())[1]["message"]["content"] == "a"


# -- a client that goes ------------------------------------------------------------------------


@pytest.mark.parametrize("script", [(HOLD,), ("Hi", HOLD)], ids=["before", "in the middle"])
@pytest.mark.parametrize("body", [CHAT, WHOLE], ids=["stream", "whole"])
@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
async def test_a_lost_client_cancels(how: str, body: object, script: tuple[object, ...]) -> None:
    model = Scripted(*script)
    async with serving(model) as server, connected(server) as client:
        client.post(body)
        await model.started.wait()
        match how:
            case "close":
                client.writer.close()
            case "half-close":
                client.writer.write_eof()
            case _:
                client.writer.transport.abort()
        await model.ended.wait()
        while server.pending:
            await asyncio.sleep(0)
        if how == "half-close":
            assert b'"done":true' not in await client.rest()


async def test_a_client_that_sends_on_and_on_is_dropped() -> None:
    model = Scripted(HOLD)
    async with (
        serving(model, limits=Limits(ahead_bytes=1000)) as server,
        connected(server) as client,
    ):
        client.post(CHAT)
        await model.started.wait()
        client.send(b"x" * 2000)
        await model.ended.wait()


async def test_closing_the_server_cancels() -> None:
    model = Scripted("Hi", HOLD)
    async with serving(model) as server, connected(server) as client:
        client.post(CHAT)
        await client.head()
        await server.close()
        assert model.ended.is_set()


# -- a model that fails ------------------------------------------------------------------------


async def test_too_many_requests() -> None:
    model = Scripted(HOLD)
    async with (
        serving(model, limits=Limits(pending_requests=1)) as server,
        connected(server) as first,
        connected(server) as second,
    ):
        first.post(CHAT)
        await model.started.wait()
        second.post(CHAT)
        assert await second.reply() == (
            503,
            {"error": "server busy, please try again.  maximum pending requests exceeded"},
        )
        first.writer.close()
        await model.ended.wait()
        while server.pending:
            await asyncio.sleep(0)
        second.post(CHAT)
        while not server.pending:
            await asyncio.sleep(0)


@pytest.mark.parametrize("body", [CHAT, WHOLE], ids=["stream", "whole"])
async def test_an_error_before_the_first_piece_has_a_status(body: object) -> None:
    async with (
        serving(Scripted(ModelError("too long", status=400))) as server,
        connected(server) as client,
    ):
        client.post(body)
        assert await client.reply() == (400, {"error": "too long"})


async def test_an_error_in_the_middle_is_the_last_line() -> None:
    async with serving(Scripted("a", ModelError("inside"))) as server, connected(server) as client:
        client.post(CHAT)
        await client.until(b'"done":false}\n\r\n')
        error = b'{"error":"an error was encountered while running the model"}\n'
        assert await client.until(b"\r\n0\r\n\r\n") == b"%x\r\n%b\r\n0\r\n\r\n" % (
            len(error),
            error,
        )


async def test_no_prompt_and_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tokenwire_ollama")
    async with serving(Scripted(ModelError("a secret"))) as server, connected(server) as client:
        client.post(CHAT | {"model": "llama3"})
        assert (await client.reply())[0] == 500
    assert [r.getMessage() for r in caplog.records if r.name == "tokenwire_ollama"] == [
        "asked for model llama3, answering with smollm2:135m",
        "a generation failed with status 500",
    ]


async def test_without_fallback() -> None:
    async with serving(Scripted(), fallback=False) as server, connected(server) as client:
        client.post(CHAT | {"model": "llama3"})
        assert await client.reply() == (404, {"error": "model 'llama3' not found"})


# -- a client that is wrong --------------------------------------------------------------------

QUICK = Limits(head_s=0.05, body_s=0.05, linger_s=0.05, head_bytes=500, body_bytes=100)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 500, 431),
        (b"GET / HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nhost: 127.0.0.1.evil.example\r\nconnection: close\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nhost: [::1]:80\r\nconnection: close\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nhost: localhost", 408),
        (b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{", 408),
        (
            b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 101\r\n\r\n"
            + b" " * 101,
            413,
        ),
        (
            b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
            b"65\r\n" + b" " * 101,
            413,
        ),
        (b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 400),
        (b"GET /api/chat HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 405),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 404),
    ],
)
async def test_wrong_requests(request_: bytes, status: int) -> None:
    async with serving(Scripted(), limits=QUICK) as server, connected(server) as client:
        client.send(request_)
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        if status != 200:
            head, _, body = answer.partition(b"\r\n\r\n")
            assert b"application/json; charset=utf-8" in head
            assert b"connection: close" in head.lower()
            assert list(json.loads(body)) == ["error"]


async def test_an_idle_connection_ends_without_a_word() -> None:
    async with serving(Scripted(), limits=QUICK) as server, connected(server) as client:
        assert await client.rest() == b""


async def test_a_wrong_request_with_a_whole_body_keeps_the_connection() -> None:
    async with serving(Scripted()) as server, connected(server) as client:
        client.post({"model": ""})
        assert (await client.reply())[0] == 400
        client.post({"model": "smollm2"})
        assert (await client.reply())[1]["done_reason"] == "load"
