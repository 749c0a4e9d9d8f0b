"""A request to the model server, as the core steers it."""

import asyncio
from typing import NamedTuple, Protocol


class Limits(NamedTuple):
    """What holds for all requests."""

    connect_timeout: float
    """Seconds."""
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
