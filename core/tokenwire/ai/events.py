"""Every event that the server sends: one struct each, camelCase on the wire.

Rules of this file: an event is the JSON array of its name and one object; a field with a default is
left out while it has it. Nothing that a client sent is echoed but its streamId.
"""

from typing import ClassVar

import msgspec

from tokenwire.wire import json

PROTOCOL = "1.0"


class Event(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Base of all events."""

    NAME: ClassVar[str]

    def encode(self) -> bytes:
        """Return the event as its JSON array."""
        return b'["%b",%b]' % (self.NAME.encode(), json.encode(self))


class Connected(Event, frozen=True):
    NAME: ClassVar[str] = "ai:connected"
    client_id: str
    max_concurrent_streams: int
    backpressure_threshold: int
    heartbeat_interval: int
    reconnect_timeout: int
    protocol: str
    recovered: bool


class StreamStart(Event, frozen=True):
    NAME: ClassVar[str] = "ai:stream:start"
    stream_id: str
    epoch: str
    model: str
    resumed: bool = False


class Routing(msgspec.Struct, frozen=True, rename="camel"):
    """A runner-up of the routing."""

    agent: str
    intent: str
    confidence: float


class TokenMetadata(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a token says besides its text. The routing comes with the first token only."""

    model: str
    tokens: int = 1
    replayed: bool = False
    skipped: int = 0
    thinking: bool = False
    intent: str | None = None
    confidence: float | None = None
    runners_up: list[Routing] | None = None
    reasons: list[str] | None = None


class Thinking(Event, frozen=True):
    """Thinking text: an `ai:token` outside `seq` and the log."""

    NAME: ClassVar[str] = "ai:token"
    stream_id: str
    data: str
    agent: str
    token_count: int
    metadata: TokenMetadata


class CompleteMetadata(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Times in milliseconds. `finishReason` is the model server's own word."""

    finish_reason: str
    prompt_tokens: int
    eval_tokens: int
    queue_ms: int
    route_ms: int
    time_to_first_token_ms: int | None
    tokens_per_second: float
    merged_events: int
    paused_ms: int
    resumes: int
    tool_calls: list[msgspec.Raw] | None = None


class StreamComplete(Event, frozen=True):
    NAME: ClassVar[str] = "ai:stream:complete"
    stream_id: str
    agent: str
    intent: str
    confidence: float
    metadata: CompleteMetadata


class Done(Event, frozen=True):
    NAME: ClassVar[str] = "ai:done"
    stream_id: str
    total_tokens: int
    duration: int


class StreamCancelled(Event, frozen=True):
    NAME: ClassVar[str] = "ai:stream:cancelled"
    stream_id: str


class StreamError(Event, frozen=True):
    """What ends a stream after its start."""

    NAME: ClassVar[str] = "ai:stream:error"
    stream_id: str
    error: str
    code: str
    details: str
    retryable: bool


class Error(Event, frozen=True):
    """A request refused before a stream starts, and everything without a stream."""

    NAME: ClassVar[str] = "ai:error"
    error: str
    code: str
    details: str
    retryable: bool
    retry_after_ms: int | None = None
    field: str | None = None
    stream_id: str | None = None
    first_seq: int | None = None


class HeartbeatAck(Event, frozen=True):
    NAME: ClassVar[str] = "ai:heartbeat:ack"
    active_streams: int
    queue_size: int
    streams: dict[str, int]


class ResumedStream(msgspec.Struct, frozen=True, rename="camel"):
    stream_id: str
    state: str
    next_seq: int
    first_seq: int
    epoch: str


class ReconnectSuccess(Event, frozen=True):
    NAME: ClassVar[str] = "ai:reconnect:success"
    previous_client_id: str
    new_client_id: str
    streams: list[ResumedStream]
    replaced: list[str] | None = None


class Backpressure(Event, frozen=True):
    NAME: ClassVar[str] = "ai:backpressure"
    message: str
    queue_size: int
    stream_id: str
    policy: str
