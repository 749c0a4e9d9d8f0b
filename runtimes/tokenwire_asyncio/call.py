"""A request to the model server, as the core steers it."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from tokenwire.types import StreamId, UpstreamRequest


class Limits(NamedTuple):
    """What holds for all requests."""

    connect_timeout: float
    """Seconds."""
    probe_timeout: float
    """Seconds for all of a probe."""
    receive_buffer: int
    """Bytes that the kernel may take of a paused model's text."""
    piece: int
    """Bytes of an answer that go to the core between two turns of the loop."""


class Call(Protocol):
    """One request that is under way."""

    gone: asyncio.Event
    """Set when nothing of it is left."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cancel(self) -> None:
        """Close the connection at once."""
        ...


class Client(Protocol):
    """What asks the model server, and tells the core what it answers."""

    def call(
        self, stream: StreamId, request: UpstreamRequest, ended: Callable[[StreamId], None]
    ) -> Call:
        """Begin a stream's request. `ended` is told when nothing of it is left."""
        ...

    async def probe(self, request: UpstreamRequest) -> None:
        """Look what the model server offers, and say `upstream_probed` once."""
        ...
