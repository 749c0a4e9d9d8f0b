"""WebSocket frames (RFC 6455 5.2): those we send, and of those that come the usual ones, and sizes.

Rules of this file: what we send is byte for byte what wsproto would make (a test holds them
together), at a fifteenth of its cost, on the path of every token; a masking key is the caller's,
where wsproto would draw one. Of what comes, a message that is whole and in order is read here;
wsproto judges all else, whose headers are followed before it sees them: it tells of a frame's size
only as its payload comes.
"""

from tokenwire.wire import Binary

_FIN = 0x80
TEXT = _FIN | 0x1
BINARY = _FIN | 0x2
CLOSE = _FIN | 0x8
PONG = _FIN | 0xA

MASK_BYTES = 4
_MASKED = 0x80
_CONTROL = 0x8


def header(first_byte: int, size: int) -> bytes:
    """Return the frame header of an unfragmented, unmasked payload of `size` bytes."""
    if size < 126:
        return bytes((first_byte, size))
    if size < 65_536:
        return bytes((first_byte, 126, size >> 8, size & 0xFF))
    return bytes((first_byte, 127)) + size.to_bytes(8, "big")


def masked(first_byte: int, payload: bytes, key: bytes) -> bytes:
    """Return a whole frame as a client sends it.

    Args:
        first_byte: FIN and the opcode.
        payload: what it carries.
        key: 4 bytes that nobody can foresee (5.3).
    """
    head = header(first_byte, len(payload))
    second_byte = head[1] | _MASKED
    return b"%c%c%b%b%b" % (first_byte, second_byte, head[2:], key, _mask(payload, key))


def read_message(
    data: bytes, at: int, *, max_size: int, is_masked: bool
) -> tuple[bytes, int] | None:
    """Read a frame that is a whole message, is there as a whole, and breaks no rule.

    Args:
        data: what has come.
        at: where in it a frame begins, between two messages.
        max_size: the largest message that is taken.
        is_masked: the frame must be masked (5.1), or must not be.

    Returns:
        The message, of the type Binary if it is no text, and where the next frame begins. None: it
        is another frame, or not whole, or not in order.
    """
    if len(data) < at + 2 or data[at] not in (TEXT, BINARY):
        return None
    size = data[at + 1] ^ _MASKED if is_masked else data[at + 1]
    start = at + 2
    if size == 126:
        start += 2
        size = int.from_bytes(data[at + 2 : start], "big")
        if size < 126:  # the shortest form is a must
            return None
    elif size > 126:  # 8 bytes of length, or a mask where none should be
        return None
    if is_masked:
        start += MASK_BYTES
    end = start + size
    if len(data) < end or size > max_size:
        return None
    message = data[start:end]
    if is_masked:
        message = _mask(message, data[start - MASK_BYTES : start])
    if data[at] == BINARY:
        return Binary(message), end
    try:
        message.decode()
    except UnicodeDecodeError:
        return None
    return message, end


def _mask(payload: bytes, key: bytes) -> bytes:
    """Return the payload with its masking put on, or taken off (5.3)."""
    size = len(payload)
    repeated = (key * (size // MASK_BYTES + 1))[:size]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return mixed.to_bytes(size, "big")


class SizeGuard:
    """Follows the frames of one peer and says where they go beyond a limit.

    It does not look whether frames are in order otherwise: wsproto does, with the same bytes.
    """

    __slots__ = (
        "_fragments", "_head", "_in_message", "_mask_bytes", "_max_fragments", "_max_message",
        "_size", "_skip",
    )  # fmt: skip

    def __init__(self, *, max_message: int, max_fragments: int, masked: bool = True) -> None:
        self._max_message = max_message
        self._max_fragments = max_fragments
        self._mask_bytes = MASK_BYTES if masked else 0
        self._head = bytearray()
        """The header that is not whole yet."""
        self._skip = 0
        """How much comes before the next header."""
        self._size = 0
        """Of the message so far, as announced."""
        self._fragments = 0
        self._in_message = False
        """True: more fragments of a message are to come."""

    @property
    def between_messages(self) -> bool:
        """True: nothing is begun, neither a frame nor a message."""
        return not (self._head or self._skip or self._in_message)

    def feed(self, data: bytes) -> int | None:
        """Follow a piece of the stream.

        Returns:
            None, or where in `data` a header is that announces too much: its last byte but the
            masking key. All before it is in order.
        """
        at = 0
        while at < len(data):
            if self._skip:
                skipped = min(self._skip, len(data) - at)
                self._skip -= skipped
                at += skipped
                continue
            self._head.append(data[at])
            size = _announced(self._head)
            if size is not None:
                if not self._accept(self._head[0], size):
                    return at
                self._head.clear()
                self._skip = self._mask_bytes + size
            at += 1
        return None

    def _accept(self, first_byte: int, size: int) -> bool:
        opcode = first_byte & 0x0F
        if opcode & _CONTROL:
            return True
        if opcode or not self._in_message:  # else it goes on; one of nothing is out of order
            self._size = self._fragments = 0
        self._size += size
        self._fragments += 1
        self._in_message = not first_byte & _FIN
        return self._size <= self._max_message and self._fragments <= self._max_fragments


def _announced(head: bytearray) -> int | None:
    """Return the size of the payload that a header announces, or None if it is not whole yet."""
    if len(head) < 2:
        return None
    size = head[1] & 0x7F
    if size < 126:
        return size
    width = 2 if size == 126 else 8
    return int.from_bytes(head[2:], "big") if len(head) == 2 + width else None
