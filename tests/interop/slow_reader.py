"""A stock client that stops reading in a long stream: the server's memory, the model, the others.

Rules of this file: the client is a process that is stopped (SIGSTOP) and woken; the server is a
process of its own; the others have a stream each whose tokens say when the model sent them. What is
asserted holds on any machine; the times are printed for a person to judge.

    cd tests && ../.venv/bin/python -m interop.slow_reader --tokens 400000 --runs 3
"""

import argparse
import asyncio
import hashlib
import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from interop.clients import HERE, require_packages
from interop.link import running_link
from runtimes.cancels import p99
from runtimes.loop_thread import LIMIT, LoopThread
from runtimes.scripted_ollama import (
    Pause,
    Send,
    Stamp,
    Step,
    done,
    running_ollama,
    token,
)
from runtimes.server_process import ServerProcess, server_process
from runtimes.server_thread import RUNTIMES
from tokenwire.client import Event
from tokenwire_asyncio.client import connect

GROWTH = 4 * 1024 * 1024
"""Bytes that the server may grow by."""
_PACE = 0.1  # seconds between two tokens of one of the others
_LINES = 100  # of the model in one write
_PATIENCE = 600.0  # seconds for the whole text, once the client is awake
_STILL = 0.5  # seconds in which a paused model sends nothing
_SAMPLE = 0.05  # seconds between two looks at the memory


class Flood(Sequence[Step]):
    """Numbered tokens, as fast as they are read. Made when they are sent: all of them are many."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return self.tokens // _LINES + 1

    def __getitem__(self, at: Any) -> Any:
        if at == self.tokens // _LINES:
            return Send(done())
        if at > self.tokens // _LINES:
            raise IndexError
        return Send(b"".join(map(token, self._texts(at))))

    def _texts(self, at: int) -> list[str]:
        return [f"{number} " for number in range(at * _LINES, (at + 1) * _LINES)]

    def sha256(self) -> str:
        """Return the hash of the whole text."""
        text = hashlib.sha256()
        for at in range(self.tokens // _LINES):
            text.update("".join(self._texts(at)).encode())
        return text.hexdigest()


class SlowClient:
    """`slow_client.mjs`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def said(self, seconds: float) -> dict[str, Any] | None:
        """Return the next thing that it says; None: nothing within the time."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return None
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said


@contextmanager
def slow_client(port: int, prompt: str) -> Iterator[SlowClient]:
    require_packages()
    with subprocess.Popen(
        ("node", "slow_client.mjs", f"http://127.0.0.1:{port}/ai", prompt),
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield SlowClient(process)
        finally:
            process.kill()


class Others:
    """Clients with a steady stream each, and how late its tokens are."""

    def __init__(self, port: int, count: int) -> None:
        self._url = f"http://127.0.0.1:{port}/ai"
        self._late: list[float] = []
        self._thread = LoopThread("others")
        self._started = asyncio.Semaphore(0)
        self._tasks = self._thread.run(self._start(count))

    async def _start(self, count: int) -> list[asyncio.Task[None]]:
        tasks = [asyncio.ensure_future(self._listen()) for _ in range(count)]
        for _ in range(count):
            await self._started.acquire()
        return tasks

    async def _listen(self) -> None:
        async with connect(self._url, transports=("websocket",)) as socket:
            socket.emit("ai:stream", {"prompt": "drip", "useOrchestrator": False})
            async for event in socket:
                if isinstance(event, Event) and event.name == "ai:stream:start":
                    self._started.release()
                if isinstance(event, Event) and event.name == "ai:token":
                    now, payload = time.monotonic_ns(), event.args[0]
                    assert isinstance(payload, dict)
                    self._late += [(now - int(sent)) / 1e9 for sent in payload["data"].split()]

    def late(self) -> list[float]:
        """Return the seconds that each token took since this was asked last."""
        taken, self._late = self._late, []
        return taken

    def close(self) -> None:
        self._thread.run(self._end())
        self._thread.close()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextmanager
def others_at(port: int, count: int) -> Iterator[Others]:
    others = Others(port, count)
    try:
        yield others
    finally:
        others.close()


@dataclass
class Figures:
    """What was measured."""

    before: list[float]
    """Seconds that tokens of the others took before the slow client came."""
    asleep: list[float]
    """The same while it slept."""
    awake: list[float]
    """And while it caught up."""
    sent: int
    """Bytes that the model had sent while it slept."""
    growth: int
    """Bytes that the server had more while it slept, at most."""
    growth_awake: int
    """And while it caught up."""
    end: dict[str, Any]
    """What it said at the end."""
    seconds: float
    """That it took to catch up."""


def measure(
    runtime: str, *, tokens: int, others: int, seconds: float, lost: bool = False
) -> Figures:
    """Let a client sleep in a stream, and wake it.

    Args:
        runtime: the server's, a name of RUNTIMES.
        tokens: of its stream.
        others: how many other clients there are.
        seconds: how long it sleeps, and how long the others are watched before.
        lost: True: its connection is reset while it sleeps.

    Raises:
        AssertionError: the model was not held up, or the client has not got the model's text.
    """
    flood = Flood(tokens)
    with (
        running_ollama() as ollama,
        server_process(ollama.url, runtime) as server,
        running_link(server.host, server.port) as link,
        ExitStack() as running,
    ):
        ollama.scripts = {"flood": flood}
        ollama.default = [Stamp(), Pause(_PACE)] * 10_000
        crowd = running.enter_context(others_at(server.port, others))
        crowd.late()
        _watch(server, seconds)
        before, resident = crowd.late(), server.resident()
        with slow_client(link.port if lost else server.port, "flood") as client:
            assert client.said(LIMIT) == {"name": "first"}
            client.stop()
            request = ollama.request_for("flood")
            request.wait_held_up(_STILL)
            crowd.late()
            most = _watch(server, seconds)
            asleep = crowd.late()
            sent = request.sent
            if lost:
                link.cut()
                link.mend()
            client.wake()
            woken, most_awake, end = time.monotonic(), most, None
            while end is None:
                assert time.monotonic() - woken < _PATIENCE, "the text does not come to its end"
                end = client.said(_SAMPLE)
                most_awake = max(most_awake, server.resident())
            took, awake = time.monotonic() - woken, crowd.late()
    assert end["name"] == "done", end
    assert end["sha256"] == flood.sha256(), "the text is not the model's"
    assert end["totalTokens"] == tokens
    assert sent < request.sent / 2, "the model was not paused"
    assert end["recoveries"] >= lost, "it was not lost"
    return Figures(before, asleep, awake, sent, most - resident, most_awake - resident, end, took)


def _watch(server: ServerProcess, seconds: float) -> int:
    """Look at a server for a while. Return the most memory that it had."""
    until, most = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        most = max(most, server.resident())
        time.sleep(_SAMPLE)
    return most


def _row(seconds: float, found: Figures) -> str:
    cells = (
        f"{seconds:.0f}",
        *(f"{size / 2**20:.2f}" for size in (found.sent, found.growth, found.growth_awake)),
        *(f"{1000 * p99(late):.1f}" for late in (found.before, found.asleep, found.awake)),
        f"{found.end['recoveries']}",
        f"{found.end['events']}",
        f"{found.seconds:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="Let a client sleep in a long stream.")
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--others", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, nargs="+", default=[4.0, 24.0])
    parser.add_argument("--runtime", choices=list(RUNTIMES), default="asyncio")
    options = parser.parse_args()
    print(
        "| asleep s | model sent MB | server grew MB | and awake | others' p99 before ms | asleep "
        "| awake | recoveries | events | awake s |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    bounded = True
    for seconds in options.seconds:
        for _ in range(options.runs):
            found = measure(
                options.runtime, tokens=options.tokens, others=options.others, seconds=seconds
            )
            bounded = bounded and found.growth < GROWTH
            print(_row(seconds, found), flush=True)
    return 0 if bounded else 1


if __name__ == "__main__":
    sys.exit(main())
