"""Everything that the core may ask of the world: one closed union.

A runtime matches on it and hands what is left, a ProgramEvent, to the program: a type checker then
names what it forgot.
Outputs keep their order.
"""

from typing import Literal

import msgspec

from tokenwire.types import ConnId, Request, StreamId, UpstreamRequest


class WantWrite(msgspec.Struct, frozen=True, gc=False):
    """There is something to pull for `conn`: call `data_to_send` while the socket has room.

    Edge-triggered: said once, until a pull has come back empty.
    """

    conn: ConnId


class PauseReading(msgspec.Struct, frozen=True):
    """Stop reading from the socket: the peer sends ahead of its answers."""

    conn: ConnId


class ResumeReading(msgspec.Struct, frozen=True):
    """Read from the socket again."""

    conn: ConnId


class Abort(msgspec.Struct, frozen=True):
    """Drop the socket now, without writing what waits. The only end that is out of band."""

    conn: ConnId
    reason: str


class StartUpstream(msgspec.Struct, frozen=True):
    """Send `request` to the model server and hand the answer back as `receive_upstream` etc."""

    stream: StreamId
    request: UpstreamRequest


class PauseUpstream(msgspec.Struct, frozen=True):
    """Stop reading the model's response, so that TCP slows the model."""

    stream: StreamId


class ResumeUpstream(msgspec.Struct, frozen=True):
    """Read the model's response again."""

    stream: StreamId


class CancelUpstream(msgspec.Struct, frozen=True):
    """Close the model's connection at once. No input about this stream is wanted any more."""

    stream: StreamId


class ProbeUpstream(msgspec.Struct, frozen=True):
    """Send `request` and answer with `upstream_probed`: is the model server up, what has it?"""

    request: UpstreamRequest


class HttpRequest(msgspec.Struct, frozen=True):
    """A request outside the protocol's own path: the program answers it with `respond`."""

    conn: ConnId
    request: Request


class Joining(msgspec.Struct, frozen=True):
    """A client asks to join one of the program's own namespaces: answer `admit` or `refuse`.

    Only with `Config.program_decides_joins`. No answer is an answer, after `connect_timeout`.
    """

    socket: str
    """The id that it will have."""
    namespace: str
    auth: object


class Connected(msgspec.Struct, frozen=True):
    """A client joined one of the program's own namespaces."""

    socket: str
    namespace: str
    auth: object
    """The payload with which it was let in, also when it is back."""
    recovered: bool = False
    """True: a socket that was Disconnected is back, in its rooms, and gets what it missed."""


class Event(msgspec.Struct, frozen=True):
    """A client sent an event in one of the program's own namespaces."""

    socket: str
    namespace: str
    name: str | int
    args: tuple[object, ...]
    ack_id: int | None
    """Not None: the client waits for `acknowledge(socket, ack_id, args)`."""


class Disconnected(msgspec.Struct, frozen=True):
    """A client left one of the program's own namespaces."""

    socket: str
    namespace: str
    reason: str
    may_return: bool = False
    """True: it is away, and either Connected again or Forgotten."""


class Forgotten(msgspec.Struct, frozen=True):
    """A socket that was Disconnected and might have come back is gone for good."""

    socket: str
    namespace: str


class Acknowledged(msgspec.Struct, frozen=True):
    """A client acknowledged an event of the program's."""

    socket: str
    ack_id: int
    args: tuple[object, ...]


class AckFailed(msgspec.Struct, frozen=True):
    """No acknowledgement of an event of the program's will come."""

    socket: str
    ack_id: int
    reason: Literal["timeout", "disconnected"]


class SessionOpened(msgspec.Struct, frozen=True):
    """An Engine.IO session is open. With `Config.protocol` "engine.io" only, as the next two."""

    session: str
    """Its sid, a secret of the client's."""


class Message(msgspec.Struct, frozen=True):
    """An Engine.IO session has received a message."""

    session: str
    data: str | bytes


class SessionClosed(msgspec.Struct, frozen=True):
    """An Engine.IO session is over."""

    session: str
    reason: str


class Stopped(msgspec.Struct, frozen=True):
    """The answer to `shut_down`: every stream has ended and every transport was told to close."""


class Notice(msgspec.Struct, frozen=True):
    """Something worth a log line or a counter. Holds no secret, no prompt and no address."""

    level: Literal["debug", "info", "warning"]
    event: str
    """A stable name, for filters."""
    fields: tuple[tuple[str, str | int], ...] = ()


ProgramEvent = (
    Joining
    | Connected
    | Event
    | Disconnected
    | Forgotten
    | Acknowledged
    | AckFailed
    | SessionOpened
    | Message
    | SessionClosed
)
"""What the program of a server hears of its clients."""

Output = (
    WantWrite
    | PauseReading
    | ResumeReading
    | Abort
    | StartUpstream
    | PauseUpstream
    | ResumeUpstream
    | CancelUpstream
    | ProbeUpstream
    | HttpRequest
    | ProgramEvent
    | Stopped
    | Notice
)
