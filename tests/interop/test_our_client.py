"""Our client against Node's socket.io server and python-socketio's.

Rules of this file: a story does not know which server it is played to, nor, where it takes
`transports`, over what.
"""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
from interop import server_py
from interop.clients import HERE, require_packages
from runtimes.loop_thread import LIMIT
from tokenwire.client import ConnectError, ConnectFailed, Event, Joined, Left, Reconnecting
from tokenwire_asyncio.client import ClientSocket, connect

TRANSPORTS: dict[str, tuple[str, ...]] = {
    "websocket": ("websocket",),
    "polling": ("polling",),
    "upgrade": ("polling", "websocket"),
}
LIMITS = {"node": 1_000_000, "python-socketio": 999_999}
"""The largest message that a server takes. (Both announce a million.)"""
Connect = Callable[..., AbstractAsyncContextManager[ClientSocket]]


@contextmanager
def node_server() -> Iterator[str]:
    """Run Node's server; give its URL."""
    require_packages()
    with subprocess.Popen(
        ("node", "server_io.mjs"),
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
            process.stdin.close()
            process.wait(LIMIT)
        finally:
            process.kill()


SERVERS = {"node": node_server, "python-socketio": server_py.running}


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    """Where each server is."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(server()) for name, server in SERVERS.items()}


@pytest.fixture(params=list(SERVERS))
def url(urls: dict[str, str], request: pytest.FixtureRequest) -> str:
    return urls[request.param]


@pytest.fixture(params=list(TRANSPORTS))
def transports(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return TRANSPORTS[request.param]


def play(story: Callable[[Connect], Awaitable[None]], transports: tuple[str, ...]) -> None:
    """Run a story that calls `connect`."""
    quick = partial(connect, transports=transports, reconnect_delay=0.02, reconnect_delay_max=0.05)  # type: ignore[arg-type]

    async def limited() -> None:
        async with asyncio.timeout(LIMIT):
            await story(quick)

    asyncio.run(limited())


async def take(socket: AsyncIterator[Any], kind: type[Any]) -> Any:
    """Return the next thing of a kind; what comes before it is passed over."""
    async for event in socket:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__} came")


async def event(socket: ClientSocket, name: str, values: tuple[object, ...]) -> None:
    """Wait for the next event: it has this name and these arguments."""
    came: Event = await take(socket, Event)
    # Node's server puts an offset behind them, where it would send the event again.
    assert (came.name, came.args[: len(values)]) == (name, values)
    assert all(isinstance(offset, str) for offset in came.args[len(values) :])


VALUES: tuple[object, ...] = (1, -2.5, True, None, "é€😀\u2028", [], {"a": [{"b": "c"}]})
BYTES: tuple[object, ...] = (b"", b"\x00\xff" * 500, {"deep": [b"1", {"er": b"2"}]}, "text")


def test_values_both_ways(url: str, transports: tuple[str, ...]) -> None:
    async def story(connect: Connect) -> None:
        async with connect(url, auth={"token": "t"}) as socket:
            assert await socket.call("who") == ({"token": "t"},)
            for values in (VALUES, BYTES, ()):
                socket.emit("echo", *values)
                await event(socket, "echoed", values)
                assert await socket.call("call", *values) == values
                socket.emit("ask", *values)
                question: Event = await take(socket, Event)
                assert question.args == values
                socket.acknowledge(question, *values)
                await event(socket, "answered", values)
            assert socket.transport == transports[-1]

    play(story, transports)


def test_many_in_order(url: str, transports: tuple[str, ...]) -> None:
    async def story(connect: Connect) -> None:
        async with connect(url) as socket:
            for start in range(0, 200, 7):  # python-socketio takes 16 packets in one POST
                numbers = range(start, start + 7)
                for number in numbers:
                    socket.emit("echo", number, b"x" * (number % 3))
                for number in numbers:
                    await event(socket, "echoed", (number, b"x" * (number % 3)))

    play(story, transports)


def test_namespaces(url: str, transports: tuple[str, ...]) -> None:
    async def story(connect: Connect) -> None:
        async with connect(f"{url}/chat") as socket:
            assert await socket.call("who") == ({},)
            assert await socket.call("call", 1) == (1,)
        async with connect(f"{url}/private", auth={"token": "good"}) as socket:
            assert await socket.call("who") == ({"token": "good"},)
        with pytest.raises(ConnectError, match="not you") as refused:
            async with connect(f"{url}/private", auth={"token": "bad"}):
                pytest.fail("the client was let in")
        assert refused.value.data == {"message": "not you", "data": {"code": 7}}
        with pytest.raises(ConnectError):
            async with connect(f"{url}/nowhere"):
                pytest.fail("there is no such namespace")

    play(story, transports)


def test_the_server_disconnects(url: str, transports: tuple[str, ...]) -> None:
    async def story(connect: Connect) -> None:
        async with connect(url) as socket:
            socket.emit("leave")
            assert (await take(socket, Left)).reason == "io server disconnect"
            assert [came async for came in socket] == []

    play(story, transports)


def test_it_comes_back_after_the_server_has_cut_it(url: str, transports: tuple[str, ...]) -> None:
    async def story(connect: Connect) -> None:
        async with connect(url) as socket:
            for _ in range(2):
                await socket.call("call")
                socket.emit("cut")
                await take(socket, Left)
                socket.emit("echo", "kept")
                await take(socket, Reconnecting)
                await take(socket, Joined)
                while (await take(socket, Event)).name != "echoed":
                    pass
            assert await socket.call("call", "alive") == ("alive",)

    play(story, transports)


def test_a_quiet_session_lives(url: str, transports: tuple[str, ...]) -> None:
    async def story(connect: Connect) -> None:
        async with connect(url) as socket:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.2):  # some pings
                    await take(socket, Left)
            assert await socket.call("call", 1) == (1,)

    play(story, transports)


# python-socketio's aiohttp driver takes what has come of a large POST for all of it.
@pytest.mark.parametrize(
    ("server", "way"), [*(("node", way) for way in TRANSPORTS), ("python-socketio", "websocket")]
)
@pytest.mark.parametrize("excess", [0, 1])
def test_a_message_at_the_limit(urls: dict[str, str], server: str, way: str, excess: int) -> None:
    url, transports = urls[server], TRANSPORTS[way]
    text = "x" * (LIMITS[server] - len('42["echo",""]') + excess)

    async def story(connect: Connect) -> None:
        async with connect(url, reconnect=False) as socket:
            while socket.transport != transports[-1]:
                await asyncio.sleep(0.01)
            socket.emit("echo", text)
            if excess:
                left: Left = await take(socket, Left)
                assert left.reason in ("transport close", "transport error")
            else:
                await event(socket, "echoed", (text,))

    play(story, transports)


def test_the_state_is_recovered(urls: dict[str, str], transports: tuple[str, ...]) -> None:
    async def story(connect: Connect) -> None:
        async with connect(urls["node"]) as socket:
            sid = socket.sid
            socket.emit("echo")  # a session without an event has no offset to go on from
            await event(socket, "echoed", ())
            socket.emit("cut")
            await take(socket, Left)
            missed: list[Event] = []
            async for came in socket:
                if isinstance(came, Event):
                    missed.append(came)
                elif isinstance(came, Joined):
                    assert came.recovered
                    break
                else:
                    assert isinstance(came, Reconnecting | ConnectFailed)
            assert [(one.name, one.args[0]) for one in missed] == [("missed", "while away")]
            assert socket.recovered
            assert socket.sid == sid
            assert await socket.call("call", "alive") == ("alive",)

    play(story, transports)
