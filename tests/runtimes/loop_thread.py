"""An event loop in a thread of its own, for what a test runs beside itself.

Rules of this file: every wait has a limit; what goes wrong in a callback is kept and raised by
`close`, so that no failure in the background stays unseen.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

LIMIT = 10.0
"""Seconds after which a wait of a test has failed."""

T = TypeVar("T")


async def stop_listening(listener: asyncio.Server) -> None:
    """Close a listener. No connection is half accepted then.

    asyncio loses a socket, open, that it has accepted but not wrapped yet when its listener closes
    (CPython gh-109564): so accept no more first, and let it finish.
    """
    loop = asyncio.get_running_loop()
    for listening in listener.sockets:
        loop.remove_reader(listening.fileno())
    for _ in range(3):
        await asyncio.sleep(0)
    listener.close()


class LoopThread:
    """Runs coroutines for a test that is not one itself."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.failures: list[str] = []
        """What the loop's exception handler was told."""
        self.loop = loop or asyncio.new_event_loop()
        self.loop.set_exception_handler(self._failed)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")

    def run(self, work: Coroutine[Any, Any, T], limit: float = LIMIT) -> T:
        """Run a coroutine on the loop and return what it returns."""
        future = self.start(work)
        try:
            return future.result(limit)
        except TimeoutError:
            future.cancel()
            raise

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop, and return at once."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def call(self, work: Callable[[], T], limit: float = LIMIT) -> T:
        """Call a function on the loop and return what it returns."""

        async def called() -> T:
            return work()

        return self.run(called(), limit)

    def close(self) -> None:
        """Cancel what still runs, stop the loop, and raise if anything had gone wrong on it."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            for _ in range(3):  # what was closed is told so by callbacks
                await asyncio.sleep(0)
            await self.loop.shutdown_asyncgens()
            await self.loop.shutdown_default_executor()

        self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        self.loop.close()
        assert self.failures == [], self.failures
