"""The model's side: every way in which an answer can go on and end.

Rules of this file: the listener writes down what it is told; outputs and timers are the real ones.
What a runtime brings comes by `Upstreams`' own inputs, what a stream wants by its own calls.
"""

from collections.abc import Callable

import msgspec
import pytest
from tokenwire.ai import ollama
from tokenwire.ai.answers import Line
from tokenwire.ai.errors import Code
from tokenwire.ai.upstream import Upstreams
from tokenwire.config import Config
from tokenwire.outputs import (
    CancelUpstream,
    Notice,
    Output,
    PauseUpstream,
    ProbeUpstream,
    ResumeUpstream,
    StartUpstream,
)
from tokenwire.queue import Outputs
from tokenwire.timers import Timer, Timers
from tokenwire.types import Millis, StreamId

S = StreamId(1)
SPEC = Config(first_token_timeout=1_000, idle_timeout=300, upstream_line_bytes=100)
REQUEST = ollama.LIST_MODELS  # any request: only the runtime reads it
ERROR = (Code.UPSTREAM_ERROR, "the model failed while it was running")
UNREADABLE = (Code.UPSTREAM_ERROR, "a line of the model's stream cannot be read")
CUT = (Code.UPSTREAM_TRUNCATED, "the end of the stream is missing")
DONE = b'{"done":true}\n'


class Rig:
    """An Upstreams with one answer under way, and its listener."""

    def __init__(self, config: Config = SPEC) -> None:
        self.outputs, self.timers = Outputs(), Timers()
        self.lines: list[str] = []
        """The text of each line; `.` after the one that ends."""
        self.held: list[int] = []
        """What was told of lines that are not whole."""
        self.ends: list[tuple[Code, str]] = []
        self.on_lines: Callable[[], None] | None = None
        self.on_held: Callable[[], None] | None = None
        self.upstreams = Upstreams(config, self.outputs, self.timers, self)
        self.upstreams.start(S, REQUEST, Millis(0))
        assert self.said() == [StartUpstream(S, REQUEST)]

    def upstream_lines(self, stream: StreamId, lines: list[Line], now: Millis) -> None:
        assert stream == S
        assert lines
        self.lines += [ollama.said(line)[0] + "." * bool(line.done) for line in lines]
        assert not any(line.done for line in lines[:-1])
        if self.on_lines is not None:
            self.on_lines()

    def upstream_held(self, stream: StreamId, size: int, now: Millis) -> None:
        assert stream == S
        self.held.append(size)
        if self.on_held is not None:
            self.on_held()

    def upstream_ended(self, stream: StreamId, code: Code, details: str, now: Millis) -> None:
        assert stream == S
        self.ends.append((code, details))

    def said(self) -> list[Output]:
        """Take all outputs."""
        taken: list[Output] = []
        while (output := self.outputs.poll()) is not None:
            taken.append(output)
        return taken

    def answer(self, *pieces: bytes, status: int = 200, now: int = 0) -> None:
        self.upstreams.receive_status(S, status, Millis(now))
        for piece in pieces:
            self.upstreams.receive(S, piece, Millis(now))

    def eof(self, now: int = 0) -> None:
        self.upstreams.receive_eof(S, Millis(now))

    def tick(self, now: int) -> None:
        """Handle what is due at `now`."""
        for timer, key in self.timers.due(Millis(now)):
            if timer is Timer.UPSTREAM_SILENCE:
                assert key == S
                self.upstreams.silence(S, Millis(now))
            elif timer is Timer.UPSTREAM_LINGER:
                self.upstreams.cancel(S)

    @property
    def idle(self) -> bool:
        """True: there is no answer, and no timer but that for the next probe."""
        timers = (Timer.UPSTREAM_SILENCE, Timer.UPSTREAM_LINGER)
        return not len(self.upstreams) and not any(self.timers.is_set(timer, S) for timer in timers)


def say(text: str) -> bytes:
    return msgspec.json.encode({"message": {"content": text}, "done": False}) + b"\n"


# -- how an answer is read -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (say("a") + say("b") + DONE, ["a", "b", "."]),
        (b'{"message":{"content":"a"},"done":true}\n', ["a."]),  # text on the done line
        (b'{"response":"a","done":false}\n{"done":true}\n', ["a", "."]),  # /api/generate
        (say("a") + b"\n\r\n\n" + DONE, ["a", "."]),  # blank lines
        (say("a").replace(b"\n", b"\r\n") + DONE.replace(b"\n", b"\r\n"), ["a", "."]),
        ('{"response":"a\x85b\u2028c","done":false}\n'.encode() + DONE, ["a\x85b\u2028c", "."]),
        (DONE[:-1], ["."]),  # one object without a newline: a "load" answer
        (say("a") + DONE[:-1], ["a", "."]),
        (DONE + say("late") + b"garbage", ["."]),  # what follows an end is ignored
        (say("") + DONE, ["", "."]),
    ],
)
@pytest.mark.parametrize("cut", ["whole", "byte by byte"])
def test_an_answer_is_read_line_by_line_however_it_is_cut(
    data: bytes, lines: list[str], cut: str
) -> None:
    rig = Rig()
    rig.answer(*([data] if cut == "whole" else [bytes([byte]) for byte in data]))
    rig.eof()
    assert (rig.lines, rig.ends) == (lines, [])
    assert rig.idle
    assert rig.said() == []


@pytest.mark.parametrize(
    ("data", "lines", "end"),
    [
        (b'{"error":"boom"}\n', [], ERROR),
        (say("a") + b'{"error":"boom"}\n', ["a"], ERROR),  # after tokens, in one read
        (say("a") + b'{"error":"boom"}', ["a"], ERROR),  # without a newline
        (b'{"error":""}\n', [], ERROR),
        (say("a") + b"<html>\n", ["a"], UNREADABLE),
        (
            b'{"error parsing tool call":"x"}\n',
            [],
            (Code.UPSTREAM_ERROR, "a line of the model's stream is neither text nor an end"),
        ),
        (
            say("a" * 100),
            [],
            (Code.UPSTREAM_ERROR, "a line of the model's stream is too long"),
        ),
        (b"", [], CUT),
        (say("a"), ["a"], CUT),  # Ollama's silent end
        (say("a") + b"\r", ["a"], (Code.UPSTREAM_TRUNCATED, UNREADABLE[1])),
        (say("a") + say("b")[:-9], ["a"], (Code.UPSTREAM_TRUNCATED, UNREADABLE[1])),  # in mid-line
        (say("a") + say("b")[:-1], ["a", "b"], CUT),
    ],
)
@pytest.mark.parametrize("cut", ["whole", "byte by byte"])
def test_an_answer_without_a_proper_end_fails_once(
    data: bytes, lines: list[str], end: tuple[Code, str], cut: str
) -> None:
    rig = Rig()
    rig.answer(*([data] if cut == "whole" else [bytes([byte]) for byte in data]))
    rig.eof()
    rig.eof()
    rig.upstreams.receive_failure(S, reached=True, now=Millis(0))
    assert (rig.lines, rig.ends) == (lines, [end])
    assert rig.idle


def test_the_text_before_an_error_in_one_read_is_handed_on_first() -> None:
    rig = Rig()
    rig.on_lines = lambda: rig.ends.append((Code.UPSTREAM_BUSY, "a mark"))
    rig.answer(say("a") + b'{"error":"boom"}\n')
    assert rig.ends == [(Code.UPSTREAM_BUSY, "a mark"), ERROR]
    assert rig.said() == [CancelUpstream(S)]


def test_an_answer_that_was_cancelled_by_its_listener_does_not_fail_too() -> None:
    rig = Rig()
    rig.on_lines = lambda: rig.upstreams.cancel(S)
    rig.answer(say("a") + b'{"error":"boom"}\n')
    assert (rig.said(), rig.ends) == ([CancelUpstream(S)], [])


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, Code.MODEL_NOT_FOUND),
        (500, Code.UPSTREAM_ERROR),
        (503, Code.UPSTREAM_BUSY),
        (302, Code.UPSTREAM_ERROR),
    ],
)
def test_an_answer_that_is_not_200_ends_at_its_status_and_is_not_read(
    status: int, code: Code
) -> None:
    rig = Rig()
    rig.answer(b'{"error":"the secret of /etc/ollama"}', b"x" * 1_000_000, DONE, status=status)
    rig.eof()
    assert rig.ends == [(code, f"the model server answered with status {status}")]
    assert rig.lines == []
    assert rig.said() == [CancelUpstream(S)]
    assert rig.idle


@pytest.mark.parametrize(
    ("reached", "end", "status"),
    [
        (True, (Code.UPSTREAM_TRUNCATED, "the connection to the model server broke"), "unknown"),
        (False, (Code.UPSTREAM_UNAVAILABLE, "no connection to the model server"), "down"),
    ],
)
def test_an_answer_that_breaks_or_never_came_fails(
    reached: bool, end: tuple[Code, str], status: str
) -> None:
    rig = Rig()
    rig.upstreams.receive_failure(S, reached=reached, now=Millis(0))
    assert rig.ends == [end]
    assert rig.upstreams.status == status
    assert rig.idle


def test_what_is_said_of_an_unknown_answer_does_nothing() -> None:
    rig = Rig()
    rig.upstreams.cancel(S)
    rig.said()
    rig.answer(DONE, status=500)
    rig.answer(DONE)
    rig.eof()
    rig.upstreams.receive_failure(S, reached=False, now=Millis(0))
    rig.upstreams.cancel(S)
    rig.upstreams.pause(S, Millis(0))
    rig.upstreams.resume(S, Millis(0))
    assert (rig.lines, rig.ends, rig.said()) == ([], [], [])
    assert rig.upstreams.status == "unknown"


# -- a response that outlives its stream -----------------------------------------------------------


def test_a_response_that_lingers_after_its_end_is_cut() -> None:
    rig = Rig()
    rig.answer(say("a") + DONE, now=10)
    rig.tick(1_009)
    assert rig.said() == []
    rig.tick(1_010)
    assert rig.said() == [CancelUpstream(S)]
    assert (rig.ends, rig.idle) == ([], True)


@pytest.mark.parametrize(
    "late",
    [
        lambda rig: rig.answer(b"more", b'{"error":"boom"}\n'),
        lambda rig: rig.answer(status=500),
        lambda rig: rig.eof(),
        lambda rig: rig.upstreams.receive_failure(S, reached=True, now=Millis(0)),
        lambda rig: rig.upstreams.receive_failure(S, reached=False, now=Millis(0)),
        lambda rig: rig.upstreams.pause(S, Millis(0)),
        lambda rig: rig.tick(5_000),
    ],
)
def test_nothing_after_the_end_is_told(late: Callable[[Rig], None]) -> None:
    rig = Rig()
    rig.answer(DONE)
    late(rig)
    assert (rig.lines, rig.ends) == (["."], [])
    assert rig.upstreams.status == "unknown"
    assert PauseUpstream(S) not in rig.said()


def test_a_response_that_was_paused_at_its_end_is_read_on_without_a_limit_for_silence() -> None:
    rig = Rig()
    rig.answer(say("a"))
    rig.upstreams.pause(S, Millis(0))
    rig.answer(DONE)  # it was under way
    rig.upstreams.resume(S, Millis(0))
    rig.tick(400)  # idle_timeout is 300
    assert (rig.ends, rig.said()) == ([], [PauseUpstream(S), ResumeUpstream(S)])
    rig.tick(1_000)
    assert rig.said() == [CancelUpstream(S)]


# -- silence ---------------------------------------------------------------------------------------


def test_a_model_that_does_not_begin_in_time_is_given_up() -> None:
    rig = Rig()
    rig.tick(999)
    assert rig.ends == []
    rig.tick(1_000)
    assert rig.ends == [(Code.FIRST_TOKEN_TIMEOUT, "nothing came for 1000 ms")]
    assert rig.said() == [CancelUpstream(S)]
    assert rig.idle


@pytest.mark.parametrize("last", [150, 900])  # long before, and shortly before the first limit
def test_a_model_that_falls_silent_is_given_up(last: int) -> None:
    rig = Rig()
    rig.answer(say("a"), now=50)
    rig.answer(say("a"), now=150)
    for now in range(200, last, 200):
        rig.answer(say("a"), now=now)
        rig.tick(now)
    rig.answer(say("a"), now=last)
    rig.tick(last + 299)
    assert rig.ends == []
    rig.tick(last + 300)
    assert rig.ends == [(Code.IDLE_TIMEOUT, "nothing came for 300 ms")]


def test_a_model_that_goes_on_is_not_given_up() -> None:
    rig = Rig()
    for now in range(0, 5_000, 250):
        rig.answer(say("a"), now=now)
        rig.tick(now)
    assert rig.ends == []


@pytest.mark.parametrize(
    ("begun", "fails_at"),
    [
        (False, 11_000 - 200),  # 200 of 1,000 had passed before the pause
        (True, 10_300 - 150),  # 150 of 300
    ],
)
def test_the_clock_of_silence_stands_still_in_a_pause(begun: bool, fails_at: int) -> None:
    rig = Rig()
    if begun:
        rig.answer(say("a"), now=50)
    rig.upstreams.pause(S, Millis(200))
    rig.tick(9_999)
    assert rig.ends == []
    rig.upstreams.resume(S, Millis(10_000))
    rig.tick(fails_at - 1)
    assert rig.ends == []
    rig.tick(fails_at)
    code = Code.IDLE_TIMEOUT if begun else Code.FIRST_TOKEN_TIMEOUT
    assert [end for end, _ in rig.ends] == [code]


def test_what_still_came_in_a_pause_is_no_silence() -> None:
    rig = Rig()
    rig.answer(say("a"))
    rig.upstreams.pause(S, Millis(200))
    rig.answer(say("b"), now=250)
    rig.upstreams.resume(S, Millis(1_000))
    rig.tick(1_299)
    assert rig.ends == []
    rig.tick(1_300)
    assert [end for end, _ in rig.ends] == [Code.IDLE_TIMEOUT]


def test_a_first_line_that_still_came_in_a_pause_starts_no_clock() -> None:
    rig = Rig()
    rig.upstreams.pause(S, Millis(0))
    rig.answer(say("a"), now=50)
    rig.tick(9_000)
    assert rig.ends == []


def test_pause_and_resume_alternate() -> None:
    rig = Rig()
    rig.upstreams.resume(S, Millis(0))
    for _ in range(2):
        rig.upstreams.pause(S, Millis(0))
        rig.upstreams.pause(S, Millis(0))
        rig.upstreams.resume(S, Millis(0))
        rig.upstreams.resume(S, Millis(0))
    assert rig.said() == [PauseUpstream(S), ResumeUpstream(S)] * 2


@pytest.mark.parametrize("state", ["asked", "begun", "in mid-line", "paused", "lingering"])
def test_a_cancel_closes_the_models_connection_in_every_state(state: str) -> None:
    rig = Rig()
    if state != "asked":
        rig.answer(say("a"))
    if state == "in mid-line":
        rig.answer(say("b")[:5])
    if state == "paused":
        rig.upstreams.pause(S, Millis(0))
    if state == "lingering":
        rig.answer(DONE)
    rig.said()
    rig.upstreams.cancel(S)
    rig.upstreams.cancel(S)
    assert rig.said() == [CancelUpstream(S)]
    assert (rig.ends, rig.idle) == ([], True)


# -- what the model server offers ------------------------------------------------------------------

TAGS = b'{"models":[{"name":"b"},{"name":"a:1b"}]}'


@pytest.mark.parametrize(
    ("status", "body", "health", "models"),
    [
        (200, TAGS, "ok", {"a:1b", "b:latest"}),
        (200, b'{"models":[]}', "ok", frozenset()),
        (200, b"<html>", "down", None),
        (404, TAGS, "down", None),
        (500, b"", "down", None),
        (None, b"", "down", None),
    ],
)
def test_a_probe_tells_the_health_and_the_models(
    status: int | None, body: bytes, health: str, models: set[str] | None
) -> None:
    rig = Rig()
    rig.upstreams.probed(status, body, Millis(0))
    assert (rig.upstreams.status, rig.upstreams.models) == (health, models)


def test_a_change_of_health_is_noticed_once() -> None:
    rig = Rig()
    up = Notice("info", "upstream_ok", (("models", "a:1b, b:latest"),))
    down = Notice("warning", "upstream_down")
    for status, notices in ((200, [up]), (200, []), (None, [down]), (500, []), (200, [up])):
        rig.upstreams.probed(status, TAGS, Millis(0))
        assert rig.said() == notices


def test_a_request_that_finds_the_server_down_is_a_change_of_health_too() -> None:
    rig = Rig()
    rig.upstreams.probed(200, TAGS, Millis(0))
    rig.said()
    rig.upstreams.receive_failure(S, reached=False, now=Millis(0))
    assert rig.said() == [Notice("warning", "upstream_down")]
    assert rig.upstreams.models is None
    rig.upstreams.probed(None, b"", Millis(0))
    assert rig.said() == []


def test_the_next_probe_comes_after_its_interval() -> None:
    rig = Rig()
    assert [timer for timer, _ in rig.timers.due(Millis(0))] == [Timer.UPSTREAM_PROBE]
    rig.upstreams.probe(Millis(5))
    assert rig.said() == [ProbeUpstream(ollama.LIST_MODELS)]
    early = [timer for timer, _ in rig.timers.due(Millis(4 + SPEC.upstream_probe_interval))]
    assert Timer.UPSTREAM_PROBE not in early
    # No answer has come: that is the runtime's fault, and no reason to stop looking.
    due = list(rig.timers.due(Millis(5 + SPEC.upstream_probe_interval)))
    assert due == [(Timer.UPSTREAM_PROBE, 0)]


def test_what_is_held_of_an_unfinished_line_is_told_when_it_changes() -> None:
    rig = Rig(Config(upstream_line_bytes=10_000))
    rig.answer(
        b'{"message":{"content":"', b"a" * 1_000, b"a", b"a" * 2_000, b'"},"done":false}\n{', b"}"
    )
    assert rig.held == [1_024, 3_024, 1]
    rig = Rig()
    rig.answer(b'{"message":{"content":"a"},"done":false}\n', b"x" * 101)
    assert rig.held == []


def test_a_listener_may_have_no_room_for_a_line_that_is_not_whole() -> None:
    rig = Rig(Config(upstream_line_bytes=10_000))
    rig.on_held = lambda: rig.upstreams.cancel(S)
    rig.answer(b'{"message":{"content":"a"},"done":false}\n{"' + b"b" * 2_000)
    assert (rig.held, rig.lines, rig.ends) == ([2_002], [], [])
