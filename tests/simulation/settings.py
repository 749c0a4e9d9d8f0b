"""What a simulation runs with, in one place: the configuration, and what may be held under it.

Rules of this file: every limit is near what the actors do, so that each is met in many runs. Spans
keep an order: the longest stall of a link is shorter than a client's way to notice it, and that is
shorter than the time for which a session is kept.
"""

from tokenwire.config import Config

CONFIG = Config(
    allowed_models=("*",),
    max_concurrent_streams=4,
    stream_timeout=25_000,
    first_token_timeout=8_000,
    idle_timeout=5_000,
    reconnect_timeout=12_000,
    backpressure_threshold=20,
    backpressure_notice_after=300,
    outbox_bytes=8 * 1024,
    log_bytes=8 * 1024,
    lane_bytes=2 * 1024,
    unconfirmed_bytes=2 * 1024,
    control_bytes=8 * 1024,
    replay_bytes=500,
    poll_bytes=8 * 1024,
    heartbeat_interval=3_000,
    heartbeat_timeout=2_000,
    connect_timeout=5_000,
    upgrade_timeout=2_000,
    close_timeout=1_000,
    header_timeout=3_000,
    body_timeout=5_000,
    write_timeout=5_000,
    keep_alive_timeout=8_000,
    shutdown_timeout=3_000,
)

ACTIVE = 30_000
"""For so long things are asked for, and go wrong. Spans are in ms."""
SETTLE = 50_000
"""Longer than a stream may run, and behind it its client's way back."""
EMPTY = 40_000
"""Longer than anything is kept of a client that has gone."""
LONGEST_STALL = 4_000
CERTAIN = CONFIG.reconnect_timeout - LONGEST_STALL - 1_000
"""A client that was out of touch for less must find its session."""

MODEL_READ = 4_096
"""The most that comes of a model's answer at once."""
WINDOW = 8_192
"""The most bytes that one socket takes of what its client does not read."""
MOST_UNREAD = CONFIG.log_bytes + CONFIG.poll_bytes + WINDOW + MODEL_READ
"""The most text that a model may say beyond what its client has: then it must be paused."""

SESSIONS_HELD = 32 * 1024
"""Most of what is held beside the streams: the events of all sessions that name none."""

ADDRESS_ENTRIES = 4
"""Entries that are kept of an address, so that it can be told from a flood."""

REFUSALS = ("too_many_streams", "rate_limited", "node_overloaded", "server_shutting_down")
"""Answers to a request that is in order: the client is to come back later."""


def most_held(text: int) -> int:
    """Return how many bytes a server may hold for a stream with so many bytes of text.

    A stream has its boundaries, 4 bytes for each token, and its events beside the text. Its log is
    looked at after each read of the model's answer.
    """
    most = CONFIG.log_bytes + CONFIG.lane_bytes + 5 * MODEL_READ
    return min(5 * text + 4 * CONFIG.lane_bytes, most)
