"""One stream: its log, its state, and how far its client has it.

Rules of this file: the text is in the log alone; what a client has is two numbers, a token's
(`next_seq`) and an event's (`lane_at`); what waits for it is the rest. The stream's other events
stand in a lane beside the log, each at the seq after which it comes: so start, tokens, complete and
done keep their order by construction. The lane is kept, bounded, so that a client can be taken back
to any pair of numbers that it had (connection state recovery).
The state moves only along TRANSITIONS; a terminal state is left never.
"""

import enum
from collections import deque
from itertools import islice
from typing import NamedTuple, Protocol

import msgspec

from tokenwire.ai import events
from tokenwire.ai.log import TokenLog
from tokenwire.ai.messages import StreamRequest
from tokenwire.ai.pace import Pace
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

STREAM_BYTES = 4 * 1024
"""What a stream takes beside its text and its request: measured, and rounded up."""
_LANE_EVENT_BYTES = 128


_sorted = msgspec.json.Encoder(order="sorted").encode


def _encode_context(context: dict[str, object] | None) -> bytes:
    return b"" if context is None else _sorted(context)


def _text_bytes(text: str) -> int:
    """Return what Python may take for a text."""
    return len(text) if text.isascii() else 4 * len(text)


class Offsets(Protocol):
    """What every event of a client that can come back by itself says of what it was handed."""

    def offset(self) -> bytes:
        """Return what stands before the closing bracket of the event that was just counted."""
        ...

    def offset_around(self, stream: "Stream") -> tuple[bytes, bytes]:
        """Return the same in two parts: between them stands the last token of a stream."""
        ...


class LaneEvent(NamedTuple):
    after: int
    """The seq after which it comes."""
    event: events.Event | bytes
    """What is said; encoded early where that is shorter."""
    opening: bool = False
    """True: the start, which also a cancelled stream keeps."""
    rewinds: bool = False
    """True: behind it comes the first token."""
    earlier: bool = False
    """True: of an earlier stream of this name."""

    @property
    def size(self) -> int:
        return len(self.event) if isinstance(self.event, bytes) else 0


class Stream:
    """A stream of one session."""

    __slots__ = (
        "_context",
        "_cut_seq",
        "_ending",
        "_fixed_bytes",
        "_lane",
        "_merges",
        "_released",
        "_rewound",
        "_token_agent",
        "_token_end",
        "_token_head",
        "_tool_call_bytes",
        "accepted_at",
        "config",
        "counted_bytes",
        "epoch",
        "first_token_at",
        "id",
        "in_turn",
        "lane_at",
        "lane_bytes",
        "lane_end",
        "line_bytes",
        "log",
        "merged_events",
        "name",
        "next_seq",
        "number",
        "over_at",
        "pace",
        "paused_at",
        "paused_ms",
        "replay_until",
        "request",
        "resumes",
        "route",
        "skipped",
        "state",
        "tool_calls",
        "turn_bytes",
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
        self.request = msgspec.structs.replace(request, agent_context=None)
        self._context = _encode_context(request.agent_context)  # as text: built, it takes far more
        self.route = route
        self.config = config
        self.state = State.WAITING
        self.log = TokenLog()
        self.next_seq = 1
        """The first token that the client has not been handed."""
        self.skipped = 0
        """How many tokens before that one were left out, and the client does not know it yet."""
        self.pace = (
            None if config.stream_rate_limit is None else Pace(config.stream_rate_limit, now)
        )
        """The rate at which tokens may go; None: any."""
        self._released = 0
        """The last token that may go, if there is a pace."""
        self._merges = config.backpressure_policy != "pause"
        self.waiting_until = 0
        """The last token that came while the client's socket would not take more."""
        self.replay_until = 0
        """The last token of a replay."""
        self.in_turn = False
        """True: the session's round of streams has this one."""
        self.turn_bytes = 0
        """What is left of its turn; below 0: what it took too much."""
        self.accepted_at = now
        self.first_token_at: Millis | None = None
        self.over_at = now
        """When it has ended; if its client was handed the last of it later, when that was."""
        self.paused_at: Millis | None = None
        self.paused_ms = 0
        self.merged_events = 0
        self.resumes = 0
        self.tool_calls: list[msgspec.Raw] = []
        self._tool_call_bytes = 0
        self.lane_at = 0
        """How many events of the lane the client has been handed."""
        self.number = 0
        """Its place among the streams of its session, in their order."""
        self._lane: deque[LaneEvent] = deque()
        self.lane_end = 0
        """How many events there were in the lane."""
        self._rewound = 0
        """Who has fewer events of the lane lacks a start that is not kept any more."""
        self._cut_seq = 0
        """The last token before a cancel."""
        self.lane_bytes = 0
        self.line_bytes = 0
        """What is held of a line of the model's that is not whole yet."""
        self.counted_bytes = 0
        """What was counted of it as held."""
        texts = _text_bytes(request.prompt) + _text_bytes(route.system or "")
        self._fixed_bytes = STREAM_BYTES + texts + len(self._context)
        self._ending: tuple[events.Event, ...] = ()
        # An `ai:token` is the same text around a few numbers: all but those is made once.
        self._token_head = b'["ai:token",{"streamId":%b,"data":' % json.encode(name)
        self._token_agent = b',"agent":%b,"tokenCount":' % json.encode(route.agent)
        metadata = json.encode(events.TokenMetadata(model=request.model))
        self._token_end = b',"metadata":%b}' % metadata
        self._say_start(resumed=False)

    def is_for(self, request: StreamRequest) -> bool:
        """Return True if it is what a request asks for."""
        return self._context == _encode_context(
            request.agent_context
        ) and self.request == msgspec.structs.replace(request, agent_context=None)

    @property
    def running(self) -> bool:
        return self.state in RUNNING

    def move(self, what: Input) -> None:
        self.state = TRANSITIONS[self.state, what]

    def paused_for(self, now: Millis) -> int:
        """Return how long the model has been paused, in the pause that goes on."""
        return 0 if self.paused_at is None else max(0, now - self.paused_at)

    # -- what the model and the server add ---------------------------------------------------------

    def say(self, event: events.Event) -> None:
        """Put an event of the stream after all text that there is."""
        self._put(LaneEvent(self.log.last_seq, event.encode()))

    def _put(self, event: LaneEvent) -> None:
        self._lane.append(event)
        self.lane_end += 1
        self.lane_bytes += event.size
        self.trim_lane()

    def trim_lane(self) -> None:
        """Keep only so much of the events that the client was handed."""
        while self.lane_bytes > self.config.lane_bytes and self._lane_first < self.lane_at:
            event = self._lane.popleft()
            self.lane_bytes -= event.size
            if event.opening:
                self._rewound = self._lane_first

    def _pending(self) -> list[LaneEvent]:
        """Take out the events that the client was not handed."""
        pending = []
        while self.lane_at < self.lane_end:
            event = self._lane.pop()
            self.lane_end -= 1
            self.lane_bytes -= event.size
            pending.append(event)
        return pending[::-1]

    @property
    def _lane_first(self) -> int:
        """How many events were before the first that is kept."""
        return self.lane_end - len(self._lane)

    def add_tool_calls(self, calls: list[msgspec.Raw]) -> None:
        """Keep tool calls for the stream's end: each whole, and only as many as there is room."""
        for call in calls:
            size = len(memoryview(call))
            if self._tool_call_bytes + size <= self.config.tool_call_bytes:
                self._tool_call_bytes += size
                self.tool_calls.append(call.copy())  # the original holds its whole line

    def end(self, *ending: events.Event, discard: bool = False) -> None:
        """Put the events that end the stream; with `discard`, what waits is dropped first."""
        if discard:
            self._cut_seq = self.log.last_seq
            self.log.cut_after(self.next_seq - 1)
            self.waiting_until = 0
            pending = [event for event in self._pending() if event.opening]
            # What was handed behind text that is cut off, before its client went back, may be
            # needed again: then it comes behind what is left.
            last = self.log.last_seq
            self._lane = deque(event._replace(after=min(event.after, last)) for event in self._lane)
            for event in pending:
                self._put(event)
        self._ending = ending
        self._say_ending()

    def _say_ending(self) -> None:
        for event in self._ending:
            self._put(LaneEvent(self.log.last_seq, event))

    def drain(self) -> list[bytes]:
        """Take out all that the client was not handed."""
        out: list[bytes] = []
        self.release(self.held())
        while self.has_output():
            self.pull(out, b"", self.config.outbox_bytes)
        return out

    def precede(self, bodies: list[bytes]) -> None:
        """Put events of an earlier stream of this name before the start."""
        pending = self._pending()
        for body in bodies:
            self._put(LaneEvent(0, body, opening=True, earlier=True))
        for event in pending:
            self._put(event)

    def _say_start(self, *, resumed: bool) -> None:
        start = events.StreamStart(self.name, self.epoch, self.request.model, resumed)
        self._put(LaneEvent(0, start.encode(), opening=True, rewinds=resumed))

    def is_all_to_come(self) -> bool:
        """Return True if the client was not even handed all of the earlier stream of this name."""
        return self.lane_at < self.lane_end and self._lane[self.lane_at - self._lane_first].earlier

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
        self._go_to(wanted)
        self.resumes += 1
        if seq is None and whole:
            self._pending()
            self._say_start(resumed=True)
            self._say_ending()
            return True
        for number in range(self.lane_at, self.lane_end):
            if self._lane[number - self._lane_first].opening:
                self.lane_at = number + 1
        self.lane_at = min(self.lane_at, self.lane_end - len(self._ending))
        return whole

    def _go_to(self, seq: int) -> None:
        """Go on with a token, or with the first that is kept."""
        self.replay_until = self.log.last_seq
        self.waiting_until = self.skipped = 0
        self.next_seq = min(max(seq, self.log.first_seq), self.log.last_seq + 1)
        self._released = max(self._released, self.next_seq - 1)  # it says that it has them

    def knows(self, seq: int, lane_at: int) -> bool:
        """Return True if a client can have been handed so much."""
        return seq <= self.known_seq and lane_at <= self.lane_end

    @property
    def known_seq(self) -> int:
        """The last token that the client can have been handed, before it asked for older ones."""
        return max(self.log.last_seq, self._cut_seq)

    def recover(self, seq: int, lane_at: int) -> bool:
        """Take the client back to what it has: the last token, and so many events of the lane.

        Returns:
            False if the first token that it needs is not kept any more: it gets what there is.
        """
        if lane_at < self._rewound:
            return self.rewind(None)
        self.resumes += 1
        self.lane_at = lane_at = max(lane_at, self._lane_first)
        start = None
        for number in range(lane_at, self.lane_end):
            if self._lane[number - self._lane_first].rewinds:
                start = number
        if start is not None:  # it has asked for the stream again since
            seq, self.lane_at = 0, start
        whole = seq + 1 >= self.log.first_seq
        if start is not None and not whole:
            self.lane_at += 1  # no start: its text must not be emptied
        self._go_to(seq + 1)
        return whole

    def recover_all(self) -> None:
        """The client has all of it and its end, whatever it has asked for again since."""
        self._go_to(self.log.last_seq + 1)
        self.lane_at = self.lane_end

    # -- what the client is handed -----------------------------------------------------------------

    @property
    def handed_seq(self) -> int:
        """The last token that the client has been handed."""
        return self.next_seq - 1 - self.skipped

    @property
    def position(self) -> tuple[int, int, int]:
        """How far the client has it: its number, the last token, and how many other events."""
        return self.number, self.handed_seq, self.lane_at

    @property
    def released(self) -> int:
        """The last token that may go."""
        return self.log.last_seq if self.pace is None else min(self._released, self.log.last_seq)

    def release(self, tokens: int) -> None:
        """Let so many more tokens go."""
        self._released += tokens

    def held(self) -> int:
        """Return the number of tokens that may not go yet."""
        return self.log.last_seq - self.released

    def held_bytes(self) -> int:
        return self.log.bytes_from(self.released + 1)

    def hold(self) -> None:
        """The client's socket takes no more: what it was not handed waits from now on."""
        self.waiting_until = self.released

    def skip(self, tokens: int, size: int) -> int:
        """Leave out the oldest of the tokens that wait; not the newest, and nothing of a replay.

        Args:
            tokens: how many, or
            size: as many as hold so many bytes, whichever are more.

        Returns:
            How many were left out.
        """
        if self.next_seq <= self.replay_until:
            return 0
        kept = max(0, self.log.bytes_from(self.next_seq) - size)
        first = max(self.next_seq + tokens, self.log.seq_before(self.log.last_seq + 1, kept))
        count = max(0, min(first, self.waiting_until) - self.next_seq)
        self.next_seq += count
        self.skipped += count
        return count

    def is_ready(self) -> bool:
        """Return True if there is something to hand over that may go."""
        if self.next_seq <= self.log.last_seq and (
            self.pace is None or self.next_seq <= self._released
        ):
            return True
        if self.lane_at == self.lane_end:
            return False
        return self._lane[self.lane_at - self._lane_first].after < self.next_seq

    def has_output(self) -> bool:
        """Return True if there is something that the client has not been handed."""
        return self.lane_at < self.lane_end or self.next_seq <= self.log.last_seq

    def fully_handed(self) -> bool:
        """Return True if there will be nothing more."""
        return not self.running and not self.has_output()

    def waiting(self) -> int:
        """Return the number of tokens that the client's socket was offered and refused."""
        return max(0, self.waiting_until - self.next_seq + 1)

    def unsent_bytes(self) -> int:
        """Return the size of what may go and was not handed over: text, and events in the lane."""
        text = self.log.bytes_from(self.next_seq)
        if self.pace is not None:
            text -= self.held_bytes()
        if self.lane_at == self.lane_end:
            return text
        pending = islice(self._lane, self.lane_at - self._lane_first, None)
        return text + sum(event.size for event in pending)

    def bytes_held(self) -> int:
        """Return what the stream takes: its log, its lane, its request, itself."""
        log = self.log.size
        lane = self.lane_bytes + _LANE_EVENT_BYTES * len(self._lane)
        return log + log // 8 + lane + self._tool_call_bytes + self.line_bytes + self._fixed_bytes

    def pull(
        self, out: list[bytes], head: bytes, budget: int, offsets: Offsets | None = None
    ) -> int:
        """Append events to `out`, each after `head`, until `budget` bytes are reached.

        Args:
            out: is filled.
            head: what stands before each.
            budget: bytes.
            offsets: for a client that can come back by itself.

        Returns:
            The bytes appended.
        """
        used = 0
        released = self.released
        while used < budget:
            event = None
            if self.lane_at < self.lane_end:
                event = self._lane[self.lane_at - self._lane_first]
            if event is not None and event.after < self.next_seq:
                self.lane_at += 1
                body = self._body(event.event)
            elif self.next_seq <= released:
                last = released if event is None else min(event.after, released)
                if self._is_plain():
                    used += self._pull_plain(out, head, budget - used, last, offsets)
                    continue
                body = self._token(last)
            else:
                break
            message = head + (body if offsets is None else body[:-1] + offsets.offset() + b"]")
            out.append(message)
            used += len(message)
        return used

    def _is_plain(self) -> bool:
        """Return True if the next token goes alone, and says nothing but its text."""
        first = self.next_seq
        merged = self._merges and (self.pace is not None or first <= self.waiting_until)
        return first > max(1, self.replay_until) and not merged and not self.skipped

    def _pull_plain(
        self, out: list[bytes], head: bytes, budget: int, last: int, offsets: Offsets | None
    ) -> int:
        """Append such tokens until `budget` bytes are reached, none after `last`."""
        opening = head + self._token_head
        agent = self._token_agent
        before, after = (b"", b"") if offsets is None else offsets.offset_around(self)
        closing = self._token_end + before
        after += b"]"
        used = 0
        first = self.next_seq
        for seq, text in enumerate(self.log.texts(first, last), first):
            number = b"%d" % seq
            handed = b"" if offsets is None else number
            parts = (
                opening,
                json.encode(text),
                agent,
                number,
                b',"seq":',
                number,
                closing,
                handed,
                after,
            )
            message = b"".join(parts)
            out.append(message)
            used += len(message)
            if used >= budget:
                break
        self.next_seq = seq + 1
        return used

    def _body(self, event: events.Event | bytes) -> bytes:
        if isinstance(event, events.StreamComplete):  # how its client got it is known only now
            metadata = msgspec.structs.replace(
                event.metadata, merged_events=self.merged_events, resumes=self.resumes
            )
            return msgspec.structs.replace(event, metadata=metadata).encode()
        if isinstance(event, events.Event):
            return event.encode()
        return event

    def _token(self, last: int) -> bytes:
        """Return the next `ai:token`: the first, or several of those that waited."""
        first = self.next_seq
        end = first
        if first <= self.replay_until:
            last = min(last, self.replay_until)
        elif not self._merges:
            last = first
        elif self.pace is None:  # what has waited for its pace is merged, too
            last = min(last, self.waiting_until)
        if first < last:
            end = self.log.piece_end(first, last, self.config.replay_bytes)
        self.next_seq = end + 1
        return b'%b%b%b%d,"seq":%d,"metadata":%b}]' % (
            self._token_head,
            json.encode(self.log.text(first, end)),
            self._token_agent,
            end,
            end,
            json.encode(self._metadata(first, end)),
        )

    def _metadata(self, first: int, last: int) -> events.TokenMetadata:
        replayed = first <= self.replay_until
        skipped, self.skipped = self.skipped, 0
        if last > first and not replayed:
            self.merged_events += 1
        if first - skipped > 1:
            return events.TokenMetadata(
                self.request.model, tokens=last - first + 1, replayed=replayed, skipped=skipped
            )
        route = self.route
        return events.TokenMetadata(
            self.request.model,
            tokens=last - first + 1,
            replayed=replayed,
            skipped=skipped,
            intent=route.intent,
            confidence=route.confidence,
            runners_up=[
                events.Routing(rival.agent, rival.intent, rival.confidence)
                for rival in route.runners_up
            ],
            reasons=list(route.reasons),
        )
