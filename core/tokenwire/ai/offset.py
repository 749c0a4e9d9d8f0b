"""Offsets of connection state recovery on the AI namespace: what a client has been handed.

Rules of this file: an offset is opaque to clients.
`<name>.<control>.<streams>[.<number>.<seq>.<lane>]...`: the name of the session's journal; how many
events without a stream; how many streams there were; and for each of those that is not over for the
client, the last token and how many other events it has. A stream that is not named is over for it,
if it was there; if it was not, the client has nothing of it.
"""

import re

import msgspec

_MAX_CHARS = 12 * 1024  # a thousand streams at once; `connect_bytes` is more
_NUMBERS = re.compile(r"[0-9]{1,15}\.[0-9]{1,15}(?:\.[0-9]{1,15}\.[0-9]{1,15}\.[0-9]{1,15})*")


class Offset(msgspec.Struct, frozen=True):
    """A parsed offset."""

    control: int
    """How many events without a stream."""
    streams: int
    positions: dict[int, tuple[int, int]]
    """By the stream's number: the last token, and how many other events."""

    def position(self, number: int) -> tuple[int, int] | None:
        """Return how far the client has a stream; None: all of it."""
        known = self.positions.get(number)
        if known is not None:
            return known
        return None if number <= self.streams else (0, 0)


NOTHING = Offset(0, 0, {})
"""Of a client that has not been handed anything."""


def parse(value: object, name: str) -> Offset | None:
    """Return the offset that a client sent, or None if it is none.

    Args:
        value: anything. What is no offset of this journal says that nothing of it was seen: the
            stock client sends that of an earlier session.
        name: the journal's.
    """
    if not isinstance(value, str):
        return NOTHING
    own, _, rest = value.partition(".")
    if own != name:
        return NOTHING
    if len(rest) > _MAX_CHARS or not _NUMBERS.fullmatch(rest):
        return None
    control, streams, *numbers = map(int, rest.split("."))
    positions = {
        number: (seq, lane)
        for number, seq, lane in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    }
    return Offset(control, streams, positions)
