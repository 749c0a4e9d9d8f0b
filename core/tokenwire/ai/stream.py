"""One stream: its log, its state, and how far its client has it.

Rules of this file: the text is in the log alone; what a client has is a number (`next_seq`), what
waits for it is the rest. Other events of the stream stand in a lane beside the log, each at the seq
after which it comes; those that end it come when there is nothing else: so start, tokens, complete
and done keep their order by construction.
The state moves only along TRANSITIONS; a terminal state is left never.
"""

import enum
from collections import deque
from typing import NamedTuple

import msgspec

from tokenwire.ai import events
from tokenwire.ai.log import TokenLog
from tokenwire.ai.messages import StreamRequest
from tokenwire.ai.routing import Route
from tokenwire.config import Config
from tokenwire.types import Millis, StreamId
from tokenwire.wire import json


class State(enum.Enum):
    WAITING = "waiting"  # accepted; no token yet
    STREAMING = "streaming"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Input(enum.Enum):
    TOKEN = "token"  # noqa: S105
    DONE = "done"
    CANCEL = "cancel"
    FAIL = "fail"


TRANSITIONS: dict[tuple[State, Input], State] = {
    (State.WAITING, Input.TOKEN): State.STREAMING,
    (State.WAITING, Input.DONE): State.DONE,
    (State.WAITING, Input.CANCEL): State.CANCELLED,
    (State.WAITING, Input.FAIL): State.FAILED,
    (State.STREAMING, Input.TOKEN): State.STREAMING,
    (State.STREAMING, Input.DONE): State.DONE,
    (State.STREAMING, Input.CANCEL): State.CANCELLED,
    (State.STREAMING, Input.FAIL): State.FAILED,
}

RUNNING = (State.WAITING, State.STREAMING)


class LaneEvent(NamedTuple):
    after: int
    """The seq after which it comes."""
    body: bytes
    opening: bool = False
    """True: the start, which also a cancelled stream keeps."""


class Stream:
    """A stream of one session."""

    __slots__ = (
        "_ending",
        "_ending_said",
        "_lane",
        "_plain_metadata",
        "_token_agent",
        "_token_head",
        "_tool_call_room",
        "accepted_at",
        "config",
        "ended_at",
        "epoch",
        "first_token_at",
        "id",
        "in_turn",
        "log",
        "merged_events",
        "name",
        "next_seq",
        "paused_at",
        "paused_ms",
        "replay_until",
        "request",
        "resumes",
        "route",
        "state",
        "tool_calls",
        "waiting_until",
    )

    def __init__(
        self,
        stream_id: StreamId,
        name: str,
        epoch: str,
        request: StreamRequest,
        route: Route,
        config: Config,
        now: Millis,
    ) -> None:
        self.id = stream_id
        self.name = name
        self.epoch = epoch
        self.request = request
        self.route = route
        self.config = config
        self.state = State.WAITING
        self.log = TokenLog()
        self.next_seq = 1
        """The first token that the client has not been handed."""
        self.waiting_until = 0
        """The last token that came while the client's socket would not take more."""
        self.replay_until = 0
        """The last token of a replay."""
        self.in_turn = False
        """True: the session's round of streams has this one."""
        self.accepted_at = now
        self.first_token_at: Millis | None = None
        self.ended_at: Millis | None = None
        self.paused_at: Millis | None = None
        self.paused_ms = 0
        self.merged_events = 0
        self.resumes = 0
        self.tool_calls: list[msgspec.Raw] = []
        self._tool_call_room = config.tool_call_bytes
        self._lane: deque[LaneEvent] = deque()
        self._ending: tuple[events.Event, ...] = ()
        self._ending_said = 0
        # An `ai:token` is the same text around a few numbers: all but those is made once.
        self._token_head = b'["ai:token",{"streamId":%b,"data":' % json.encode(name)
        self._token_agent = b',"agent":%b,"tokenCount":' % json.encode(route.agent)
        self._plain_metadata = json.encode(events.TokenMetadata(model=request.model))
        self._say_start(resumed=False)

    @property
    def running(self) -> bool:
        return self.state in RUNNING

    def move(self, what: Input) -> None:
        self.state = TRANSITIONS[self.state, what]

    # -- what the model and the server add ---------------------------------------------------------

    def say(self, event: events.Event) -> None:
        """Put an event of the stream after all text that there is."""
        self._lane.append(LaneEvent(self.log.last_seq, event.encode()))

    def add_tool_calls(self, calls: list[msgspec.Raw]) -> None:
        """Keep tool calls for the stream's end: each whole, and only as many as there is room."""
        for call in calls:
            size = len(memoryview(call))
            if size <= self._tool_call_room:
                self._tool_call_room -= size
                self.tool_calls.append(call.copy())  # the original holds its whole line

    def end(self, *ending: events.Event, discard: bool = False) -> None:
        """Put the events that end the stream; with `discard`, what waits is dropped first."""
        if discard:
            self.next_seq = self.log.last_seq + 1
            self._lane = deque(event for event in self._lane if event.opening)
        self._ending = ending

    def drain(self) -> list[bytes]:
        """Take out all that the client was not handed."""
        out: list[bytes] = []
        while self.has_output():
            self.pull(out, b"", self.config.outbox_bytes)
        return out

    def precede(self, bodies: list[bytes]) -> None:
        """Put events of an earlier stream of this name before the start."""
        self._lane.extendleft(LaneEvent(0, body, opening=True) for body in reversed(bodies))

    def _say_start(self, *, resumed: bool) -> None:
        start = events.StreamStart(self.name, self.epoch, self.request.model, resumed)
        self._lane.appendleft(LaneEvent(0, start.encode(), opening=True))

    def rewind(self, seq: int | None) -> bool:
        """Let the client have the stream again.

        Args:
            seq: the last token that the client has; None: from the beginning, after a start.

        Returns:
            False if the first token that it needs is not kept any more. It gets what there is, and
            no start, so that it does not empty its text.
        """
        wanted = 1 if seq is None else seq + 1
        whole = wanted >= self.log.first_seq
        self._lane.clear()
        self._ending_said = 0
        self.replay_until = self.log.last_seq
        self.waiting_until = 0
        self.next_seq = min(max(wanted, self.log.first_seq), self.log.last_seq + 1)
        self.resumes += 1
        if seq is None and whole:
            self._say_start(resumed=True)
        return whole

    # -- what the client is handed -----------------------------------------------------------------

    def has_output(self) -> bool:
        return (
            bool(self._lane)
            or self.next_seq <= self.log.last_seq
            or self._ending_said < len(self._ending)
        )

    def waiting(self) -> int:
        """Return the number of tokens that the client's socket was offered and refused."""
        return max(0, self.waiting_until - self.next_seq + 1)

    def unsent_bytes(self) -> int:
        """Return the size of what the client has not been handed: text, and events in the lane."""
        return self.log.bytes_from(self.next_seq) + sum(len(event.body) for event in self._lane)

    def pull(self, out: list[bytes], head: bytes, budget: int) -> int:
        """Append events to `out`, each after `head`, until `budget` bytes are reached.

        Returns:
            The bytes appended.
        """
        used = 0
        lane, log = self._lane, self.log
        while used < budget:
            if lane and lane[0].after < self.next_seq:
                body = lane.popleft().body
            elif self.next_seq <= log.last_seq:
                body = self._token(lane[0].after if lane else log.last_seq)
            elif self._ending_said < len(self._ending):
                body = self._next_of_ending()
            else:
                break
            message = head + body
            out.append(message)
            used += len(message)
        return used

    def _next_of_ending(self) -> bytes:
        event = self._ending[self._ending_said]
        self._ending_said += 1
        if isinstance(event, events.StreamComplete):  # how its client got it is known only now
            metadata = msgspec.structs.replace(
                event.metadata, merged_events=self.merged_events, resumes=self.resumes
            )
            event = msgspec.structs.replace(event, metadata=metadata)
        return event.encode()

    def _token(self, last: int) -> bytes:
        """Return the next `ai:token`: one token, or several of those that waited."""
        first = self.next_seq
        end = first
        waited = self.replay_until if first <= self.replay_until else self.waiting_until
        if first < waited and first < last:
            end = self.log.piece_end(first, min(last, waited), self.config.replay_bytes)
        self.next_seq = end + 1
        if first == 1 or end > first or first <= self.replay_until:
            metadata = json.encode(self._metadata(first, end))
        else:
            metadata = self._plain_metadata
        return b'%b%b%b%d,"seq":%d,"metadata":%b}]' % (
            self._token_head,
            json.encode(self.log.text(first, end)),
            self._token_agent,
            end,
            end,
            metadata,
        )

    def _metadata(self, first: int, last: int) -> events.TokenMetadata:
        replayed = first <= self.replay_until
        if last > first and not replayed:
            self.merged_events += 1
        if first > 1:
            return events.TokenMetadata(
                self.request.model, tokens=last - first + 1, replayed=replayed
            )
        route = self.route
        return events.TokenMetadata(
            self.request.model,
            tokens=last - first + 1,
            replayed=replayed,
            intent=route.intent,
            confidence=route.confidence,
            runners_up=[
                events.Routing(rival.agent, rival.intent, rival.confidence)
                for rival in route.runners_up
            ],
            reasons=list(route.reasons),
        )
