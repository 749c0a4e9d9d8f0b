"""Counters since start, under the names that servers of this API use."""

import msgspec


class Stats(msgspec.Struct, frozen=True, rename="camel"):
    """A snapshot. Times in milliseconds, sizes in bytes."""

    total_streams: int
    total_tokens_streamed: int
    total_sessions: int
    active_sessions: int
    total_active_streams: int
    average_stream_duration: float
    backpressure_events: int
    merged_events: int
    paused_ms: int
    skipped_tokens: int
    detaches: int
    resumes: int
    cancels: int
    errors: dict[str, int]
    bytes_held: int
    memory_bound: int
    evictions: int


class Counters(msgspec.Struct):
    """What is counted as it happens."""

    streams: int = 0
    tokens: int = 0
    ended: int = 0
    ended_ms: int = 0
    backpressure_events: int = 0
    merged_events: int = 0
    paused_ms: int = 0
    skipped_tokens: int = 0
    detaches: int = 0
    resumes: int = 0
    cancels: int = 0
    evictions: int = 0
    errors: dict[str, int] = msgspec.field(default_factory=dict)

    def error(self, code: str) -> None:
        self.errors[code] = self.errors.get(code, 0) + 1
