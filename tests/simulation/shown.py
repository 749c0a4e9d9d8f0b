"""One stream as its client shows it: every event of it is checked against the model's script.

Rules of this file: the text has no hole but one that was announced, nothing twice, and it is the
script's. One terminal event ends it, and stays the same however often the stream is shown again.
"""

import msgspec
from simulation.loop import Violation
from simulation.models import Kind, Script
from simulation.settings import CONFIG

Fields = dict[str, object]

TERMINAL = ("ai:done", "ai:stream:cancelled", "ai:stream:error")


class Shown:
    """One stream of a client."""

    def __init__(self, script: Script) -> None:
        self.name = script.name
        self.script = script
        self.seq = 0
        """The last token that is shown."""
        self.furthest = 0
        """The last token that it ever had."""
        self.epoch: str | None = None
        """Not None: it has started."""
        self.holed = False
        """True: a part of the text is missing, and that was said."""
        self.ended = False
        self.final: str | None = None
        """How it ended: the terminal event, and the code of an error."""
        self.refused = False
        self.cancel_asked = False
        self.excused: str | None = None
        """Why nothing more may come of it."""
        self.pardoned = False
        """True: its client was out of touch for so long that the server may have forgotten it."""
        self.asked_anew = False
        """True: it was asked for again, which begins it anew if it has ended meanwhile."""
        self.astray = False
        """True: its client asked for it anew and with a cursor that did not know of that, or has
        lost the tail of the one that had ended; until it starts again, nobody can tell which."""
        self._completed = False
        self._kept_from: int | None = None
        """The first token that there is, if the beginning is not kept."""
        self._back: int | None = None
        """A token with which it may go on, instead of the next one."""

    @property
    def settled(self) -> bool:
        """Return True if nothing more has to come."""
        return self.ended or self.refused or self.excused is not None

    def take(self, name: str, fields: Fields) -> None:
        """Take an event of the stream."""
        if self.excused is not None:
            raise Violation(f"{name} of {self.script.key}, which is gone: {self.excused}")
        if self.astray and name != "ai:stream:start":
            self.ended |= name in TERMINAL
            return
        if self.ended and name != "ai:stream:start":
            raise Violation(f"{name} of {self.script.key} behind its end")
        match name:
            case "ai:stream:start":
                self._start(fields)
            case "ai:token":
                self._token(fields)
            case "ai:stream:complete":
                if self._completed:
                    raise Violation(f"{self.script.key} is complete twice")
                self._completed = True
            case "ai:done":
                self._done(fields)
            case "ai:stream:cancelled":
                if not self.cancel_asked:
                    raise Violation(f"nobody has cancelled {self.script.key}")
                self._end(name)
            case "ai:stream:error":
                self._fail(str(fields["code"]))
            case "ai:backpressure":
                self._must_have_started(name)
            case _:
                raise Violation(f"an unknown event of a stream: {name}")

    def _must_have_started(self, name: str) -> None:
        if self.epoch is None and self._kept_from is None:
            raise Violation(f"{name} of {self.script.key} before its start")

    def _start(self, fields: Fields) -> None:
        resumed = fields.get("resumed") is True
        if self.epoch is not None and not self.asked_anew:
            if not resumed:
                raise Violation(f"a second start of {self.script.key}")
            if self.epoch != fields["epoch"]:
                raise Violation(f"another epoch of {self.script.key}")
        if self.epoch != fields["epoch"]:
            self.final = None
        self.epoch = str(fields["epoch"])
        self._back = None if resumed else self._kept_from
        self.seq = 0
        self.holed = self.astray = False
        self.again()

    def _token(self, fields: Fields) -> None:
        self._must_have_started("a token")
        metadata = fields["metadata"]
        assert isinstance(metadata, dict)
        last = msgspec.convert(fields["seq"], int)
        first = last - int(metadata.get("tokens", 1)) + 1
        if first not in (self.seq + 1, self._back):
            if self.asked_anew:
                self.astray = True
                return
            raise Violation(f"token {first} of {self.script.key} follows {self.seq}")
        if self._completed:
            raise Violation(f"a token of {self.script.key} behind complete")
        if fields["data"] != self.script.text(first, last):
            raise Violation(f"the text of {self.script.key} from {first} on is not the model's")
        if fields["tokenCount"] != last:
            raise Violation(f"tokenCount of {self.script.key} is not {last}")
        self.seq = last
        self.furthest = max(self.furthest, last)
        self._back = None

    def _done(self, fields: Fields) -> None:
        tokens = len(self.script.tokens)
        if self.asked_anew and self.seq != tokens:
            self.astray = self.ended = True
            return
        if not self._completed:
            raise Violation(f"{self.script.key} is done, and not complete")
        if self.script.code is not None:
            raise Violation(f"{self.script.key} is done, and its model is not")
        if not fields["totalTokens"] == self.seq == tokens:
            raise Violation(f"{self.script.key} is done with {self.seq} of {tokens} tokens")
        self._end("ai:done")

    def _fail(self, code: str) -> None:
        if self.asked_anew and code == self.script.code and self.seq != len(self.script.tokens):
            self.astray = self.ended = True
            return
        late = code == "stream_timeout" and self.script.stood_still > CONFIG.stream_timeout // 4
        if code not in (self.script.code, "server_shutting_down") and not late:
            raise Violation(f"{self.script.key}, {self.script.kind.value}, ends with {code}")
        whole = self.script.kind not in (Kind.ENDLESS, Kind.BUSY) and code == self.script.code
        if whole and self.seq != len(self.script.tokens):
            raise Violation(f"{self.script.key} has failed with {self.seq} tokens")
        self._end(f"ai:stream:error {code}")

    def _end(self, final: str) -> None:
        self._must_have_started(final)
        if self.final not in (None, final):
            raise Violation(f"{self.script.key} ends with {final}, and before with {self.final}")
        self.final = final
        self.ended = True

    # -- shown again -------------------------------------------------------------------------------

    def again(self) -> None:
        """The end of the stream is said again."""
        self.ended = self._completed = False

    def go_on_with(self, seq: int) -> None:
        """The server has said that this token comes next."""
        if seq > self.seq + 1:
            if self.asked_anew:
                self.astray = True
                return
            raise Violation(f"a hole in {self.script.key} before {seq}, after {self.seq}")
        self.seq = seq - 1

    def gap(self, first_seq: int) -> None:
        """The server has said that there is no text before this token."""
        if first_seq < 2:
            raise Violation(f"a gap in {self.script.key} where all is kept")
        self.again()
        self._kept_from = first_seq
        if first_seq > self.seq + 1:
            self.holed = True
            self.seq = first_seq - 1
            self.furthest = max(self.furthest, self.seq)
        else:
            self._back = first_seq
