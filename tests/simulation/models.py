"""Scripted models: what each says, when, and how it ends.

Rules of this file: a script is drawn whole before its stream is asked for, so that everybody knows
what its text must be. Each piece of text holds the key of its stream, and so is nobody else's.
"""

import enum
from typing import Protocol

import msgspec
from simulation.loop import Loop, Violation
from simulation.settings import MODEL_READ
from tokenwire.server import Server
from tokenwire.types import StreamId


class Kind(enum.Enum):
    """What a model does."""

    NORMAL = "normal"
    BURST = "burst"
    DRIP = "drip"
    ENDLESS = "endless"
    SILENT = "silent"
    HANG = "hang"
    GARBAGE = "garbage"
    ERROR_LINE = "error line"
    CUT = "cut in mid-line"
    BROKEN = "broken connection"
    REFUSED = "refused connection"
    BUSY = "busy"


WEIGHTS = {**dict.fromkeys(Kind, 1), Kind.NORMAL: 8, Kind.BURST: 8, Kind.DRIP: 3}

CODES = {
    Kind.ENDLESS: "stream_timeout",
    Kind.SILENT: "first_token_timeout",
    Kind.HANG: "idle_timeout",
    Kind.GARBAGE: "upstream_error",
    Kind.ERROR_LINE: "upstream_error",
    Kind.CUT: "upstream_truncated",
    Kind.BROKEN: "upstream_truncated",
    Kind.REFUSED: "upstream_unavailable",
    Kind.BUSY: "upstream_busy",
}
"""The code with which a model's stream ends; those that are missing are done."""


class Script:
    """What one model says."""

    def __init__(self, loop: Loop, owner: int, number: int) -> None:
        draw = loop.draw
        self.owner = owner
        """The number of its client."""
        self.name = f"s{number}"
        """The streamId: other clients have the same."""
        self.key = f"{owner}/{number}"
        """The prompt."""
        self.kind = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        self.first_after = draw.choice((0, 5, 50, 400, 3_000))
        self.pause = draw.choice((1, 10, 40, 90))
        """Between two reads, in ms."""
        count, width = draw.randint(0, 60), draw.choice((1, 3, 12, 60))
        match self.kind:
            case Kind.BURST:
                count, self.pause = draw.randint(50, 900), draw.choice((0, 1, 5))
            case Kind.DRIP:
                count, self.pause = draw.randint(2, 8), draw.randint(300, 1_200)
            case Kind.ENDLESS:
                count, self.pause = 400, 180
            case Kind.SILENT | Kind.REFUSED | Kind.BUSY:
                count = 0
            case Kind.HANG:
                count += 1
            case _:
                pass
        self.stood_still = 0
        """For how long its model was paused, in ms."""
        self.tokens: list[str] = []
        self.said = [0]
        """How many bytes of text have been said after so many lines."""
        self.ends = [0]
        """How many bytes of text so many tokens have."""
        lines: list[bytes] = []
        for number in range(count):
            text = self._piece(number, width)
            if loop.chance(0.05):
                lines.append(_line(""))  # no token
                self.said.append(self.said[-1])
            self.tokens.append(text)
            lines.append(_line(text))
            self.ends.append(self.ends[-1] + len(text.encode()))
            self.said.append(self.ends[-1])
        self.size = self.said[-1]
        """Bytes of text."""
        self.reads = self._cut(loop, lines)

    def _piece(self, number: int, width: int) -> str:
        """Return a token. The width of text is in characters, of one byte to four."""
        if width == 1:
            return chr(97 + (number + self.owner * 7) % 26)
        filling = "\u00e9" if width == 12 else "\U0001f389" if width == 60 else ""
        return f"{self.key}:{number} " + filling * (width // 4)

    def _cut(self, loop: Loop, lines: list[bytes]) -> list[bytes]:
        """Return what is read of the answer, cut anywhere."""
        if self.kind in (Kind.NORMAL, Kind.DRIP, Kind.ENDLESS, Kind.HANG):
            reads = lines
            if loop.chance(0.3):
                reads = [half for line in lines for half in (line[:9], line[9:])]
            return reads
        data = b"".join(lines)
        reads = []
        while data:
            size = loop.draw.randint(1, MODEL_READ)
            reads.append(data[:size])
            data = data[size:]
        return reads

    def text(self, first: int, last: int) -> str:
        """Return the text of tokens `first` to `last`."""
        return "".join(self.tokens[first - 1 : last])

    @property
    def code(self) -> str | None:
        """The code with which its stream ends; None: it is done."""
        return CODES.get(self.kind)


def _line(text: str) -> bytes:
    return msgspec.json.encode({"message": {"content": text}, "done": False}) + b"\n"


END = msgspec.json.encode({"message": {"content": ""}, "done": True, "done_reason": "stop"}) + b"\n"


class Host(Protocol):
    """Who runs the server (`node.py`)."""

    loop: Loop
    server: Server

    def upstream(self, model: "Model", what: str, data: bytes = b"", status: int = 200) -> None:
        """Tell the server what a model does."""
        ...


class Model:
    """The model server's side of one stream."""

    def __init__(self, node: Host, stream: StreamId, script: Script) -> None:
        self.stream = stream
        self.script = script
        self.paused = False
        self.cancelled = False
        self.told_end = False
        """True: the server was told that there will be no more."""
        self.said = 0
        """How many bytes of text it has said."""
        self.over_at: int | None = None
        """When the stream was over for the server, as far as can be seen here."""
        self._node = node
        self._reads = list(reversed(script.reads))
        self._lines = 0
        self._waiting = False
        self._paused_at = node.loop.now
        node.loop.later(script.first_after, self._begin)

    @property
    def over(self) -> bool:
        return self.cancelled or self.told_end

    def _say(self, what: str, data: bytes = b"", status: int = 200) -> None:
        if what in ("eof", "failed", "not reached"):
            self._end()
        self._node.upstream(self, what, data, status)

    def _end(self) -> None:
        self.told_end = True
        self.over_at = self.over_at or self._node.loop.now

    def _begin(self) -> None:
        if self.over:
            return
        if self.script.kind is Kind.REFUSED:
            self._say("not reached")
            return
        self._say("status", status=503 if self.script.kind is Kind.BUSY else 200)
        self._go_on(0)

    def _go_on(self, span: int) -> None:
        self._node.loop.later(span, self._read)

    def _read(self) -> None:
        """Say the next piece, unless nobody reads."""
        if self.over:
            return
        if self.paused:
            self._waiting = True
            return
        if self._reads:
            data = self._reads.pop()
            self._lines += data.count(b"\n")
            self.said = self.script.said[self._lines]
            self._say("data", data)
            self._go_on(self.script.pause)
        else:
            self._finish()

    def _finish(self) -> None:
        match self.script.kind:
            case Kind.NORMAL | Kind.BURST | Kind.DRIP:
                self.over_at = self._node.loop.now
                self._say("data", END)
                if not self._node.loop.chance(0.2):  # else the response lingers
                    self._say("eof")
            case Kind.GARBAGE:
                self._say("data", b'{"message":\n')
            case Kind.ERROR_LINE:
                self._say("data", b'{"error":"out of memory"}\n')
            case Kind.CUT:
                self._say("data", _line("cut")[:-9])
                self._say("eof")
            case Kind.BROKEN:
                self._say("failed")
            case _:  # nothing more comes
                pass

    # -- what the server wants ---------------------------------------------------------------------

    def pause(self) -> None:
        if self.paused or self.over:
            raise Violation("a model is paused that is paused or over")
        self.paused = True
        self._paused_at = self._node.loop.now

    def resume(self) -> None:
        if not self.paused or self.over:
            raise Violation("a model is resumed that is not paused, or over")
        self.paused = False
        self.script.stood_still += self._node.loop.now - self._paused_at
        if self._waiting:
            self._waiting = False
            self._go_on(0)

    def cancel(self) -> None:
        """The connection is closed. A piece may still have been on its way."""
        if self.cancelled:
            raise Violation("a model is cancelled twice")
        if self.told_end:  # its answer is over, and was bad
            return
        self.cancelled = True
        if self.paused:
            self.script.stood_still += self._node.loop.now - self._paused_at
        self.over_at = self.over_at or self._node.loop.now
        if self._node.loop.chance(0.5):
            late = self._reads[-3:][::-1] or [END]
            self._node.loop.later(0, lambda: self._say_late(late))

    def _say_late(self, late: list[bytes]) -> None:
        for data in late:
            self._node.upstream(self, "data", data)
        self._node.upstream(self, "eof")
