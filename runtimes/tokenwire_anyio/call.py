"""A request to the model server, as the core steers it."""

import abc
from typing import NamedTuple, Protocol

import anyio
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


class Call(abc.ABC):
    """One request that is under way."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        """What it runs in."""
        self.gate = anyio.Event()
        """Set while its answer may be read."""
        self.gate.set()

    @abc.abstractmethod
    async def run(self) -> None:
        """Send the request, hand on the answer, and tell the core how it ended."""

    def pause(self) -> None:
        self.gate = anyio.Event()

    def resume(self) -> None:
        self.gate.set()

    def cancel(self) -> None:
        """Close the connection at once."""
        self.scope.cancel()


class Client(Protocol):
    """What asks the model server, and tells the core what it answers."""

    def call(self, stream: StreamId, request: UpstreamRequest) -> Call:
        """Return a stream's request, to be run."""
        ...

    async def probe(self, request: UpstreamRequest) -> None:
        """Look what the model server offers, and say `upstream_probed` once."""
        ...
