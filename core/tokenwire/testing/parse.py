"""What a client reads off its socket: HTTP responses and WebSocket frames, parsed for tests.

Rules of this file: lenient and slow, no use in production. Each function takes what is whole and
returns the rest.
"""

import msgspec


class Answer(msgspec.Struct):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    """Names in lower case; the values of a field that stands twice are joined by ", "."""
    body: bytes


class Frame(msgspec.Struct):
    """A WebSocket frame of a server."""

    opcode: int
    payload: bytes

    @property
    def text(self) -> str:
        return self.payload.decode()


def take_answer(data: bytes, *, head: bool = False) -> tuple[Answer | None, bytes]:
    """Take one whole response off the front of `data`.

    Args:
        data: what has come.
        head: True: it answers a HEAD request, and so has no body.
    """
    start, separator, rest = data.partition(b"\r\n\r\n")
    if not separator:
        return None, data
    status_line, *lines = start.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for name, _, value in [line.partition(": ") for line in lines]:
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    size = 0 if head else int(headers.get("content-length", "0"))
    if len(rest) < size:
        return None, data
    return Answer(int(status_line.split()[1]), headers, rest[:size]), rest[size:]


def take_frames(data: bytes) -> tuple[list[Frame], bytes]:
    """Take all whole frames off the front of `data` (RFC 6455 5.2, unmasked, unfragmented)."""
    taken: list[Frame] = []
    while len(data) >= 2:
        size, at = data[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
        if len(data) < at + size:
            break
        taken.append(Frame(data[0] & 0x0F, data[at : at + size]))
        data = data[at + size :]
    return taken, data
