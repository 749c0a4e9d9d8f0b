"""A model server that plays scripts: Ollama's API as far as tokenwire uses it, over loopback.

Rules of this file: plain asyncio, in a thread of its own. A request to /api/chat plays the script
of its prompt, step by step; what it asked and when its client closed is kept in a `Recorded`. The
response's head goes out with the first line, as Ollama's does; each `Send` is one HTTP chunk, so
that a reader sees it cut just there, however TCP joins it. While the server is stopped its port
stays bound, so that nobody else gets it, and refuses connections.
"""

import asyncio
import itertools
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from runtimes.loop_thread import LIMIT, LoopThread, stop_listening

_CREATED = "2026-11-24T06:00:00.123456789Z"
_SEND_BUFFER = 16 * 1024  # a small one: a reader that pauses is felt soon
_REASONS = {200: "OK", 302: "Found", 400: "Bad Request", 404: "Not Found", 503: "Unavailable"}


# -- the steps of a script -----------------------------------------------------------------------


@dataclass(frozen=True)
class Send:
    """Bytes of the streamed body, as one HTTP chunk."""

    data: bytes


@dataclass(frozen=True)
class Stamp:
    """A token whose text is the time when it is sent (`time.monotonic_ns`), and a space."""


@dataclass(frozen=True)
class Head:
    """The head of the response, before its first line."""


@dataclass(frozen=True)
class Raw:
    """Bytes on the socket, outside all framing."""

    data: bytes


@dataclass(frozen=True)
class Pause:
    """A pause, in seconds."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """A whole response that is no stream."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json; charset=utf-8"),)


@dataclass(frozen=True)
class Cut:
    """Close the connection in the middle of the body (FIN)."""


@dataclass(frozen=True)
class Reset:
    """Reset the connection (RST)."""


class Gate:
    """The script waits here until the test opens the gate; one that stays shut is a stall."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        """Set when the script has come here."""
        self._opened: Future[None] = Future()

    def open(self) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    async def passed(self) -> None:
        self.reached.set()
        await asyncio.wrap_future(self._opened)


Step = Send | Stamp | Head | Raw | Pause | Answer | Cut | Reset | Gate
Script = Sequence[Step]


# -- lines of Ollama's stream --------------------------------------------------------------------


def line(**fields: object) -> bytes:
    """Return one line of the stream, its text as UTF-8 (not escaped)."""
    whole = {"model": "codellama", "created_at": _CREATED, **fields}
    return json.dumps(whole, ensure_ascii=False).encode() + b"\n"


def token(text: str) -> bytes:
    return line(message={"role": "assistant", "content": text}, done=False)


def thought(text: str) -> bytes:
    return line(message={"role": "assistant", "content": "", "thinking": text}, done=False)


def tool_calls(*calls: dict[str, object]) -> bytes:
    message = {"role": "assistant", "content": "", "tool_calls": list(calls)}
    return line(message=message, done=False)


def done(text: str = "", reason: str = "stop") -> bytes:
    return line(
        message={"role": "assistant", "content": text},
        done=True,
        done_reason=reason,
        total_duration=5_000_000,
        load_duration=1_000_000,
        prompt_eval_count=26,
        prompt_eval_duration=1_000_000,
        eval_count=7,
        eval_duration=2_000_000,
    )


def error_line(message: str) -> bytes:
    return json.dumps({"error": message}).encode() + b"\n"


def error_answer(status: int, message: str) -> Answer:
    return Answer(status, json.dumps({"error": message}).encode())


# -- scripts -------------------------------------------------------------------------------------


def say(*texts: str, end: bool = True) -> list[Step]:
    """One line a write; with `end`, the proper end."""
    steps: list[Step] = [Send(token(text)) for text in texts]
    return [*steps, Send(done())] if end else steps


def burst(*texts: str) -> list[Step]:
    """All lines and the end in one write."""
    return [Send(b"".join(map(token, texts)) + done())]


def cut_at(data: bytes, *places: int) -> list[Step]:
    """`data`, cut at each of `places`."""
    ends = [0, *places, len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(ends)]
    return [Send(piece) for piece in pieces if piece]


# -- the server ----------------------------------------------------------------------------------


@dataclass
class Recorded:
    """One request, and what became of it."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    sent: int = 0
    """Bytes that the socket has taken."""
    finished: bool = False
    """True: the script was played to its end."""
    closed: threading.Event = field(default_factory=threading.Event)
    """Set when the connection is over."""
    closed_at: float | None = None
    """When it was (`time.monotonic`)."""
    closed_early: bool = False
    """True: the client closed while the script was being played."""

    @property
    def prompt(self) -> str:
        messages = self.body.get("messages") or [{}]
        return str(messages[-1].get("content", ""))

    def wait_closed(self, limit: float = LIMIT) -> None:
        """Wait until the client has closed in the middle of the script."""
        assert self.closed.wait(limit), "the model's connection is still open"
        assert self.closed_early, "the model had finished before"

    def wait_held_up(self, still: float = 0.25, limit: float = LIMIT) -> None:
        """Wait until the socket has taken something, and then nothing for `still` seconds."""
        until = time.monotonic() + limit
        before, since = 0, time.monotonic()
        while self.sent == 0 or time.monotonic() - since < still:
            assert time.monotonic() < until, "the model was never held up"
            assert not self.finished, "the model was not held up"
            if self.sent != before:
                before, since = self.sent, time.monotonic()
            time.sleep(0.005)


class ScriptedOllama:
    """The model server. A new one listens already."""

    def __init__(self) -> None:
        self.models: list[str] | None = ["codellama:latest", "llama3.2:1b"]
        """What /api/tags answers; None: status 500."""
        self.default: Script = say("Hello", ", ", "world")
        """For a prompt that has no script."""
        self.scripts: dict[str, Script] = {}
        """By prompt."""
        self.probes = 0
        """Answers of /api/tags so far."""
        self._requests: list[Recorded] = []
        self._taken = 0
        self._changed = threading.Condition()
        self._thread = LoopThread("scripted ollama")
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.host, self.port = self._holder.getsockname()
        self._listener: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.start()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Listen (again) on the same port."""
        self._thread.run(self._start())

    async def _start(self) -> None:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        listening.bind((self.host, self.port))
        self._listener = await asyncio.start_server(self._accept, sock=listening)

    def stop(self) -> None:
        """Be down: drop all connections, refuse new ones."""
        self._thread.run(self._stop())

    async def _stop(self) -> None:
        if self._listener is not None:
            await stop_listening(self._listener)
            self._listener = None
        tasks = list(self._connections)
        for task, writer in self._connections.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        self.stop()
        self._holder.close()
        self._thread.close()

    def request(self, limit: float = LIMIT) -> Recorded:
        """Return the next request to /api/chat that was not taken before."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._requests) > self._taken, limit), (
                "the model was not asked"
            )
            self._taken += 1
            return self._requests[self._taken - 1]

    def request_for(self, prompt: str, limit: float = LIMIT) -> Recorded:
        """Return the first request with this prompt, taken or not."""

        def found() -> Recorded | None:
            return next((item for item in self._requests if item.prompt == prompt), None)

        with self._changed:
            request = self._changed.wait_for(found, limit)
            assert request, "the model was not asked this"
            return request

    def wait_probed(self, count: int = 1, limit: float = LIMIT) -> None:
        """Wait until /api/tags was answered `count` times since the start."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.probes >= count, limit), "nobody looked"

    @property
    def requests(self) -> list[Recorded]:
        """All requests to /api/chat so far."""
        with self._changed:
            return list(self._requests)

    # -- one connection ----------------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Known from its first moment: a task that was stopped before it ran would close nothing.
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=0)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *rest = head.rstrip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {
            name.lower(): value for name, _, value in (item.partition(": ") for item in rest)
        }
        content = await reader.readexactly(int(headers.get("content-length", "0")))
        body = json.loads(content) if content else {}
        if path == "/api/tags":
            await self._answer_tags(writer)
            return
        request = Recorded(method, path, headers, body)
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
        assert path == "/api/chat", path
        script = self.scripts.get(request.prompt, self.default)
        playing = asyncio.ensure_future(_Player(request, writer).play(script))
        closing = asyncio.ensure_future(_closed(reader))
        try:
            await asyncio.wait((playing, closing), return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                playing.result()
                await closing
        finally:
            playing.cancel()
            closing.cancel()
            await asyncio.gather(playing, closing, return_exceptions=True)
            request.closed_at = time.monotonic()
            request.closed_early = not request.finished
            request.closed.set()

    async def _answer_tags(self, writer: asyncio.StreamWriter) -> None:
        if self.models is None:
            _write(writer, error_answer(500, "no list"))
        else:
            tags = {"models": [{"name": name, "model": name} for name in self.models]}
            _write(writer, Answer(200, json.dumps(tags).encode()))
        await writer.drain()
        with self._changed:
            self.probes += 1
            self._changed.notify_all()


async def _closed(reader: asyncio.StreamReader) -> None:
    """Return when the client closes or resets its connection."""
    with suppress(ConnectionError):
        while await reader.read(1024):
            pass


def _write(writer: asyncio.StreamWriter, answer: Answer) -> None:
    reason = _REASONS.get(answer.status, "Status")
    fields = [*answer.headers, ("content-length", str(len(answer.body)))]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    writer.write(f"HTTP/1.1 {answer.status} {reason}\r\n{head}\r\n".encode() + answer.body)


class _Player:
    """Plays one script."""

    def __init__(self, request: Recorded, writer: asyncio.StreamWriter) -> None:
        self._request = request
        self._writer = writer
        self._begun = False

    async def play(self, script: Script) -> None:
        whole = False
        with suppress(ConnectionError):
            for step in script:
                whole = isinstance(step, Answer | Cut | Reset)
                await self._play(step)
            if not whole:
                await self._send(b"0\r\n\r\n")
            self._request.finished = True

    async def _play(self, step: Step) -> None:
        match step:
            case Send():
                await self._send_chunk(step.data)
            case Stamp():
                await self._send_chunk(token(f"{time.monotonic_ns()} "))
            case Head():
                await self._send(b"")
            case Raw():
                self._writer.write(step.data)
                await self._writer.drain()
            case Pause():
                await asyncio.sleep(step.seconds)
            case Gate():
                await step.passed()
            case Answer():
                _write(self._writer, step)
                await self._writer.drain()
            case Cut():
                self._writer.close()
            case Reset():
                raw = self._writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._writer.transport.abort()

    async def _send_chunk(self, data: bytes) -> None:
        await self._send(b"%x\r\n%b\r\n" % (len(data), data))

    async def _send(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            data = (
                b"HTTP/1.1 200 OK\r\n"
                b"content-type: application/x-ndjson\r\n"
                b"transfer-encoding: chunked\r\n\r\n" + data
            )
        self._writer.write(data)
        await self._writer.drain()
        self._request.sent += len(data)


@contextmanager
def running_ollama() -> Iterator[ScriptedOllama]:
    """A model server for one test."""
    server = ScriptedOllama()
    try:
        yield server
    finally:
        server.close()
