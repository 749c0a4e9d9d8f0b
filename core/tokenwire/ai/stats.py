"""The counters since the start, under the names that servers of this API use."""

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
