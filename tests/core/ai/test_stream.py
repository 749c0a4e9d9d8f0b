"""One stream: its states, and what its client is handed in which order.

Rules of this file: a client reads what `pull` gives, as `Reader` does; the stateful test compares
it with the text that was appended, whatever happens between.
"""

import json

import msgspec
import pytest
from core.ai.client import Said, metadata, read
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tokenwire.ai import events
from tokenwire.ai.messages import StreamRequest
from tokenwire.ai.routing import Candidate, Route
from tokenwire.ai.stream import STREAM_BYTES, TRANSITIONS, Input, State, Stream
from tokenwire.config import Config
from tokenwire.types import Millis, StreamId

ALL = 1_000_000
COMPLETE = events.CompleteMetadata("stop", 1, 2, 0, 0, 5, 1.5, 0, 4, 0)
ENDING = (events.StreamComplete("s", "Tester", "test", 0.5, COMPLETE), events.Done("s", 3, 9))
ROUTE = Route("Tester", "test", 0.5, None, (Candidate("Debugger", "debug", 0.25),), ("word: x",))


def new(*, name: str = "s", model: str = "m", **changes: object) -> Stream:
    config = Config(**{"replay_bytes": 6, **changes})  # type: ignore[arg-type]
    request = StreamRequest("p", model)
    return Stream(StreamId(1), name, "e", request, ROUTE, config, Millis(0))


def add(stream: Stream, *tokens: str) -> None:
    for token in tokens:
        stream.log.append(token.encode())


def wait(stream: Stream) -> None:
    """The client's socket has refused all that there is."""
    stream.hold()


def pull(stream: Stream, budget: int = ALL) -> list[Said]:
    out: list[bytes] = []
    used = stream.pull(out, b"42/ai,", budget)
    assert used == sum(map(len, out))
    assert all(message.startswith(b"42/ai,") for message in out)
    return [read(message[6:]) for message in out]


def brief(said: list[Said]) -> list[object]:
    """Return texts as they are, other events by name."""
    return [event["data"] if event.name == "ai:token" else event.name for event in said]


# -- states ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", Input)
@pytest.mark.parametrize("state", State)
def test_a_state_moves_along_the_table_and_a_terminal_one_not_at_all(
    state: State, what: Input
) -> None:
    stream = new()
    stream.state = state
    running = state in (State.WAITING, State.STREAMING)
    assert stream.running is running
    assert ((state, what) in TRANSITIONS) is running
    if running:
        stream.move(what)
        assert stream.running is (what is Input.TOKEN)
        assert stream.state is TRANSITIONS[state, what]
    else:
        with pytest.raises(KeyError):
            stream.move(what)
        assert stream.state is state


# -- what is handed over ---------------------------------------------------------------------------


def test_the_start_comes_first_and_at_once() -> None:
    stream = new()
    (start,) = pull(stream)
    assert start == Said("ai:stream:start", {"streamId": "s", "epoch": "e", "model": "m"})
    assert not stream.has_output()
    assert pull(stream) == []


def test_tokens_that_did_not_wait_come_one_by_one() -> None:
    stream = new()
    add(stream, "a", "b", "c")
    said = pull(stream)
    assert brief(said) == ["ai:stream:start", "a", "b", "c"]
    assert [event["seq"] for event in said[1:]] == [1, 2, 3]
    assert said[2] == Said(
        "ai:token",
        {
            "streamId": "s",
            "data": "b",
            "agent": "Tester",
            "tokenCount": 2,
            "seq": 2,
            "metadata": {"model": "m"},
        },
    )
    assert stream.merged_events == 0


def test_the_first_token_tells_the_routing_and_no_other_does() -> None:
    stream = new()
    add(stream, "a", "b")
    _, first, second = pull(stream)
    assert metadata(first) == {
        "model": "m",
        "intent": "test",
        "confidence": 0.5,
        "runnersUp": [{"agent": "Debugger", "intent": "debug", "confidence": 0.25}],
        "reasons": ["word: x"],
    }
    assert metadata(second) == {"model": "m"}


def test_text_is_escaped_as_json_asks() -> None:
    stream = new()
    add(stream, '"\\\n\x00\u2028🎉\x85')
    assert pull(stream)[1]["data"] == '"\\\n\x00\u2028🎉\x85'


def test_tokens_that_waited_are_merged_without_losing_text() -> None:
    stream = new()
    add(stream, "aa", "bb", "cc", "dd")
    wait(stream)
    add(stream, "ee", "ff")  # came when the socket had room again
    said = pull(stream)[1:]
    assert brief(said) == ["aabbcc", "dd", "ee", "ff"]
    assert [event["seq"] for event in said] == [3, 4, 5, 6]
    assert [event["tokenCount"] for event in said] == [3, 4, 5, 6]
    assert [metadata(event).get("tokens") for event in said] == [3, None, None, None]
    assert stream.merged_events == 1


def test_waiting_is_what_was_refused_and_not_handed_over_since() -> None:
    stream = new()
    add(stream, "aaaaaa", "bbbbbb", "c")
    assert stream.waiting() == 0
    wait(stream)
    assert stream.waiting() == 3
    pull(stream, 1)
    pull(stream, 1)
    assert stream.waiting() == 2
    pull(stream)
    assert stream.waiting() == 0


def test_a_budget_is_passed_by_one_event_at_most() -> None:
    stream = new()
    add(stream, "a", "b")
    assert brief(pull(stream, 1)) == ["ai:stream:start"]
    assert brief(pull(stream, 1)) == ["a"]
    assert pull(stream, 0) == []
    assert brief(pull(stream)) == ["b"]


def test_other_events_keep_their_place_between_the_tokens() -> None:
    stream = new()
    add(stream, "a")
    thinking = events.Thinking("s", "hm", "Tester", 1, events.TokenMetadata("m", thinking=True))
    stream.say(thinking)
    add(stream, "b", "c")
    stream.end(*ENDING)
    wait(stream)  # nothing is merged over an event
    assert brief(pull(stream)) == [
        "ai:stream:start",
        "a",
        "hm",
        "bc",
        "ai:stream:complete",
        "ai:done",
    ]
    assert not stream.has_output()


def test_unsent_bytes_are_those_of_the_text_and_of_the_events() -> None:
    stream = new()
    start = stream.unsent_bytes()
    assert start > 0
    add(stream, "aa", "é")
    assert stream.unsent_bytes() == start + 4
    pull(stream, 1)
    assert stream.unsent_bytes() == 4
    pull(stream)
    assert stream.unsent_bytes() == 0


# -- under pressure --------------------------------------------------------------------------------


def test_nothing_is_merged_with_the_policy_pause_but_a_replay() -> None:
    stream = new(backpressure_policy="pause")
    add(stream, "a", "b", "c")
    wait(stream)
    assert brief(pull(stream)) == ["ai:stream:start", "a", "b", "c"]
    stream.rewind(0)
    assert brief(pull(stream)) == ["abc"]


def test_what_is_left_out_is_said_by_the_next_token() -> None:
    stream = new()
    add(stream, "a")
    pull(stream)
    add(stream, "b", "c", "d", "e")
    wait(stream)
    assert stream.skip(2, 0) == 2
    assert (stream.handed_seq, stream.waiting()) == (1, 2)
    (token,) = pull(stream)
    assert (token["data"], token["seq"], token["tokenCount"]) == ("de", 5, 5)
    assert metadata(token) == {"model": "m", "tokens": 2, "skipped": 2}
    add(stream, "f")
    (token,) = pull(stream)
    assert metadata(token) == {"model": "m"}


def test_the_routing_comes_with_the_first_token_that_was_not_left_out() -> None:
    stream = new()
    add(stream, "a", "b")
    wait(stream)
    assert stream.skip(1, 0) == 1
    assert metadata(pull(stream)[1])["intent"] == "test"


@pytest.mark.parametrize(
    ("tokens", "size", "count"), [(1, 0, 1), (0, 3, 2), (0, 4, 2), (1, 5, 3), (9, 0, 3), (0, 99, 3)]
)
def test_tokens_or_bytes_are_left_out_whichever_are_more_but_never_the_newest(
    tokens: int, size: int, count: int
) -> None:
    stream = new()
    add(stream, "aa", "bb", "cc", "dd")
    wait(stream)
    assert stream.skip(tokens, size) == count
    assert stream.skip(9, 99) == 3 - count


def test_what_does_not_wait_and_what_is_replayed_is_not_left_out() -> None:
    stream = new()
    add(stream, "a", "b")
    assert stream.skip(1, 0) == 0
    pull(stream)
    stream.rewind(0)
    wait(stream)
    assert stream.skip(1, 0) == 0


def test_who_asks_again_gets_what_was_left_out() -> None:
    stream = new()
    add(stream, "a", "b", "c")
    wait(stream)
    stream.skip(2, 0)
    stream.rewind(0)
    (token,) = pull(stream)
    assert token["data"] == "abc"
    assert "skipped" not in metadata(token)


def test_only_what_is_released_may_go() -> None:
    stream = new(stream_rate_limit=10)
    add(stream, "a", "b", "c")
    assert stream.is_ready()
    assert brief(pull(stream)) == ["ai:stream:start"]
    assert not stream.is_ready()
    assert (stream.has_output(), stream.held(), stream.held_bytes()) == (True, 3, 3)
    stream.release(2)
    assert (stream.is_ready(), stream.held(), stream.unsent_bytes()) == (True, 1, 2)
    stream.end(*ENDING)
    stream.move(Input.DONE)
    assert brief(pull(stream)) == ["ab"]  # merged, though no socket has refused it
    assert not stream.is_ready()
    assert not stream.fully_handed()
    stream.release(1)
    assert brief(pull(stream)) == ["c", "ai:stream:complete", "ai:done"]
    assert stream.fully_handed()


def test_an_event_between_tokens_waits_for_those_before_it() -> None:
    stream = new(stream_rate_limit=10)
    add(stream, "a")
    stream.say(ENDING[1])
    add(stream, "b")
    pull(stream)
    stream.release(2)
    assert brief(pull(stream)) == ["a", "ai:done", "b"]


def test_a_cancel_ends_what_was_released_too() -> None:
    stream = new(stream_rate_limit=10)
    add(stream, "a", "b", "c")
    stream.release(2)
    stream.move(Input.CANCEL)
    stream.end(ENDING[1], discard=True)
    assert (stream.held(), stream.released) == (0, 0)
    assert brief(pull(stream)) == ["ai:stream:start", "ai:done"]


def test_all_is_taken_out_also_what_was_held() -> None:
    stream = new(stream_rate_limit=10)
    add(stream, "a", "b", "c")
    assert len(stream.drain()) == 2
    assert not stream.has_output()


def test_the_pause_that_goes_on_is_known() -> None:
    stream = new()
    assert stream.paused_for(Millis(5)) == 0
    stream.paused_at = Millis(5)
    assert stream.paused_for(Millis(9)) == 4
    assert stream.paused_for(Millis(0)) == 0


# -- ends ------------------------------------------------------------------------------------------


def test_the_end_comes_after_all_text_and_once() -> None:
    stream = new()
    add(stream, "a")
    stream.end(*ENDING)
    assert stream.has_output()
    assert brief(pull(stream)) == ["ai:stream:start", "a", "ai:stream:complete", "ai:done"]
    assert pull(stream) == []


def test_the_end_tells_what_was_merged_also_after_the_stream_was_over() -> None:
    stream = new()
    add(stream, "a", "b")
    wait(stream)
    stream.end(*ENDING)
    complete = pull(stream)[-2]
    assert metadata(complete)["mergedEvents"] == 1
    assert metadata(complete)["resumes"] == 0
    stream.rewind(None)
    complete = pull(stream)[-2]
    assert metadata(complete)["mergedEvents"] == 1  # a replay is no merging
    assert metadata(complete)["resumes"] == 1


@pytest.mark.parametrize("sent", ["nothing", "the start", "a token"])
def test_an_end_that_discards_keeps_the_start_and_drops_what_waits(sent: str) -> None:
    stream = new()
    add(stream, "a", "b")
    handed = {"nothing": 0, "the start": 1, "a token": 2}[sent]
    for _ in range(handed):
        pull(stream, 1)
    stream.say(events.Backpressure("Slow.", 1, "s", "merge"))
    wait(stream)
    stream.end(events.StreamCancelled("s"), discard=True)
    assert stream.waiting() == 0
    kept = ["ai:stream:start"] if not handed else []
    assert brief(pull(stream)) == [*kept, "ai:stream:cancelled"]
    assert not stream.has_output()


# -- once more -------------------------------------------------------------------------------------


def test_a_rewind_gives_the_whole_text_again_in_pieces_and_then_goes_on() -> None:
    stream = new()
    add(stream, "aa", "bb", "cc", "dd")
    wait(stream)
    assert stream.rewind(None)
    add(stream, "ee", "ff")
    assert stream.waiting() == 0  # this socket has refused nothing
    said = pull(stream)
    assert brief(said) == ["ai:stream:start", "aabbcc", "dd", "ee", "ff"]
    assert said[0]["resumed"] is True
    assert [metadata(event).get("replayed") for event in said[1:]] == [True, True, None, None]
    assert metadata(said[1])["intent"] == "test"  # the first token is in it
    assert (stream.merged_events, stream.resumes) == (0, 1)


@pytest.mark.parametrize(
    ("seq", "text"),
    [(0, ["abc"]), (1, ["bc"]), (2, ["c"]), (3, []), (99, [])],
)
def test_a_rewind_to_a_cursor_gives_what_is_missing_without_a_start(
    seq: int, text: list[str]
) -> None:
    stream = new()
    add(stream, "a", "b", "c")
    assert stream.rewind(seq)
    assert stream.has_output() is bool(text)
    assert brief(pull(stream)) == text


def test_a_piece_of_a_replay_holds_nothing_that_is_new() -> None:
    stream = new()
    add(stream, "a", "b")
    pull(stream)
    stream.rewind(None)
    add(stream, "c", "d")
    wait(stream)
    said = pull(stream)[1:]
    assert brief(said) == ["ab", "cd"]
    assert [metadata(event).get("replayed") for event in said] == [True, None]


@pytest.mark.parametrize(
    ("seq", "whole", "text"),
    [
        (None, False, ["cd"]),  # and no start: what the client shows is not emptied
        (0, False, ["cd"]),
        (1, False, ["cd"]),
        (2, True, ["cd"]),
        (3, True, ["d"]),
    ],
)
def test_a_rewind_to_what_is_not_kept_says_so_and_gives_the_rest(
    seq: int | None, whole: bool, text: list[str]
) -> None:
    stream = new()
    add(stream, "a", "b", "c", "d")
    pull(stream)
    stream.log.evict_before(3)
    assert stream.rewind(seq) is whole
    assert brief(pull(stream)) == text


@pytest.mark.parametrize("seq", [None, 1, 2])
def test_a_rewind_of_a_stream_that_is_over_gives_its_end_again(seq: int | None) -> None:
    stream = new()
    add(stream, "a", "b")
    stream.end(*ENDING)
    pull(stream)
    stream.rewind(seq)
    stream.rewind(seq)  # two drops in a row
    assert brief(pull(stream))[-2:] == ["ai:stream:complete", "ai:done"]
    assert brief(pull(stream)) == []


# -- the ends' tool calls --------------------------------------------------------------------------


def test_tool_calls_are_kept_whole_and_as_many_as_there_is_room() -> None:
    stream = new(tool_call_bytes=8)
    stream.add_tool_calls([msgspec.Raw(b'"aaa"'), msgspec.Raw(b'"bb"'), msgspec.Raw(b'"c"')])
    stream.add_tool_calls([msgspec.Raw(b"1")])
    assert [bytes(call) for call in stream.tool_calls] == [b'"aaa"', b'"c"']


# -- any interleaving ------------------------------------------------------------------------------


class Reader:
    """A client's view of one stream: its text so far, and the last seq that it has."""

    def __init__(self) -> None:
        self.text = ""
        self.seq = 0
        self.started = False
        self.terminal: str | None = None
        self.completed = False

    def read(self, said: list[Said]) -> None:
        for event in said:
            assert self.terminal is None, "something after the end"
            match event.name:
                case "ai:stream:start":
                    assert event.fields.get("resumed", False) is self.started
                    self.text, self.seq, self.started = "", 0, True
                case "ai:token" if metadata(event).get("thinking"):
                    assert event["tokenCount"] == self.seq
                case "ai:token":
                    count = metadata(event).get("tokens", 1)
                    assert isinstance(count, int)
                    assert event["seq"] == event["tokenCount"] == self.seq + count
                    self.seq += count
                    self.text += str(event["data"])
                case "ai:stream:complete":
                    self.completed = True
                case name:
                    assert name in ("ai:done", "ai:stream:cancelled", "ai:stream:error")
                    assert self.completed is (name == "ai:done")
                    self.terminal = name


class Lane(RuleBasedStateMachine):
    """Any order of what the model, the socket and the client do."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = new()
        self.reader = Reader()
        self.tokens: list[str] = []
        self.ended: str | None = None

    @precondition(lambda self: self.ended is None)
    @rule(token=st.sampled_from(["a", "bc", "dé", "🎉🎉", "long enough for a piece"]))
    def append(self, token: str) -> None:
        self.stream.log.append(token.encode())
        self.tokens.append(token)

    @precondition(lambda self: self.ended is None)
    @rule()
    def think(self) -> None:
        thinking = events.TokenMetadata("m", thinking=True)
        seq = self.stream.log.last_seq
        self.stream.say(events.Thinking("s", "hm", "Tester", seq, thinking))

    @rule()
    def block(self) -> None:
        wait(self.stream)

    @rule(budget=st.sampled_from([1, 100, 300, 1_000]))
    def pull(self, budget: int) -> None:
        self.reader.read(pull(self.stream, budget))

    @rule()
    def reconnect_with_a_cursor(self) -> None:
        if not self.reader.started:  # such a client knows no cursor
            return
        assert self.stream.rewind(self.reader.seq)
        self.reader.terminal, self.reader.completed = None, False

    @rule()
    def reconnect_without(self) -> None:
        self.stream.rewind(None)
        self.reader = Reader()
        self.reader.started = True  # the page may have forgotten; the start says `resumed`

    @precondition(lambda self: self.ended is None)
    @rule(how=st.sampled_from(["ai:done", "ai:stream:error", "ai:stream:cancelled"]))
    def end(self, how: str) -> None:
        self.ended = how
        if how == "ai:done":
            self.stream.end(*ENDING)
        elif how == "ai:stream:error":
            self.stream.end(events.StreamError("s", "No.", "upstream_error", "d", True))
        else:
            self.stream.end(events.StreamCancelled("s"), discard=True)

    @invariant()
    def the_client_has_a_beginning_of_the_text(self) -> None:
        assert "".join(self.tokens[: self.reader.seq]) == self.reader.text

    @invariant()
    def the_numbers_agree(self) -> None:
        assert 0 <= self.stream.waiting() <= len(self.tokens)
        assert self.stream.log.last_seq == len(self.tokens)

    def teardown(self) -> None:
        while self.stream.has_output():
            self.reader.read(pull(self.stream, 1))
        assert self.reader.terminal == self.ended
        if self.ended != "ai:stream:cancelled":
            assert self.reader.text == "".join(self.tokens)


Lane.TestCase.settings = settings(
    derandomize=True, max_examples=60, stateful_step_count=30, deadline=None
)
TestLane = Lane.TestCase


def test_tool_calls_are_kept_whole_while_there_is_room() -> None:
    stream = new(tool_call_bytes=10)
    calls = [msgspec.Raw(text) for text in (b'"1234"', b'"12345"', b'"6"', b'"7"')]
    stream.add_tool_calls(calls[:2])
    stream.add_tool_calls(calls[2:])
    assert [bytes(memoryview(call)) for call in stream.tool_calls] == [b'"1234"', b'"6"']


def test_what_an_earlier_stream_has_not_told_goes_before_the_start() -> None:
    earlier, stream = new(), new()
    add(earlier, "a", "b")
    pull(earlier, 1)
    earlier.end(*ENDING)
    stream.precede(earlier.drain())
    assert not earlier.has_output()
    assert brief(pull(stream)) == ["a", "b", "ai:stream:complete", "ai:done", "ai:stream:start"]


# -- connection state recovery ---------------------------------------------------------------------


def thinking(text: str) -> events.Thinking:
    return events.Thinking("s", text, "Tester", 0, events.TokenMetadata("m", thinking=True))


def test_a_client_is_taken_back_to_any_numbers_that_it_had() -> None:
    stream = new()
    add(stream, "aa", "bb", "cc")
    stream.say(thinking("hm"))
    stream.move(Input.DONE)
    stream.end(*ENDING)
    whole = brief(pull(stream))
    assert whole == ["ai:stream:start", "aa", "bb", "cc", "hm", "ai:stream:complete", "ai:done"]
    assert stream.fully_handed()
    for seq, lane_at, rest in ((0, 0, whole), (0, 1, ["aabbcc", *whole[4:]]), (3, 3, ["ai:done"])):
        assert stream.knows(seq, lane_at)
        assert stream.recover(seq, lane_at)
        said = brief(pull(stream))
        assert said in (rest, ["ai:stream:start", "aabbcc", *whole[4:]])
    assert not stream.knows(4, 0)
    assert not stream.knows(0, 5)


class Positions:
    """Says of one stream how far it is (`stream.Offsets`)."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def offset(self) -> bytes:
        return b',"%%%d.%d"' % (self._stream.handed_seq, self._stream.lane_at)

    def offset_around(self, stream: Stream) -> tuple[bytes, bytes]:
        return b',"%', b'.%d"' % stream.lane_at


def test_the_offset_stands_before_the_bracket_of_each_event() -> None:
    stream = new()
    add(stream, "a", "b", "c%d")
    out: list[bytes] = []
    stream.pull(out, b"%", ALL, Positions(stream))
    tails = [message.rpartition(b",")[2] for message in out]
    assert tails == [b'"%0.1"]', b'"%1.1"]', b'"%2.1"]', b'"%3.1"]']
    assert [message[:1] for message in out] == [b"%"] * 4


@pytest.mark.parametrize("offsets", [False, True])
def test_a_pull_ends_with_the_token_that_reaches_the_budget(offsets: bool) -> None:
    stream = new()
    add(stream, *"abcdefgh")
    positions = Positions(stream) if offsets else None
    whole: list[bytes] = []
    stream.pull(whole, b"", ALL, positions)
    stream.rewind(3)
    stream.replay_until = 0  # as if they had just come
    out: list[bytes] = []
    used = stream.pull(out, b"", 2 * len(whole[4]), positions)
    assert out == whole[4:6]
    assert used == len(whole[4]) + len(whole[5])
    assert stream.handed_seq == 5
    stream.pull(out, b"", ALL, positions)
    assert out == whole[4:]


def test_a_name_and_a_model_may_hold_what_a_form_would_read() -> None:
    stream = new(name="100%d", model="%b%%")
    add(stream, "a", "b")
    out: list[bytes] = []
    stream.pull(out, b"", ALL)
    name, data = json.loads(out[-1])
    assert (name, data["streamId"], data["data"]) == ("ai:token", "100%d", "b")
    assert data["metadata"] == {"model": "%b%%"}


def test_a_replay_that_was_asked_for_and_not_seen_is_begun_again() -> None:
    stream = new()
    add(stream, "a", "b")
    pull(stream)
    stream.rewind(None)
    pull(stream)
    assert stream.recover(2, 1)
    assert brief(pull(stream)) == ["ai:stream:start", "ab"]
    assert stream.recover(1, 2)
    assert brief(pull(stream)) == ["b"]


def test_a_client_that_lacks_more_than_is_kept_gets_the_rest_and_no_start() -> None:
    stream = new()
    add(stream, "a", "b", "c")
    pull(stream)
    stream.log.evict_before(3)
    assert not stream.recover(1, 1)
    assert brief(pull(stream)) == ["c"]
    stream.rewind(2)
    pull(stream)
    stream.log.evict_before(3)
    assert not stream.recover(0, 1)
    assert brief(pull(stream)) == ["c"]


def test_a_cancel_leaves_nothing_behind_text_that_is_gone() -> None:
    stream = new()
    add(stream, "a", "b", "c")
    stream.say(thinking("hm"))
    pull(stream)
    stream.rewind(1)
    stream.move(Input.CANCEL)
    stream.end(events.StreamCancelled("s"), discard=True)
    assert stream.recover(1, 1)  # the thinking, handed behind the third token, was not seen
    assert brief(pull(stream)) == ["hm", "ai:stream:cancelled"]
    assert stream.fully_handed()


def test_a_pending_start_is_not_said_when_its_text_is_gone() -> None:
    stream = new()
    add(stream, "a", "b", "c")
    pull(stream)
    assert stream.rewind(None)
    pull(stream)
    stream.log.evict_before(2)
    assert not stream.recover(3, 1)
    assert brief(pull(stream)) == ["bc"]


def test_so_much_of_what_stands_beside_the_tokens_is_kept() -> None:
    stream = new(lane_bytes=500)
    add(stream, "a")
    for number in range(10):
        stream.say(thinking(f"{number}" * 50))
        pull(stream)
    assert stream.lane_bytes <= 500 + 200
    assert stream.bytes_held() > STREAM_BYTES + stream.log.size + stream.lane_bytes
    assert stream.recover(1, 2)  # some of it is gone: what is kept comes
    assert [item["data"] for item in pull(stream)] == [f"{number}" * 50 for number in (7, 8, 9)]
    assert stream.recover(0, 0)  # the start is gone: the whole again, from a new one
    said = pull(stream)
    assert said[0]["resumed"] is True
    assert brief(said)[1] == "a"
    assert stream.recover(1, stream.lane_end)
    assert pull(stream) == []


def test_a_cursor_goes_past_a_start_that_was_not_said_and_back_before_the_end() -> None:
    stream = new()
    add(stream, "a", "b")
    stream.end(*ENDING)
    assert stream.rewind(1)
    assert brief(pull(stream)) == ["b", "ai:stream:complete", "ai:done"]
    assert stream.rewind(2)
    assert brief(pull(stream)) == ["ai:stream:complete", "ai:done"]


def test_what_a_stream_is_for() -> None:
    context: dict[str, object] = {"b": 1, "a": [2]}
    request = StreamRequest("p", "m", agent_context=context)
    stream = Stream(StreamId(1), "s", "e", request, ROUTE, Config(), Millis(0))
    assert stream.is_for(request)
    assert stream.is_for(StreamRequest("p", "m", agent_context={"a": [2], "b": 1}))
    assert not stream.is_for(StreamRequest("p", "m"))
    assert not stream.is_for(StreamRequest("q", "m", agent_context=context))


def test_an_earlier_stream_comes_first() -> None:
    stream = new()
    assert not stream.is_all_to_come()
    stream.precede([b'["ai:done",{}]'])
    assert stream.is_all_to_come()
    pull(stream, 1)
    assert not stream.is_all_to_come()


def test_who_has_all_of_it_gets_nothing() -> None:
    stream = new()
    add(stream, "a", "b")
    stream.end(*ENDING)
    stream.recover_all()
    assert pull(stream) == []
