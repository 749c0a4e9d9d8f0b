"""Every limit of the core, named once, its precedent in a comment.

Spans are in milliseconds, sizes in bytes unless the name says otherwise.
"""

import ipaddress
import re
from typing import Literal

import msgspec

from tokenwire.errors import LocalProtocolError

_SESSION_BYTES = 8 * 1024  # what a session takes beside what is named here


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The core's configuration. The defaults are the seed's where it names one.

    Raises:
        LocalProtocolError: a value that makes no sense, named with what would.
    """

    # -- the AI protocol ---------------------------------------------------------------------------
    max_concurrent_streams: int = 10  # the seed's
    stream_timeout: int = 300_000  # the seed's
    first_token_timeout: int = 180_000  # covers queueing and loading at the model server
    idle_timeout: int = 60_000  # silence between two pieces of a stream
    reconnect_timeout: int = 30_000  # the seed's
    messages_per_second: int = 20  # of one client; Centrifugo's are off
    message_burst: int = 40  # at once: what a page has buffered while it was offline
    flood_factor: int = 10  # so many times as many: the client is disconnected
    refusal_interval: int = 1_000  # between two refusals that a client is told of
    stream_starts_per_minute: int = 30  # of one client; all at once after a rest
    joins_per_minute: int = 10  # of /ai, on one connection: each begins with new limits
    takeovers_per_minute: int = 30  # of one session, from a connection that is there
    backpressure_threshold: int = 100  # tokens; the seed's
    backpressure_notice_after: int = 500  # a reader that recovers sooner is not told
    backpressure_policy: Literal["merge", "pause", "skip"] = "merge"  # the seed skips tokens
    stream_rate_limit: int | None = None  # tokens a second towards the client; None: none
    outbox_bytes: int = 256 * 1024  # text not yet handed over, per client; Centrifugo: 1 MiB
    outbox_burst_bytes: int = 4 * 1024 * 1024  # before the transport was asked to take it
    log_bytes: int = 1024 * 1024  # per stream: text and boundaries
    lane_bytes: int = 64 * 1024  # per stream: its events beside the tokens, thinking above all
    unconfirmed_bytes: int = 256 * 1024  # of text handed over, maybe not arrived: not evicted
    control_bytes: int = 64 * 1024  # per session: its events that name no stream
    recovery: Literal["auto", "on", "off"] = "auto"  # on /ai; auto: not for python-socketio
    memory_bytes: int = 512 * 1024 * 1024  # for the streams of all clients; Centrifugo: none
    ended_streams_kept: int = 16  # per client, within the grace period
    ended_streams_in_doubt: int = 64  # of those: handed over, and no ping answered since
    replay_bytes: int = 16 * 1024  # the largest piece of a replay
    default_model: str = "codellama"  # the seed's
    allowed_models: tuple[str, ...] = ()  # (): what the model server offers; ("*",): any name
    prompt_chars: int = 32_768
    max_tokens: int = 8_192
    context_bytes: int = 64 * 1024
    context_depth: int = 8
    context_keys: int = 64
    upstream_line_bytes: int = 1024 * 1024  # /api/chat sends no `context`: lines are short
    token_chars: int = 16 * 1024  # of one token; a longer piece of text counts as several
    upstream_probe_interval: int = 10_000
    tool_call_bytes: int = 64 * 1024
    shutdown_timeout: int = 10_000  # for running streams, after a shutdown was asked for

    # -- Engine.IO and Socket.IO -------------------------------------------------------------------
    protocol: Literal["socket.io", "engine.io"] = "socket.io"  # engine.io: sessions and no more
    path: str = "/socket.io/"
    ai_namespace: str | None = "/ai"  # None: no AI protocol, a plain Socket.IO server
    namespaces: tuple[str, ...] = ("/",)  # the program's own; "/" exists on every Node server
    # Regular expressions of more of them. They are tried on names from peers, so none may backtrack
    # without end: no repetition of what is itself repeated.
    namespace_patterns: tuple[str, ...] = ()
    namespace_chars: int = 128  # the longest name that a pattern is tried on
    max_namespaces: int = 64  # that one client is in
    connect_bytes: int = 16 * 1024  # of a CONNECT; its payload waits until the program has decided
    program_decides_joins: bool = False  # True: each Joining needs an `admit` or a `refuse`
    recovery_timeout: int | None = None  # how long a lost socket may return; None: it cannot (Node)
    recovery_bytes: int = 256 * 1024  # of the latest events, per socket
    max_lost_sockets: int = 10_000  # that may return; the one lost first makes room
    max_lost_per_address: int = 100  # of them, and of clients of /ai that are away
    heartbeat_interval: int = 30_000  # pingInterval; the seed's (Node: 25,000)
    heartbeat_timeout: int = 20_000  # pingTimeout; Node's
    # A transport that takes nothing of what it is offered for so long is dropped. As pingTimeout: a
    # kernel shows a slow reader's progress in steps of 100 KB and more (docs/slow-readers.md).
    slow_consumer_timeout: int = 20_000
    max_payload: int = 1_000_000  # Node's maxHttpBufferSize
    connect_timeout: int = 45_000  # Node's connectTimeout
    upgrade_timeout: int = 10_000  # Node's upgradeTimeout
    close_timeout: int = 5_000  # a peer that does not answer a close; ws: 30,000
    max_attachments: int = 10  # socket.io-parser 4.2.6
    max_packets_per_post: int = 16_384  # Node: none but maxPayload; python-engineio: 16
    poll_bytes: int = 256 * 1024  # the largest answer to a poll
    max_sessions: int = 10_000  # Centrifugo's connection_limit: off
    max_sessions_per_address: int = 50  # not of this machine; a page has one or two
    handshakes_per_second: int = 10  # of one address; Centrifugo's connection_rate_limit: off
    handshake_burst: int = 50  # a page that is opened in 50 tabs, or an office after a restart
    guesses_per_connection: int = 5  # wrong clientIds and pids; the last one closes it
    guesses_per_minute: int = 20  # of one address; with more, a connection has two
    pending_percent: int = 10  # of max_sessions: those that have joined nothing yet
    max_addresses: int = (
        10_000  # remembered for their rates; the one that was away longest makes room
    )
    # Addresses and networks whose X-Forwarded-For and Forwarded are believed; nginx's
    # set_real_ip_from.
    trusted_proxies: tuple[str, ...] = ()
    json_depth: int = 32
    json_containers: int = 10_000

    # -- HTTP and WebSocket ------------------------------------------------------------------------
    header_bytes: int = 16 * 1024  # Node's maxHeaderSize
    header_count: int = 100
    target_bytes: int = 2 * 1024
    header_timeout: int = 10_000  # the first byte to the end of the headers
    body_timeout: int = 30_000
    write_timeout: int = 30_000  # an answer of which the socket takes nothing for so long
    keep_alive_timeout: int = 65_000  # longer than the ping interval: polling clients come back
    read_ahead_bytes: int = 64 * 1024  # kept of a peer that sends ahead of its answers
    max_fragments: int = 1_024
    cors_origins: tuple[str, ...] = ("http://localhost:5173",)  # the seed's
    cors_credentials: bool = True  # the seed's

    trace: bool = False  # True: a Notice for each packet, secrets and prompts masked

    def memory_bound(self) -> int:
        """Return the sum of what clients can make a server hold: all limits together.

        A socket that has no session can hold one request more, of `header_bytes` and `max_payload`:
        how many sockets there are is for the runtime's host to limit.
        """
        session = (
            _SESSION_BYTES
            + max(self.outbox_bytes, self.outbox_burst_bytes)
            + self.poll_bytes
            + self.header_bytes
            + self.max_payload
            + self.read_ahead_bytes
        )
        journals = 0
        if self.recovery_timeout is not None:
            journals = self.recovery_bytes * (
                self.max_lost_sockets + self.max_sessions * self.max_namespaces
            )
        ai_session = _SESSION_BYTES + self.control_bytes
        return (
            self.memory_bytes
            + self.upstream_line_bytes  # what one read may bring before the models are paused
            + self.max_sessions * (session + 2 * ai_session)  # with those whose client is away
            + journals
        )

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if type(value) is int and value < 1:
                raise LocalProtocolError(f"{name} must be at least 1, not {value}")
        if "*" in self.cors_origins and self.cors_credentials:
            # The Fetch standard forbids the pair: a browser would refuse every answer.
            raise LocalProtocolError(
                'cors_origins "*" needs cors_credentials=False: browsers refuse the two together'
            )
        for origin in self.cors_origins:
            if origin == "null":
                raise LocalProtocolError(
                    'cors_origins cannot hold "null": any sandboxed page has that origin'
                )
        for entry in self.trusted_proxies:
            try:
                ipaddress.ip_network(entry)
            except ValueError as error:
                raise LocalProtocolError(
                    f"trusted_proxies: {entry!r} is neither an address nor a network"
                ) from error
        if self.protocol == "engine.io" and self.ai_namespace is not None:
            raise LocalProtocolError('protocol "engine.io" needs ai_namespace=None')
        for name in self.namespaces:
            if not name.startswith("/") or "," in name:
                raise LocalProtocolError(
                    f"namespaces: {name!r} must begin with a slash and hold no comma"
                )
        for pattern in self.namespace_patterns:
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise LocalProtocolError(
                    f"namespace_patterns: {pattern!r} is no regular expression: {error}"
                ) from error
        if not (self.path.startswith("/") and self.path.endswith("/")):
            raise LocalProtocolError(f"path must start and end with a slash, not {self.path!r}")
