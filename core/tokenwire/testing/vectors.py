"""Session vectors: what a client and a model server do, and what must come back, as data.

Rules of this file: a vector speaks of the client, the model server and the clock, in bytes, packets
and HTTP, never of a class of ours. The structs here are the format; `spec/schema/session-1.json` is
made from them. In any text, `${name}` stands for what was seen where it first appeared in an
expectation, `${x*1000}` for a thousand x. In expected JSON the string `${any}` stands for any
value.
"""

from typing import Any, Literal

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


class Shutdown(_Step, frozen=True, tag="shutdown"):
    """Tell the server to end, as SIGTERM does: for the next vector there is a new one."""


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


class Asked(_Step, frozen=True, tag="asked"):
    """The model server must have been asked for one more stream; name the request."""

    model: str
    body: dict[str, Any] = {}
    """Fields that its JSON must have, with these values. There may be others."""
    headers: dict[str, str | None] = {}
    """Header fields that it must have. None: the field must not be there."""
    nothing: bool = False
    """True: the server must not have asked."""


class Answer(_Step, frozen=True, tag="answer"):
    """The model server answers with 200, or goes on answering, in one write."""

    model: str
    lines: tuple[dict[str, Any], ...] = ()
    """Each is a line of NDJSON."""
    text: str = ""
    """Raw bytes behind them."""
    times: int = 1
    """So often."""


class Refuse(_Step, frozen=True, tag="refuse"):
    """The model server answers with another status, wholly."""

    model: str
    status: int
    body: str = ""


class Finish(_Step, frozen=True, tag="finish"):
    """The model server's answer ends as HTTP says."""

    model: str


class Break(_Step, frozen=True, tag="break"):
    """The model server's connection is lost."""

    model: str


class Cancelled(_Step, frozen=True, tag="cancelled"):
    """The server must have closed the model server's connection before the answer ended."""

    model: str


ClientStep = Connect | Send | Request | Upgrade | SendFrame | Eof | Drop | Stop | Read | Expect
ModelStep = Asked | Answer | Refuse | Finish | Break | Cancelled
Step = ClientStep | ModelStep | Wait | Shutdown


class AiOptions(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True
):
    """How the AI protocol's namespace `/ai` is set up, and the model server behind it."""

    max_concurrent_streams: int = 10
    stream_timeout: int = 300_000
    first_token_timeout: int = 180_000
    idle_timeout: int = 60_000
    reconnect_timeout: int = 30_000
    backpressure_threshold: int = 100
    memory_bytes: int = 512 * 1024 * 1024
    slow_consumer_timeout: int = 20_000
    messages_per_second: int = 20
    message_burst: int = 40
    stream_starts_per_minute: int = 30
    takeovers_per_minute: int = 30
    backpressure_policy: Literal["merge", "pause", "skip"] = "merge"
    stream_rate_limit: int | None = None
    """Tokens a second; null: any."""
    default_model: str = "codellama"
    allowed_models: tuple[str, ...] = ()
    """(): those that the model server offers; ("*",): any."""
    offered_models: tuple[str, ...] = ("codellama:latest", "llama3.2:1b")
    recovery: bool = False
    """True: connection state recovery, for every client."""
    model_server: bool = True
    """False: nothing answers at the model server's address."""


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
    max_sessions: int = 10_000
    max_sessions_per_address: int = 50
    handshakes_per_second: int = 10
    """Of one address."""
    handshake_burst: int = 50
    guesses_per_minute: int = 20
    """Of one address."""
    trusted_proxies: tuple[str, ...] = ()
    """Whose X-Forwarded-For and Forwarded count: addresses and networks."""
    shutdown_timeout: int = 10_000
    """How long running streams may take after a `shutdown`."""
    ai: AiOptions | None = None
    """None: there is no `/ai`."""


class Vector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One vector."""

    id: str
    """Never reused."""
    title: str
    requirements: tuple[str, ...]
    steps: tuple[Step, ...]
    server: ServerOptions = ServerOptions()
    flags: tuple[Literal["malformed", "hostile", "virtual-time", "virtual-socket"], ...] = ()
    """`virtual-time`: too long or too exact for a clock that the player cannot move.
    `virtual-socket`: needs a socket that takes nothing while its client does not read; a real one
    has buffers."""


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
