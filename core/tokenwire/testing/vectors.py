"""Session vectors: what a client does, and what must come back, as data.

Rules of this file: a vector speaks of bytes, packets, HTTP and the clock, never of a class of ours.
The structs here are the format; `spec/schema/session-1.json` is made from them. In any text,
`${name}` stands for what was seen where it first appeared in an expectation, `${x*1000}` for a
thousand x.
"""

from typing import Literal

import msgspec


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do"):
    """Base of all steps."""


class Connect(_Step, frozen=True, tag="connect"):
    """Open a TCP connection and name it."""

    link: str


class Send(_Step, frozen=True, tag="send"):
    """Send raw bytes: the text, and behind it what the hexadecimal says."""

    link: str
    text: str = ""
    hex: str = ""
    times: int = 1
    """So often, in one write."""


class Request(_Step, frozen=True, tag="request"):
    """Send an HTTP request; Host and Content-Length are added where they are not given."""

    link: str
    method: str
    target: str
    headers: dict[str, str] = {}
    body: str = ""
    hex: str = ""
    """More of the body, behind the text."""


class Upgrade(_Step, frozen=True, tag="upgrade"):
    """Send a WebSocket handshake."""

    link: str
    target: str
    headers: dict[str, str] = {}


class SendFrame(_Step, frozen=True, tag="frame"):
    """Send a masked WebSocket frame: a text one, a binary one, or any."""

    link: str
    text: str | None = None
    binary: str | None = None
    """Hexadecimal."""
    opcode: int | None = None
    hex: str = ""
    """The payload, if the opcode is given."""
    fin: bool = True
    masked: bool = True
    rsv: int = 0
    """The three reserved bits, the first of them 4."""
    times: int = 1
    """So often, in one write."""


class Eof(_Step, frozen=True, tag="eof"):
    """End one's own side of the connection."""

    link: str


class Drop(_Step, frozen=True, tag="drop"):
    """Lose the connection."""

    link: str


class Stop(_Step, frozen=True, tag="stop"):
    """Read no more: what the server writes from now on finds no room."""

    link: str


class Read(_Step, frozen=True, tag="read"):
    """Read again."""

    link: str


class Wait(_Step, frozen=True, tag="wait"):
    """Let time pass."""

    ms: int


class ExpectedResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An HTTP response: what is given must be so."""

    status: int
    headers: dict[str, str | None] = {}
    """None: the field must not be there."""
    body: str | None = None
    packets: tuple[str, ...] | None = None
    """The body as a polling payload."""
    head: bool = False
    """True: it answers a HEAD request."""


class ExpectedFrame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frame: one of these is given."""

    text: str | None = None
    binary: str | None = None
    pong: str | None = None
    close: int | None = None
    """The code; 0: there is none."""


class Expect(_Step, frozen=True, tag="expect"):
    """What must have come on a connection, in order, and nothing else before it."""

    link: str
    response: ExpectedResponse | None = None
    frames: tuple[ExpectedFrame, ...] | None = None
    nothing: bool = False
    """True: nothing more has come."""
    end: bool = False
    """True: the server has ended the connection."""
    open: bool = False
    """True: it has not."""


Step = Connect | Send | Request | Upgrade | SendFrame | Eof | Drop | Stop | Read | Wait | Expect


class ServerOptions(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True
):
    """How the server under test is set up. Its program is the fixture of `spec/README.md`."""

    ping_interval: int = 300
    ping_timeout: int = 200
    connect_timeout: int = 1_000
    upgrade_timeout: int = 1_000
    max_payload: int = 1_000_000
    namespaces: tuple[str, ...] = ("/", "/custom")
    namespace_patterns: tuple[str, ...] = ()
    """Regular expressions."""
    program_decides_joins: bool = False
    """True: the program answers each CONNECT, as the fixture's program does."""
    recovery_timeout: int | None = None
    """How long a lost socket may come back; null: there is no connection state recovery."""
    origins: tuple[str, ...] = ("http://allowed.example",)
    credentials: bool = True


class Vector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One vector."""

    id: str
    """Never reused."""
    title: str
    requirements: tuple[str, ...]
    steps: tuple[Step, ...]
    server: ServerOptions = ServerOptions()
    flags: tuple[Literal["malformed", "hostile", "virtual-time"], ...] = ()
    """`virtual-time`: too long or too exact for a real clock, or needs a socket without buffers of
    its own; only players with virtual ones run it."""


class VectorFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of vectors."""

    format: Literal["session-1"]
    vectors: tuple[Vector, ...]


def load(data: bytes) -> VectorFile:
    """Return the vectors of a file.

    Raises:
        msgspec.ValidationError: the file does not follow the format.
    """
    return msgspec.json.decode(data, type=VectorFile)


def schema() -> dict[str, object]:
    """Return the JSON Schema of a file of vectors."""
    return msgspec.json.schema(VectorFile)
