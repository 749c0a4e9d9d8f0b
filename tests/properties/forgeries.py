"""What thieves show to take over a session: ids, pids and offsets that are near the true ones.

Rules of this file: every forgery is made of what an owner has, by a change that makes it worthless.
The tables name each kind once.
"""

import random
import string
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

LATEST = 64
"""Of the secrets that are over, so many are tried."""
_LETTERS = string.ascii_letters + string.digits + "-_"


class Secrets(NamedTuple):
    """By what a client shows who it is."""

    client_id: str
    pid: str
    offset: str


class Over:
    """Secrets that are over: used, or too old."""

    def __init__(self) -> None:
        self.latest: deque[Secrets] = deque(maxlen=LATEST)
        self._expiring: deque[tuple[int, Secrets]] = deque()

    def expire_at(self, at: int, secrets: Secrets) -> None:
        """They are of a client that has left."""
        self._expiring.append((at, secrets))

    def look(self, now: int) -> None:
        while self._expiring and self._expiring[0][0] <= now:
            self.latest.append(self._expiring.popleft()[1])


class Forger:
    """Makes what thieves show, from what they can know."""

    def __init__(self, draw: random.Random, over: Over) -> None:
        self._draw = draw
        self._over = over
        self.victim = self.other = self.own = Secrets("x.y", "x", "x.0.0")

    def number(self, start: int, end: int) -> int:
        return self._draw.randrange(start, end)

    def mutated(self, text: str, start: int, end: int) -> str:
        """Return `text` with another letter at a place from `start` to before `end`."""
        at = self._draw.randrange(start, end)
        letter = self._draw.choice(_LETTERS.replace(text[at], ""))
        return text[:at] + letter + text[at + 1 :]

    def random_text(self, size: int) -> str:
        return "".join(self._draw.choices(_LETTERS, k=size))

    def cut(self, text: str) -> str:
        return text[: self._draw.randrange(len(text))]

    def longer(self, text: str) -> str:
        extra = self._draw.choice(["=", " ", "\0", ".", "\n", "A", "\u200b", ".."])
        return text + extra if self._draw.random() < 0.5 else extra + text

    def unicode(self, text: str) -> str:
        at = self._draw.randrange(len(text))
        kin = [chr(0xFEE0 + ord(text[at])), text[at] + "\u0301", "\u0430", "\U0001f511", "\ud800"]
        return text[:at] + self._draw.choice(kin) + text[at + 1 :]

    def no_string(self, text: str) -> object:
        return self._draw.choice([None, True, 0, -1.5, [text], {"$ne": ""}, {"clientId": text}, []])

    def gone(self) -> Secrets:
        """Return secrets that are over."""
        if self._over.latest:
            return self._draw.choice(self._over.latest)
        return Secrets(f"{self.random_text(22)}.{self.random_text(22)}", self.random_text(24), "")


def _halves(client_id: str) -> tuple[str, str]:
    public, _, secret = client_id.partition(".")
    return public, secret


Forgery = Callable[[Forger], object]

CLIENT_IDS: dict[str, Forgery] = {
    "a clientId with a wrong letter in its secret": lambda f: f.mutated(
        f.victim.client_id, f.victim.client_id.index(".") + 1, len(f.victim.client_id)
    ),
    "with a wrong letter in its public part": lambda f: f.mutated(
        f.victim.client_id, 0, f.victim.client_id.index(".")
    ),
    "cut off": lambda f: f.cut(f.victim.client_id),
    "longer": lambda f: f.longer(f.victim.client_id),
    "its public part alone": lambda f: _halves(f.victim.client_id)[0],
    "its halves swapped": lambda f: ".".join(reversed(_halves(f.victim.client_id))),
    "its public part with an own secret": lambda f: (
        f"{_halves(f.victim.client_id)[0]}.{_halves(f.own.client_id)[1]}"
    ),
    "its public part with another's": lambda f: (
        f"{_halves(f.victim.client_id)[0]}.{_halves(f.gone().client_id)[1]}"
    ),
    "an own public part with its secret wrong": lambda f: (
        f"{_halves(f.own.client_id)[0]}.{_halves(f.gone().client_id)[1]}"
    ),
    "in other cases": lambda f: f.victim.client_id.swapcase(),
    "with other characters": lambda f: f.unicode(f.victim.client_id),
    "a pid": lambda f: f.victim.pid or f.other.pid,
    "an offset": lambda f: f.victim.offset or f.other.offset,
    "empty": lambda f: "",
    "huge": lambda f: f.victim.client_id * f.number(2, 100),
    "at random": lambda f: f"{f.random_text(22)}.{f.random_text(22)}",
    "no string": lambda f: f.no_string(f.victim.client_id),
    "used, or too old": lambda f: f.gone().client_id,
}
PIDS: dict[str, Forgery] = {
    "a pid with a wrong letter": lambda f: f.mutated(_pid(f), 0, len(_pid(f))),
    "a pid cut off": lambda f: f.cut(_pid(f)),
    "a pid longer": lambda f: f.longer(_pid(f)),
    "a pid in other cases": lambda f: _pid(f).swapcase(),
    "a pid with other characters": lambda f: f.unicode(_pid(f)),
    "a clientId for a pid": lambda f: f.victim.client_id,
    "an offset for a pid": lambda f: f.victim.offset or f.other.offset or "x",
    "an empty pid": lambda f: "",
    "a huge pid": lambda f: _pid(f) * f.number(2, 50),
    "a pid at random": lambda f: f.random_text(24),
    "a pid that is no string": lambda f: f.no_string(_pid(f)),
    "a pid used, or too old": lambda f: f.gone().pid or f.random_text(24),
}
OFFSETS: dict[str, Forgery] = {
    "another's offset": lambda f: f.victim.offset or f.other.offset,
    "of another's journal and the future": lambda f: (
        f"{(f.victim.offset or 'x.').partition('.')[0]}.99.99.1.99.9"
    ),
    "of the own journal and the future": lambda f: (
        f"{f.own.offset.partition('.')[0]}.{'9' * f.number(1, 16)}.99.1.99.9"
    ),
    "streams that there are not": lambda f: (
        f"{f.own.offset.partition('.')[0]}.1.0.{f.number(0, 10**15)}.0.0"
    ),
    "huge numbers": lambda f: f"{f.own.offset.partition('.')[0]}.{'9' * f.number(1, 999)}",
    "no string": lambda f: f.no_string(f.victim.offset),
    "an offset with other characters": lambda f: f.unicode(f.victim.offset or "x.1.1"),
}


def _pid(forger: Forger) -> str:
    return forger.victim.pid or forger.other.pid or "x" * 24
