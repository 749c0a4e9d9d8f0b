"""Everything that a client may ask of the world, or has to tell its program: one closed union."""

import msgspec

from tokenwire.outputs import Abort, WantWrite
from tokenwire.types import ConnId


class Dial(msgspec.Struct, frozen=True):
    """Open a socket to the server; say `connected`, or `connection_lost` if that fails.

    An `Abort` of the same connection may come first: then nobody waits for it any more.
    """

    conn: ConnId


class Joined(msgspec.Struct, frozen=True):
    """The client is in a namespace."""

    namespace: str
    sid: str
    recovered: bool
    """True: the server had kept the session; every missed event has come."""


class Refused(msgspec.Struct, frozen=True):
    """The server did not let the client into a namespace."""

    namespace: str
    error: object
    """The server's object, with a `message`."""


class Left(msgspec.Struct, frozen=True):
    """The client is out of a namespace."""

    namespace: str
    reason: str
    """The stock client's words: "transport close", "io server disconnect" ..."""
    detail: str = ""
    """For people, where there is more to say."""


class Event(msgspec.Struct, frozen=True):
    """The server sent an event."""

    namespace: str
    name: str | int
    args: tuple[object, ...]
    ack_id: int | None
    """Not None: the server waits for `acknowledge(namespace, ack_id, args)`."""


class Acknowledged(msgspec.Struct, frozen=True):
    """The server acknowledged an event."""

    namespace: str
    ack_id: int
    args: tuple[object, ...]


class AckTimedOut(msgspec.Struct, frozen=True):
    """No acknowledgement came: in time, or before the connection or the namespace was lost."""

    namespace: str
    ack_id: int


class ConnectFailed(msgspec.Struct, frozen=True):
    """An attempt to reach the server has failed."""

    reason: str
    """As Left's."""
    detail: str
    """For people."""


class Reconnecting(msgspec.Struct, frozen=True):
    """The client will try again."""

    attempt: int
    """1 for the first."""
    delay: int
    """Milliseconds until then."""


NamespaceEvent = Event | Joined | Left | Reconnecting | ConnectFailed | Refused
"""What a program sees go by that uses one namespace."""

ClientOutput = Dial | WantWrite | Abort | Acknowledged | AckTimedOut | NamespaceEvent
