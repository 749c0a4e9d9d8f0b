"""`connect()` of every runtime, over loopback, against our own server.

Rules of this file: no story knows which runtime plays it; anyio is the common tongue. No sleep
stands for an event.
"""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import anyio
import pytest
import tokenwire_anyio.client
import tokenwire_asyncio.client
from interop.link import running_link
from runtimes.loop_thread import LIMIT, LoopThread
from runtimes.server_thread import SystemIds
from tokenwire import Config, Server
from tokenwire.client import ConnectError, ConnectFailed, Event, Joined, Left, Reconnecting
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import Disconnected
from tokenwire.outputs import Event as ServerEvent
from tokenwire.testing.worldnet import fixture
from tokenwire_asyncio import Runtime, now

TRANSPORTS: dict[str, tuple[str, ...]] = {
    "websocket": ("websocket",),
    "polling": ("polling",),
    "upgrade": ("polling", "websocket"),
}
FLOOD = 5_000  # events
SOON = {"reconnect_delay": 0.02, "reconnect_delay_max": 0.05}


class Client(NamedTuple):
    """A runtime of the client's role."""

    module: ModuleType
    backend: str

    def play(self, story: Callable[["Connect"], Awaitable[None]]) -> None:
        """Run a story that calls `connect`."""

        async def limited() -> None:
            with anyio.fail_after(LIMIT):
                await story(self.module.connect)

        anyio.run(limited, backend=self.backend)


Connect = Callable[..., AbstractAsyncContextManager[Any]]
CLIENTS = {
    "asyncio": Client(tokenwire_asyncio.client, "asyncio"),
    "anyio-asyncio": Client(tokenwire_anyio.client, "asyncio"),
    "anyio-trio": Client(tokenwire_anyio.client, "trio"),
}


class Host:
    """Our server in a thread, with the fixture's program and an event more: `flood`."""

    def __init__(self, port: int = 0) -> None:
        self.ended: list[str] = []
        """Why each socket went."""
        self.flooded = threading.Event()
        self._changed = threading.Condition()
        self._thread = LoopThread("host")
        config = Config(ai_namespace=None, namespaces=("/", "/custom"), heartbeat_interval=1_000)
        self.core = Server(config, ids=SystemIds())
        self._runtime = self._thread.run(self._start(port))
        self.port = self._runtime.port
        self.url = f"http://127.0.0.1:{self.port}"

    async def _start(self, port: int) -> Runtime:
        runtime = Runtime(self.core, handle=self._handle)
        await runtime.start("127.0.0.1", port)
        return runtime

    def _handle(self, output: Any) -> None:
        if isinstance(output, ServerEvent) and output.name == "flood":
            for number in range(FLOOD):
                self.core.emit(output.socket, "drop", [number], now())
            self.flooded.set()
        elif isinstance(output, Disconnected):
            with self._changed:
                self.ended.append(output.reason)
                self._changed.notify_all()
        else:
            fixture(self.core, output, now())

    def wait_ended(self) -> str:
        """Wait until a socket is gone; return why."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended, LIMIT)
            return self.ended.pop(0)

    def close(self) -> None:
        try:
            self._thread.run(self._runtime.aclose())
        finally:
            self._thread.close()


@contextmanager
def hosting(port: int = 0) -> Iterator[Host]:
    host = Host(port)
    try:
        yield host
    finally:
        host.close()


@pytest.fixture
def host() -> Iterator[Host]:
    with hosting() as one:
        yield one


@pytest.fixture(params=list(CLIENTS))
def client(request: pytest.FixtureRequest) -> Client:
    return CLIENTS[request.param]


@pytest.fixture(params=list(TRANSPORTS))
def transports(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return TRANSPORTS[request.param]


async def take(socket: AsyncIterator[Any], kind: type[Any]) -> Any:
    """Return the next thing of a kind; what comes before it is passed over."""
    async for event in socket:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__} came")


def test_a_conversation(client: Client, host: Host, transports: tuple[str, ...]) -> None:
    async def story(connect: Connect) -> None:
        async with connect(host.url, auth={"token": "t"}, transports=transports) as socket:
            assert socket.sid
            assert await take(socket, Event) == Event("/", "auth", ({"token": "t"},), None)
            socket.emit("message", "é", b"\x00\xff", {"deep": [b"1"]})
            answer = Event("/", "message-back", ("é", b"\x00\xff", {"deep": [b"1"]}), None)
            assert await take(socket, Event) == answer
            assert await socket.call("message-with-ack", 1, b"2") == (1, b"2")
            socket.emit("ask", "?")
            asked = await take(socket, Event)
            socket.acknowledge(asked, "!", b"3")
            socket.acknowledge(answer, "nobody has asked")
            assert await take(socket, Event) == Event("/", "asked", ("!", b"3"), None)
            large = "x" * 900_000, b"y" * 700_000
            assert await socket.call("message-with-ack", *large) == large
            assert socket.transport == transports[-1]
            socket.emit("message", "on the way out")
        assert host.wait_ended() == "client namespace disconnect"

    client.play(story)


def test_the_last_words_arrive(client: Client, host: Host, transports: tuple[str, ...]) -> None:
    words: list[object] = []
    handle = host._handle

    def listen(output: Any) -> None:
        if isinstance(output, ServerEvent):
            words.extend(output.args)
        handle(output)

    host._runtime._handle = listen

    async def story(connect: Connect) -> None:
        async with connect(host.url, transports=transports) as socket:
            for number in range(100):
                socket.emit("say", number)

    client.play(story)
    host.wait_ended()
    assert words == list(range(100))


def test_a_namespace_that_there_is_not(client: Client, host: Host) -> None:
    async def story(connect: Connect) -> None:
        with pytest.raises(ConnectError, match="Invalid namespace") as caught:
            async with connect(host.url + "/nowhere"):
                pytest.fail("the client was let in")
        assert caught.value.data == {"message": "Invalid namespace"}

    client.play(story)


def test_a_server_that_there_is_not(client: Client) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

        async def story(connect: Connect) -> None:
            with pytest.raises(ConnectError, match="cannot be reached"):
                async with connect(f"http://localhost:{port}"):
                    pytest.fail("nobody is there")

        client.play(story)


@pytest.mark.parametrize("url", ["localhost:3000", "ftp://localhost", "http://localhost:x"])
def test_what_is_no_url(client: Client, url: str) -> None:
    async def story(connect: Connect) -> None:
        with pytest.raises(ValueError, match=r"URL|[Pp]ort"):
            async with connect(url):
                pytest.fail("there is nothing to connect to")

    client.play(story)


def test_what_the_program_raises_comes_out_as_it_is(client: Client, host: Host) -> None:
    async def story(connect: Connect) -> None:
        with pytest.raises(ZeroDivisionError):
            async with connect(host.url):
                raise ZeroDivisionError
        async with connect(host.url) as socket:
            with pytest.raises(LocalProtocolError):
                socket.emit("message", object())
            assert await socket.call("message-with-ack") == ()

    client.play(story)
    assert host.wait_ended() == "client namespace disconnect"


def test_an_acknowledgement_that_does_not_come(client: Client, host: Host) -> None:
    async def story(connect: Connect) -> None:
        async with connect(host.url) as socket:
            with pytest.raises(TimeoutError):
                await socket.call("message", timeout=0.05)
            with pytest.raises(TimeoutError):
                await socket.call("leave", timeout=60)

    client.play(story)


def test_the_server_disconnects(client: Client, host: Host, transports: tuple[str, ...]) -> None:
    async def story(connect: Connect) -> None:
        async with connect(host.url, transports=transports) as socket:
            socket.emit("leave")
            left = await take(socket, Left)
            assert left.reason == "io server disconnect"
            assert [event async for event in socket] == [], "it does not come back"
            assert socket.sid is None

    client.play(story)


def test_it_comes_back_after_a_cut(client: Client, host: Host, transports: tuple[str, ...]) -> None:
    with running_link("127.0.0.1", host.port) as link:

        async def story(connect: Connect) -> None:
            url = f"http://127.0.0.1:{link.port}"
            async with connect(url, transports=transports, **SOON) as socket:
                await socket.call("message-with-ack")
                first = socket.sid
                await anyio.to_thread.run_sync(link.cut)
                assert (await take(socket, Left)).reason in ("transport close", "transport error")
                assert socket.sid is None
                socket.emit("message", "kept")
                assert (await take(socket, Reconnecting)).attempt == 1
                await take(socket, ConnectFailed)
                link.mend()
                joined = await take(socket, Joined)
                assert joined.sid != first
                assert not joined.recovered
                await take(socket, Event)
                assert (await take(socket, Event)).args == ("kept",)

        client.play(story)


def test_it_comes_back_after_the_server_has_started_again(client: Client) -> None:
    with ExitStack() as hosts:
        first = hosts.enter_context(hosting())

        async def story(connect: Connect) -> None:
            async with connect(first.url, **SOON) as socket:
                await anyio.to_thread.run_sync(hosts.close)
                await take(socket, Left)
                await take(socket, ConnectFailed)
                hosts.enter_context(hosting(first.port))
                await take(socket, Joined)
                assert await socket.call("message-with-ack", 1) == (1,)

        client.play(story)


def test_attempts_may_be_limited(client: Client) -> None:
    with ExitStack() as hosts:
        host = hosts.enter_context(hosting())

        async def story(connect: Connect) -> None:
            async with connect(host.url, reconnect_attempts=2, **SOON) as socket:
                await anyio.to_thread.run_sync(hosts.close)
                kinds = [type(event).__name__ async for event in socket]
                assert kinds[-4:] == [
                    "Reconnecting",
                    "ConnectFailed",
                    "Reconnecting",
                    "ConnectFailed",
                ]

        client.play(story)


def test_a_slow_program_gets_everything_in_order(client: Client, host: Host) -> None:
    async def story(connect: Connect) -> None:
        async with connect(host.url, transports=("websocket",)) as socket:
            await take(socket, Event)
            socket.emit("flood")
            assert await anyio.to_thread.run_sync(host.flooded.wait, LIMIT)
            for number in range(FLOOD):
                assert (await take(socket, Event)).args == (number,)

    client.play(story)


@contextmanager
def deaf_server() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_does_not_answer_is_given_up_when_the_program_wants(client: Client) -> None:
    with deaf_server() as url:

        async def story(connect: Connect) -> None:
            for transports in TRANSPORTS.values():
                started = time.monotonic()
                with anyio.move_on_after(0.05) as scope:
                    async with connect(url, transports=transports):
                        pytest.fail("nobody has answered")
                assert scope.cancelled_caught
                assert time.monotonic() - started < 1.5

        client.play(story)


def test_who_is_cancelled_leaves_politely(client: Client, host: Host) -> None:
    async def story(connect: Connect) -> None:
        joined = anyio.Event()

        async def listen() -> None:
            async with connect(host.url) as socket:
                joined.set()
                async for _ in socket:
                    pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await joined.wait()
            tasks.cancel_scope.cancel()

    client.play(story)
    assert host.wait_ended() == "client namespace disconnect"


PROGRAM = """
import signal
import sys
import anyio
from {module} import connect

async def main():
    async with connect(sys.argv[1]) as socket:
        print("here", flush=True)
        async for event in socket:
            pass

# A shell's background job has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    anyio.run(main, backend="{backend}")
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_leaves_politely(client: Client, host: Host) -> None:
    program = PROGRAM.format(module=client.module.__name__, backend=client.backend)
    command = (sys.executable, "-c", program, host.url)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == b"here\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT) == 130
            assert process.stderr.read() == b""
        finally:
            process.kill()
    assert host.wait_ended() == "client namespace disconnect"
