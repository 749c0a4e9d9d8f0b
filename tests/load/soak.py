"""A soak: round after round of mixed load on one server, which must be as it was after each.

Rules of this file: a round is the same clients each time, over real sockets, on `tokenwire serve`
in a process of its own: streams of several sizes over every transport, cancels, readers that sleep,
clients that are cut off and come back in the three ways that there are, some that never do, and
mistakes. Then all leave, and the sessions' grace period passes. A counter or a file descriptor that
is not back where it was fails the soak, and so does a stream that is not whole.

Memory is looked at there, between two rounds, where the server holds nothing for anybody: what it
has more than after the round before is what it keeps. In the midst of a load it goes up and down
by more in a second than a leak may make in an hour.

    cd tests && ../.venv/bin/python -m load.soak --minutes 10
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import IO, Literal, NamedTuple

import msgspec
from interop.link import Link, running_link
from load import run
from load.model import Workload
from runtimes.raw_client import http
from runtimes.server_process import ServerProcess
from tokenwire.client import ConnectError, Event, Joined, Left
from tokenwire.client.config import Transport
from tokenwire_asyncio.client import ClientSocket, connect

Way = Literal["recovery", "id", "cursors"]
"""How a client gets its streams back: connection state recovery; `ai:reconnect` with the id of its
previous connection, from the start; the same with how far it is."""

GRACE = 2_000  # milliseconds that a lost client's session is kept
SETTINGS = {
    "--reconnect-timeout": str(GRACE),
    "--heartbeat-interval": "1000",
    "--log-level": "error",
}
ZERO = ("totalSessions", "activeSessions", "totalActiveStreams", "bytesHeld")
"""The counters of /stats that are 0 when nobody is there."""

WARM_UP = 0.5  # of the time: imports and caches; pools and the collector take minutes to settle
MOST_GROWTH = 1.0  # MB an hour
_LIMIT = 60.0  # seconds for one client, and for all to be as it was
_MB = 1e6

WEBSOCKET: tuple[Transport, ...] = ("websocket",)
POLLING: tuple[Transport, ...] = ("polling",)
UPGRADE: tuple[Transport, ...] = ("polling", "websocket")
Kinds = tuple[tuple[Transport, ...], ...]
EVERY: Kinds = (WEBSOCKET, POLLING, UPGRADE)
RARELY = 8
"""Pollers are cut in one round of so many, for one may be lost between two GETs, which nobody knows
before its heartbeat is 20 s late: what the others take 5 s for, and say as much of memory with."""
ENDLESS = Workload(1_000_000, 200)
RETURNS = Workload(300, 100)


class Fault(Exception):
    """Something is not as it must be."""


class Screen:
    """What one client has of its streams."""

    def __init__(self, work: Workload, streams: int) -> None:
        self._work = work
        self._tokens: dict[str, int] = {}
        self._epochs: dict[str, str] = {}
        self._running = streams

    @property
    def over(self) -> bool:
        return self._running == 0

    @property
    def begun(self) -> bool:
        """True: a token has come."""
        return any(self._tokens.values())

    def cursors(self) -> dict[str, dict[str, object]]:
        """Return how far each stream is."""
        return {
            name: {"seq": seq, "epoch": self._epochs[name]} for name, seq in self._tokens.items()
        }

    def show(self, name: str | int, data: dict[str, object]) -> None:
        """Take an event."""
        stream = str(data.get("streamId"))
        match name:
            case "ai:stream:start":
                self._tokens[stream] = 0
                self._epochs[stream] = str(data["epoch"])
            case "ai:token":
                self._tokens[stream] += len(str(data["data"]).split())
                if data["seq"] != self._tokens[stream]:
                    raise Fault(f"seq {data['seq']} after {self._tokens[stream]} tokens")
            case "ai:done":
                if not data["totalTokens"] == self._tokens[stream] == self._work.tokens:
                    raise Fault(f"{self._tokens[stream]} of {self._work.tokens} tokens")
                self._running -= 1
            case "ai:stream:cancelled":
                self._running -= 1
            case "ai:error" | "ai:stream:error":
                raise Fault(str(data["code"]))
            case _:
                pass


def start(socket: ClientSocket, work: Workload, streams: int = 1) -> Screen:
    """Ask for streams. Return what will show them."""
    for number in range(streams):
        request = {"prompt": work.prompt(), "streamId": f"s{number}", "useOrchestrator": False}
        socket.emit("ai:stream", request)
    return Screen(work, streams)


async def show_next(socket: ClientSocket, screen: Screen) -> None:
    """Show the next event. A connection that is lost is a fault."""
    event = await anext(socket)
    if not isinstance(event, Event):
        raise Fault(f"not connected any more: {event}")
    data = event.args[0]
    assert isinstance(data, dict)
    screen.show(event.name, data)


# -- the clients -----------------------------------------------------------------------------------


async def reads(url: str, work: Workload, transports: tuple[Transport, ...], streams: int) -> None:
    """Read some streams to their ends."""
    async with connect(url, transports=transports, reconnect=False) as socket:
        screen = start(socket, work, streams)
        while not screen.over:
            await show_next(socket, screen)


async def sleeps(url: str, work: Workload, transports: tuple[Transport, ...]) -> None:
    """Read a little, then nothing for a while, then the rest."""
    async with connect(url, transports=transports, reconnect=False) as socket:
        screen = start(socket, work)
        while not screen.begun:
            await show_next(socket, screen)
        await asyncio.sleep(2)
        while not screen.over:
            await show_next(socket, screen)


async def cancels(url: str, transports: tuple[Transport, ...]) -> None:
    """Cancel a stream while it runs."""
    async with connect(url, transports=transports, reconnect=False) as socket:
        screen = start(socket, ENDLESS)
        while not screen.begun:
            await show_next(socket, screen)
        socket.emit("ai:cancel", {"streamId": "s0"})
        while not screen.over:
            await show_next(socket, screen)


async def errs(url: str) -> None:
    """Make mistakes, and be told."""
    async with connect(url, transports=WEBSOCKET, reconnect=False) as socket:
        for name, fields in (
            ("ai:stream", {"prompt": "tokens=1", "agent": "nobody"}),
            ("ai:stream", {}),
            ("ai:cancel", {"streamId": "none"}),
        ):
            (answer,) = await socket.call(name, fields)
            if not isinstance(answer, dict) or answer["ok"]:
                raise Fault(f"{name} {fields}: {answer}")


async def leaves(url: str, transports: tuple[Transport, ...], begun: asyncio.Semaphore) -> None:
    """Be cut off in the midst of a stream, and not come back."""
    async with connect(url, transports=transports, reconnect=False) as socket:
        screen = start(socket, ENDLESS)
        while not screen.begun:
            await show_next(socket, screen)
        begun.release()
        async for event in socket:
            if isinstance(event, Left):
                break


async def returns(
    url: str, way: Way, transports: tuple[Transport, ...], begun: asyncio.Semaphore
) -> None:
    """Be cut off in the midst of a stream, and come back for the rest."""
    auth: dict[str, object] | None = None if way == "recovery" else {"recovery": False}
    async with connect(
        url, auth=auth, transports=transports, reconnect_delay=0.05, reconnect_delay_max=0.2
    ) as socket:
        screen = start(socket, RETURNS)
        client_id: str | None = None
        recovered = told = False
        while not screen.over:
            event = await anext(socket)
            if isinstance(event, Joined):
                recovered, told = event.recovered, False
            if not isinstance(event, Event):
                continue
            data = event.args[0]
            assert isinstance(data, dict)
            if event.name == "ai:connected":
                if client_id is None or recovered:
                    client_id = str(data["clientId"])
                else:  # the new one has nothing before a success
                    request: dict[str, object] = {"previousClientId": client_id}
                    if way != "id":
                        request["streams"] = screen.cursors()
                    socket.emit("ai:reconnect", request)
            elif event.name == "ai:reconnect:success":
                client_id = str(data["newClientId"])
            screen.show(event.name, data)
            if event.name == "ai:token" and not told:
                told = True
                begun.release()
    begun.release()  # whoever waits for it waits no more


async def strike(link: Link, begun: asyncio.Semaphore, stay_away: int, come_back: int) -> None:
    """Cut everybody off in the midst of a token, and who comes back once more."""
    for _ in range(stay_away + come_back):
        await begun.acquire()
    struck = await asyncio.to_thread(link.fail, "reset", after=500)
    await asyncio.to_thread(struck.wait, _LIMIT)
    for _ in range(come_back):
        await begun.acquire()
    await asyncio.to_thread(link.cut)
    link.mend()


# -- rounds ----------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """What there was between two rounds."""

    at: float
    """Seconds since the start."""
    resident: int
    """Bytes of memory of the server's."""


class Soak:
    """A server, and what was seen of it."""

    def __init__(self, url: str, server: ServerProcess, link: Link) -> None:
        self._url = url
        self._server = server
        self._link = link
        self._started = time.monotonic()
        self._descriptors = 0
        """How many the server has when nobody is there."""
        self.samples: list[Sample] = []

    async def begin(self) -> None:
        """Look what the server has before anybody comes, but for a connection that comes and goes:
        to the model server, of which it keeps none, or our own."""
        self._descriptors = self._server.descriptors()
        for _ in range(20):
            await asyncio.sleep(0.05)
            self._descriptors = min(self._descriptors, self._server.descriptors())

    def _clients(self, kinds: Kinds) -> list[Callable[[], Awaitable[None]]]:
        url, cut = self._url, f"http://127.0.0.1:{self._link.port}/ai"
        begun = asyncio.Semaphore(0)
        ways: tuple[Way, ...] = ("recovery", "id", "cursors")
        cut_off = [partial(returns, cut, way, kind, begun) for way in ways for kind in kinds]
        lost = [partial(leaves, cut, kind, begun) for kind in kinds]
        return [
            *(partial(reads, url, Workload(5, 0), kind, 3) for kind in EVERY for _ in range(3)),
            *(partial(reads, url, Workload(150, 50), kind, 2) for kind in EVERY),
            *(partial(reads, url, Workload(3_000, 0, 30), kind, 1) for kind in EVERY),
            *(partial(sleeps, url, Workload(6_000, 0, 30), kind) for kind in EVERY),
            *(partial(cancels, url, kind) for kind in EVERY for _ in range(2)),
            *(partial(errs, url) for _ in range(3)),
            *cut_off,
            *lost,
            partial(strike, self._link, begun, len(lost), len(cut_off)),
        ]

    async def round(self, cut: Kinds) -> str:
        """Play one. Return what is to be told of it.

        Args:
            cut: the transports of the clients that are cut off.

        Raises:
            Fault: something went wrong.
        """
        clients = self._clients(cut)
        try:
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(self._play(client))
        except* Fault as faults:
            raise Fault("; ".join(sorted({str(fault) for fault in faults.exceptions}))) from None
        stats = await self._come_to_rest()
        sample = Sample(time.monotonic() - self._started, self._server.resident())
        self.samples.append(sample)
        return (
            f"{sample.at:4.0f} s: {stats['totalStreams']} streams, "
            f"{stats['totalTokensStreamed']} tokens, {stats['resumes']} resumed, "
            f"{stats['cancels']} cancelled, {stats['mergedEvents']} merged, "
            f"{sample.resident / _MB:.2f} MB"
        )

    @staticmethod
    async def _play(client: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(_LIMIT):
                await client()
        except (Fault, ConnectError, TimeoutError) as error:
            what = client.func.__name__ if isinstance(client, partial) else ""
            raise Fault(f"{what}: {error!r}") from error

    async def _come_to_rest(self) -> dict[str, int]:
        """Wait until nothing of the round is left. Return the statistics then."""
        until = time.monotonic() + _LIMIT
        while True:
            descriptors = self._server.descriptors()  # before the next request has one
            stats = await asyncio.to_thread(self._stats)
            more = {name: stats[name] for name in ZERO if stats[name]}
            if descriptors != self._descriptors:
                more["descriptors"] = descriptors - self._descriptors
            if not more:
                return stats
            if time.monotonic() > until:
                raise Fault(f"left when all had gone: {more}")
            await asyncio.sleep(0.1)

    def _stats(self) -> dict[str, int]:
        status, body = http(self._server.host, self._server.port, "GET", "/stats")
        assert status == 200, status
        found: dict[str, int] = msgspec.json.decode(body)
        return found


class Slope(NamedTuple):
    """How fast memory grows, in MB an hour."""

    value: float
    error: float
    """The standard error."""

    def __str__(self) -> str:
        return f"{self.value:+.2f} MB an hour (standard error {self.error:.2f})"


def slope(samples: list[Sample]) -> Slope:
    """Return the slope of a line through all samples, at least three (least squares)."""
    hours = [sample.at / 3600 for sample in samples]
    sizes = [sample.resident / _MB for sample in samples]
    value, base = statistics.linear_regression(hours, sizes)
    off = sum((size - base - value * hour) ** 2 for hour, size in zip(hours, sizes, strict=True))
    middle = statistics.fmean(hours)
    spread = sum((hour - middle) ** 2 for hour in hours)
    return Slope(value, (off / (len(samples) - 2) / spread) ** 0.5)


async def soak(seconds: float, tell: Callable[[str], None]) -> list[Sample]:
    """Play rounds for so long, at least one. Return what was seen after each.

    Args:
        seconds: how long.
        tell: is told of each round.

    Raises:
        Fault: something went wrong.
    """
    with tempfile.TemporaryFile() as log:
        async with AsyncExitStack() as stack:
            arguments = [word for setting in SETTINGS.items() for word in setting]
            started = await stack.enter_async_context(run.server(*arguments, log=log))
            server = ServerProcess(started.pid, started.port)
            link = stack.enter_context(running_link(server.host, server.port))
            played = Soak(started.url, server, link)
            await played.begin()
            until = time.monotonic() + seconds
            while not played.samples or time.monotonic() < until:
                rare = len(played.samples) % RARELY == RARELY - 1
                tell(await played.round(EVERY if rare else (WEBSOCKET,)))
        _check_log(log)
    return played.samples


def _check_log(log: IO[bytes]) -> None:
    log.seek(0)
    if errors := log.read().decode():
        raise Fault(f"the server's log has errors:\n{errors}")


async def _main(minutes: float) -> int:
    try:
        samples = await soak(minutes * 60, partial(print, flush=True))
    except Fault as fault:
        print(f"FAULT: {fault}")
        return 1
    warm = [sample for sample in samples if sample.at >= WARM_UP * samples[-1].at]
    print("all counters and descriptors were back after each round")
    if len(warm) < 3:
        print("too short to say how memory grows")
        return 0
    found = slope(warm)
    print(f"memory, over the {len(warm)} rounds after the warm-up: {found}")
    return int(found.value > MOST_GROWTH)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Plays mixed load, and looks what is left of it.")
    parser.add_argument("--minutes", type=float, default=10, help="how long [10]")
    try:
        sys.exit(asyncio.run(_main(parser.parse_args().minutes)))
    except KeyboardInterrupt:
        sys.exit(130)
