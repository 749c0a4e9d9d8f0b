"""The server under test, run by one of the runtimes in a thread of its own.

Rules of this file: `RUNTIMES` names all that is known about a runtime; tests know a `Control` and
no more. Another runtime is one more entry, and every test of the runtimes then runs for it too.
What goes wrong in the runtime's thread, in a callback too, is raised at the end of the test.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Protocol, TypeVar

import anyio
import tokenwire_anyio
import tokenwire_asyncio
import uvloop
from anyio.from_thread import start_blocking_portal
from runtimes.loop_thread import LIMIT, LoopThread
from runtimes.stepped_clock import SteppedClock, SteppedLoop
from tokenwire import Config, Server
from tokenwire.outputs import Notice
from tokenwire_asyncio.upstream import UpstreamClient

_TURNS = 8
T = TypeVar("T")
Callbacks = dict[str, Callable[[Any], Any]]
"""The program's: `respond`, `handle`, `notify`, as the runtimes name them."""


class SystemIds:
    """Identifiers from the operating system."""

    def random_bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)


async def _turn() -> None:
    # A connection takes the most: it is readable, read, answered, closed, and told that it is.
    for _ in range(_TURNS):
        await anyio.sleep(0)


class Control(Protocol):
    """A running server."""

    core: Server
    host: str
    port: int
    notices: list[Notice]

    def call(self, work: Callable[[], T]) -> T:
        """Call a function in the thread of the event loop."""
        ...

    def turn(self) -> None:
        """Return when the event loop has gone round a few times: what it could do is done."""
        ...

    def shut_down(self) -> None:
        """Shut down as a program does, and return when it is over."""
        ...

    def begin_shut_down(self) -> None:
        """Shut down as a program does, and return at once."""
        ...

    def close(self) -> None:
        """End at once; raise what went wrong meanwhile. Harmless when done before."""
        ...


class Launch(Protocol):
    """Starts a runtime."""

    def __call__(
        self,
        core: Server,
        upstream_url: str,
        callbacks: Callbacks,
        *,
        clock: SteppedClock | None = None,
    ) -> Control: ...


class AsyncioControl:
    """tokenwire_asyncio in a thread."""

    def __init__(
        self,
        core: Server,
        upstream_url: str,
        callbacks: Callbacks,
        *,
        client: UpstreamClient = "auto",
        clock: SteppedClock | None = None,
        loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    ) -> None:
        self.core = core
        self.host = "127.0.0.1"
        self.notices: list[Notice] = []
        self._closed = False
        self._ending: Future[None] | None = None
        self._thread = LoopThread("tokenwire asyncio", SteppedLoop(clock) if clock else loop())
        self._runtime = self._thread.run(self._start(upstream_url, client, callbacks))
        self.port = self._runtime.port

    async def _start(
        self, upstream_url: str, client: UpstreamClient, callbacks: Callbacks
    ) -> tokenwire_asyncio.Runtime:
        options: dict[str, Any] = {"notify": self.notices.append, **callbacks}
        runtime = tokenwire_asyncio.Runtime(
            self.core, upstream_url=upstream_url, upstream_client=client, **options
        )
        await runtime.start(self.host, 0)
        return runtime

    def call(self, work: Callable[[], T]) -> T:
        return self._thread.call(work)

    def turn(self) -> None:
        self._thread.run(_turn())

    def shut_down(self) -> None:
        self.begin_shut_down()
        assert self._ending is not None
        self._ending.result(LIMIT)

    def begin_shut_down(self) -> None:
        self._ending = self._thread.start(self._runtime.shut_down())

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._ending is not None:
            self._ending.cancel()
        try:
            self._thread.run(self._runtime.aclose())
        finally:
            self._thread.close()


class AnyioControl:
    """tokenwire_anyio in a thread."""

    def __init__(
        self,
        core: Server,
        upstream_url: str,
        callbacks: Callbacks,
        *,
        backend: str,
        client: UpstreamClient = "auto",
        clock: SteppedClock | None = None,
    ) -> None:
        self.core = core
        self.host = "127.0.0.1"
        self.notices: list[Notice] = []
        self._ending = ExitStack()
        options = _OPTIONS[backend](clock) if clock else {}
        self._portal = self._ending.enter_context(start_blocking_portal(backend, options))
        self._runtime = self._portal.call(self._make, upstream_url, client, callbacks)
        self._running, self.port = self._portal.start_task(self._runtime.run, self.host, 0)

    async def _make(
        self, upstream_url: str, client: UpstreamClient, callbacks: Callbacks
    ) -> tokenwire_anyio.Runtime:
        options: dict[str, Any] = {"notify": self.notices.append, **callbacks}
        return tokenwire_anyio.Runtime(
            self.core, upstream_url=upstream_url, upstream_client=client, **options
        )

    def call(self, work: Callable[[], T]) -> T:
        return self._portal.call(work)

    def turn(self) -> None:
        self._portal.call(_turn)

    def shut_down(self) -> None:
        self.begin_shut_down()
        self._running.result(LIMIT)

    def begin_shut_down(self) -> None:
        self._portal.call(self._runtime.shut_down)

    def close(self) -> None:
        with self._ending:
            if not self._running.done():
                self._running.cancel()
            with suppress(CancelledError):
                self._running.result(LIMIT)


_OPTIONS: dict[str, Callable[[SteppedClock], dict[str, Any]]] = {
    "asyncio": lambda clock: {"loop_factory": lambda: SteppedLoop(clock)},
    "trio": lambda clock: {"clock": clock},
}
"""How each of anyio's backends is given a clock."""

RUNTIMES: dict[str, Launch] = {
    "asyncio": AsyncioControl,
    "anyio-asyncio": partial(AnyioControl, backend="asyncio"),
    "anyio-trio": partial(AnyioControl, backend="trio"),
}

VARIATIONS: dict[str, Launch] = {
    "asyncio-httpx": partial(AsyncioControl, client="httpx"),
    "anyio-trio-httpx": partial(AnyioControl, backend="trio", client="httpx"),
    "asyncio-uvloop": partial(AsyncioControl, loop=uvloop.new_event_loop),
}
"""The same with other means: httpx for any address, another loop behind asyncio's interface."""


@contextmanager
def running_server(
    upstream_url: str,
    config: Config | None = None,
    *,
    runtime: str = "asyncio",
    **callbacks: Callable[[Any], Any],
) -> Iterator[Control]:
    """A server for one test.

    Args:
        upstream_url: where the model server is.
        config: the core's configuration.
        runtime: a name of RUNTIMES or of VARIATIONS.
        callbacks: the program's.
    """
    control = (RUNTIMES | VARIATIONS)[runtime](
        Server(config or Config(), ids=SystemIds()), upstream_url, callbacks
    )
    try:
        yield control
    finally:
        control.close()


__all__ = ["LIMIT", "RUNTIMES", "VARIATIONS", "Control", "running_server"]
