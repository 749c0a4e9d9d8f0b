"""Valid messages of every layer, and mutations of them, as a seeded generator draws them.

Rules of this file: nothing here knows the server. A mutated message is a good one with a few edits,
since bytes at random end at the first guard. What only a conversation knows (the sid, the clientId)
stands as a placeholder of the same length, put in when the message is sent; frames are therefore
masked with zeros, which RFC 6455 5.3 allows.
"""

import binascii
import random
from collections.abc import Callable, Sequence

import msgspec

SID = b"<sid>---------------"
CLIENT_ID = b"<clientId>-----------------------------------"
PID = b"<pid>-------------------"
STRANGER = b"AAAAAAAAAAAAAAAAAAAAAA.BBBBBBBBBBBBBBBBBBBBBB"
SEPARATOR = b"\x1e"

# -- HTTP ------------------------------------------------------------------------------------------

UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)
OF_SESSION = b"/socket.io/?EIO=4&transport=polling&sid=" + SID
PROBING = b"/socket.io/?EIO=4&transport=websocket&sid=" + SID
POLLING = b"/socket.io/?EIO=4&transport=polling"
WEBSOCKET = b"/socket.io/?EIO=4&transport=websocket"


def request(method: bytes, target: bytes, fields: bytes = b"", body: bytes | None = None) -> bytes:
    """Return one HTTP request; with a body, of the right length."""
    if body is not None:
        fields += b"Content-Length: %d\r\n" % len(body)
    return b"%b %b HTTP/1.1\r\nHost: x\r\n%b\r\n%b" % (method, target, fields, body or b"")


REQUESTS = (
    request(b"GET", POLLING),
    request(b"GET", POLLING, b"Origin: http://localhost:5173\r\n"),
    request(b"GET", OF_SESSION),
    request(b"POST", OF_SESSION, body=b"40"),
    request(b"POST", OF_SESSION, body=b"3\x1e42[1,2]"),
    request(b"POST", OF_SESSION, b"Content-Type: text/plain;charset=UTF-8\r\n", b'42["message"]'),
    request(b"POST", OF_SESSION, b"Transfer-Encoding: chunked\r\n") + b"2\r\n40\r\n0\r\n\r\n",
    request(b"PUT", OF_SESSION, body=b"40"),
    request(b"OPTIONS", b"/socket.io/", b"Origin: http://localhost:5173\r\n"),
    request(b"GET", b"/socket.io?EIO=3&transport=polling&t=Oabc123"),
    request(b"GET", WEBSOCKET, UPGRADE),
    request(b"GET", PROBING, UPGRADE),
    request(b"GET", b"/healthz"),
    request(b"HEAD", b"/page?a=%20b"),
    request(b"POST", b"/x", b"Expect: 100-continue\r\n", b"hello"),
    request(b"POST", b"/x", b"Transfer-Encoding: chunked\r\n") + b"a;\r\n0123456789\r\n0\r\n\r\n",
    request(b"POST", b"/x", b"Content-Type: application/json\r\n", b'{"a":[1,2,{"b":null}]}'),
    b"GET /x HTTP/1.0\r\n\r\n",
    request(b"GET", b"/x", b"Connection: close\r\n"),
)
HTTP_TOKENS = (
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b":", b",", b";", b"\r\n\r\n", b"\xff", b"%00"),
    *(b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1"),
    *(b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(
        b"Host: a, b\r\n",
        b"Connection: close\r\n",
        b"Expect: 100-continue\r\n",
        b"Origin: null\r\n",
    ),
    *(
        b"Upgrade: websocket\r\n",
        b"Sec-WebSocket-Version: 8\r\n",
        b" folded\r\n",
        b"sid=",
        b"&EIO=4",
    ),
    *(b"transport=websocket", b"ffffffff\r\n", b"0\r\n\r\n", b"99999999999999999999", b"?", b"#"),
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
)

# -- Engine.IO and Socket.IO -----------------------------------------------------------------------

ENGINE_PACKETS = (
    *(b"0", b"1", b"2", b"2probe", b"3", b"3probe", b"5", b"6", b"40", b"41", b"4", b"bAAEC", b""),
    *(b'42["message",1]', b'420["message-with-ack",1]', b"4" + b"x" * 40, b"b" + b"QUJD" * 9),
)
PLACEHOLDER = b'{"_placeholder":true,"num":%d}'
CONNECTS: tuple[tuple[bytes, ...], ...] = (
    *((b"0",), (b"0/x,",), (b'0/x,{"token":"t"}',), (b"1",), (b"1/x,",), (b"0/none,",), (b"0{}",)),
    *((b"0/dyn-1,",), (b'0/x,{"deny":"no"}',), (b'0{"ignore":1}',), (b'2["leave"]',)),
    *((b'0{"pid":"%b","offset":"1"}' % PID,), (b'0/x,{"pid":"%b"}' % PID,)),
)
EVENTS: tuple[tuple[bytes, ...], ...] = (
    *((b'2["message"]',), (b'2["message",1,"two",[3],{"four":null}]',), (b"2[7,8]",)),
    *((b'2/x,["message","x"]',), (b'213["message-with-ack",{"a":[true]}]',), (b'20["ask"]',)),
    *((b'2["enter","r"]',), (b'2/x,["enter","r"]',), (b'2/x,["exit","r"]',), (b'2["late",1]',)),
    *((b'2/x,["say","r",1]',), (b'2/x,["shout",{"a":1}]',), (b'2/x,["shout-volatile"]',)),
    *((b"30[]",), (b'3/x,1["yes"]',), (b'2["ask",[[[[1]]]]]',)),
    (b'51-["message",%b]' % (PLACEHOLDER % 0), b"\x01\x02\x03"),
    (b'52-/x,7["message-with-ack",%b,[%b]]' % (PLACEHOLDER % 0, PLACEHOLDER % 1), b"a", b""),
    (b"61-0[%b]" % (PLACEHOLDER % 0), b"\xff" * 30),
    (b'2["message","\\u00e9\\ud83d\\ude00 \xc3\xa9",1e10,-0.5]',),
)
SOCKET_TOKENS = (
    *(
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
        b"5",
        b"6",
        b"9",
        b"-",
        b"/",
        b",",
        b"/ai,",
        b"/x,",
        b"[",
        b"]",
    ),
    *(b"{", b"}", b'"', b"\\", b"\\u0000", b"\\ud800", b"null", b"1e999", b"9007199254740993"),
    *(b"_placeholder", b'{"_placeholder":true,"num":0}', b'{"_placeholder":true,"num":-1}', b"10-"),
    *(b'"connect"', b'"disconnect"', b'"__proto__":', b"[[[[[[[[[[[[", b"\x1e", b"\xff", b"\x00"),
    *(b"NaN", b"Infinity", b"99999999999999999", b"\xed\xa0\x80", b"\xe2\x80\xa8", b'""', b"{},"),
)

# -- the AI protocol -------------------------------------------------------------------------------

AI_EVENTS: tuple[tuple[str, dict[str, object]], ...] = (
    ("ai:stream", {"prompt": "tell me", "streamId": "s"}),
    ("ai:stream", {"prompt": "fix this bug", "streamId": "t", "model": "llama3.2:1b"}),
    (
        "ai:stream",
        {
            "prompt": "write a test",
            "temperature": 0.5,
            "maxTokens": 100,
            "useOrchestrator": True,
            "agent": "coder",
            "think": False,
            "agentContext": {"activeFile": "App.js", "tags": ["a", {"b": 1}]},
        },
    ),
    ("ai:cancel", {"streamId": "s"}),
    ("ai:heartbeat", {}),
    ("ai:reconnect", {"previousClientId": CLIENT_ID.decode()}),
    (
        "ai:reconnect",
        {
            "previousClientId": CLIENT_ID.decode(),
            "streams": {"s": 1, "t": {"seq": 0, "epoch": "e"}},
        },
    ),
    ("ai:reconnect", {"previousClientId": STRANGER.decode(), "streams": {}}),
)
ODD_VALUES: tuple[object, ...] = (
    *(None, True, False, 0, 1, -1, 2**53, 2**53 + 1, 1.5, -0.0, 1e300, "", "s", "t", "\x00"),
    *("\ud7ff\ue000", "x" * 200, [], {}, [[]], [None], {"": None}, {"a": {"a": {"a": {}}}}),
    *(CLIENT_ID.decode(), STRANGER.decode(), ".", "a/b:c", "../..", {"seq": 1}, {"seq": 2**53 + 1}),
    *({"seq": 1, "epoch": 7}, ["s"], "ai:token", {"s": -1}, {"_placeholder": True, "num": 0}),
)
MODEL_LINES = (
    b'{"model":"m","message":{"role":"assistant","content":"one"},"done":false}\n',
    b'{"message":{"content":"two \xe2\x80\xa8 \xc2\x85 three"},"done":false}\n',
    b'{"message":{"content":"","thinking":"hm"},"done":false}\n',
    b'{"response":"four","done":false}\n',
    b'{"message":{"content":"","tool_calls":[{"function":{"name":"f"}}]},"done":false}\n',
    b'{"message":{"content":""},"done":true,"done_reason":"stop","eval_count":9}\n',
    b'{"error":"out of memory"}\n',
    b'{"models":[{"name":"codellama:latest"},{"name":"llama3.2:1b"}]}',
)
MODEL_TOKENS = (
    b"\n",
    b"\r",
    b"null",
    b"true",
    b'"done":true',
    b'"',
    b"{",
    b"}",
    b"\xff",
    b"\\ud800",
)

# -- WebSocket -------------------------------------------------------------------------------------

FRAME_TOKENS = (
    *(b"\x81\x80", b"\x01\x80", b"\x00\x80", b"\x80\x80", b"\x82\x80", b"\x88\x80", b"\x89\x80"),
    *(b"\x8a\x80", b"\x83\x80", b"\xc1\x80", b"\x81\xfe", b"\x81\xff", b"\x81\x05", b"\x81\x7f"),
    *(
        bytes(4),
        b"\xff" * 4,
        b"\x03\xe8",
        b"\x03\xed",
        b"\x00\x7e",
        b"\x7f\xff\xff\xff\xff\xff\xff",
    ),
)


def frame(payload: bytes, opcode: int = 1, *, fin: bool = True) -> bytes:
    """Return one client frame, its mask all zeros."""
    size = len(payload)
    first = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        return b"%b%c\0\0\0\0%b" % (first, 0x80 | size, payload)
    if size < 65_536:
        return b"%b\xfe%b\0\0\0\0%b" % (first, size.to_bytes(2, "big"), payload)
    return b"%b\xff%b\0\0\0\0%b" % (first, size.to_bytes(8, "big"), payload)


class Mutator:
    """Draws messages and edits from one seeded generator."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._edits: tuple[Callable[[bytearray, Sequence[bytes]], None], ...] = (
            self._flip,
            self._overwrite,
            self._insert,
            self._insert,
            self._delete,
            self._repeat,
            self._swap,
            self._truncate,
            self._count,
            self._grow,
        )

    def edit(self, data: bytes, tokens: Sequence[bytes]) -> bytes:
        """Return `data` with no edit, one, or a few."""
        draw = self._draw
        count = int(draw.random() * draw.random() * 6)
        if not count:
            return data
        edited = bytearray(data)
        for _ in range(count):
            draw.choice(self._edits)(edited, tokens)
        return bytes(edited)

    def _at(self, size: int) -> int:
        return int(self._draw.random() * size)

    def _flip(self, data: bytearray, tokens: Sequence[bytes]) -> None:
        if data:
            data[self._at(len(data))] ^= 1 << self._at(8)

    def _overwrite(self, data: bytearray, tokens: Sequence[bytes]) -> None:
        at = self._at(len(data) + 1)
        token = self._draw.choice(tokens)
        data[at : at + len(token)] = token

    def _insert(self, data: bytearray, tokens: Sequence[bytes]) -> None:
        at = self._at(len(data) + 1)
        data[at:at] = self._draw.choice(tokens)

    def _delete(self, data: bytearray, tokens: Sequence[bytes]) -> None:
        at = self._at(len(data) + 1)
        del data[at : at + 1 + self._at(8)]

    def _repeat(self, data: bytearray, tokens: Sequence[bytes]) -> None:
        start = self._at(len(data) + 1)
        data[start:start] = data[start : start + 1 + self._at(30)]

    def _swap(self, data: bytearray, tokens: Sequence[bytes]) -> None:
        """Let two neighbouring pieces change places."""
        first = self._at(len(data) + 1)
        middle, end = first + self._at(12), first + 12 + self._at(12)
        data[first:end] = data[middle:end] + data[first:middle]

    def _truncate(self, data: bytearray, tokens: Sequence[bytes]) -> None:
        del data[self._at(len(data) + 1) :]

    def _count(self, data: bytearray, tokens: Sequence[bytes]) -> None:
        """Change a digit: a length, a count, an id, a type."""
        digits = [at for at, byte in enumerate(data[:400]) if 0x30 <= byte <= 0x39]
        if digits:
            data[self._draw.choice(digits)] = 0x30 + self._at(10)

    def _grow(self, data: bytearray, tokens: Sequence[bytes]) -> None:
        at = self._at(len(data) + 1)
        data[at:at] = self._draw.choice(tokens) * (1 + self._at(40))

    # -- messages ----------------------------------------------------------------------------------

    def request(self) -> bytes:
        """Return one HTTP request, sometimes with another behind or inside it."""
        draw = self._draw
        data = self.edit(draw.choice(REQUESTS), HTTP_TOKENS)
        if draw.random() < 0.1:  # a splice
            at = self._at(len(data) + 1)
            other = draw.choice(REQUESTS)
            return data[:at] + other[self._at(len(other)) :]
        return data

    def engine_packet(self) -> bytes:
        return self.edit(self._draw.choice(ENGINE_PACKETS), SOCKET_TOKENS)

    def payload(self) -> bytes:
        """Return the body of a POST: some packets of both layers."""
        draw = self._draw
        packets: list[bytes] = []
        for _ in range(1 + self._at(3)):
            if draw.random() < 0.5:
                packets.append(self.engine_packet())
            else:
                head, *rest = self.socket_packet()
                packets.append(b"4" + head)
                packets.extend(b"b" + base64(part) for part in rest)
        data = SEPARATOR.join(packets)
        return self.edit(data, SOCKET_TOKENS) if draw.random() < 0.2 else data

    def socket_packet(self) -> list[bytes]:
        """Return a Socket.IO packet: its text, then its attachments; some lost, some too many."""
        draw = self._draw
        text, *attachments = draw.choice(EVENTS if draw.random() < 0.9 else CONNECTS)
        if attachments and draw.random() < 0.2:
            attachments = attachments[:-1] if draw.random() < 0.5 else [*attachments, b"more"]
        return [self.edit(text, SOCKET_TOKENS), *attachments]

    def socket_frames(self) -> bytes:
        """Return a Socket.IO packet as WebSocket messages, sometimes out of order."""
        text, *rest = self.socket_packet()
        frames = [frame(b"4" + text), *(frame(part, 2) for part in rest)]
        if rest and self._draw.random() < 0.1:
            frames.reverse()
        return b"".join(frames)

    def frames(self) -> bytes:
        """Return frames with something wrong about the frames themselves."""
        draw = self._draw
        payload = draw.choice(ENGINE_PACKETS)
        match self._at(6):
            case 0:  # fragments, perhaps with a ping between
                at = self._at(len(payload) + 1)
                data = frame(payload[:at], fin=False)
                data += frame(b"", 9) if draw.random() < 0.3 else b""
                data += frame(payload[at:], 0)
            case 1:
                data = frame(payload, draw.choice((0, 1, 2, 3, 8, 9, 10, 11)))
            case 2:  # a length that is not the payload's
                data = frame(payload)
                return b"%b%c%b" % (data[:1], 0x80 | self._at(128), data[2:])
            case 3:  # another mask than the one that was applied
                data = frame(payload)
                return data[:2] + draw.randbytes(4) + data[6:]
            case 4:
                data = frame(
                    draw.choice((b"", b"\x03\xe8", b"\x03\xe8bye", b"\x00", b"\x03\xed")), 8
                )
            case _:
                data = frame(payload) + frame(draw.choice(ENGINE_PACKETS))
        return self.edit(data, FRAME_TOKENS)

    def ai_event(self) -> bytes:
        """Return an event of the AI protocol, its fields edited, as a WebSocket message."""
        draw = self._draw
        name, fields = draw.choice(AI_EVENTS)
        arguments: list[object] = [self.value(fields)] if draw.random() < 0.7 else [fields]
        if draw.random() < 0.05:
            arguments.append(draw.choice(ODD_VALUES))
        number = b"%d" % self._at(50) if draw.random() < 0.3 else b""
        text = b"42/ai,%b%b" % (number, msgspec.json.encode([name, *arguments]))
        if draw.random() < 0.3:
            text = self.edit(text, SOCKET_TOKENS)
        return frame(text)

    def value(self, value: object) -> object:
        """Return a JSON value with one of its parts replaced, left out or doubled."""
        draw = self._draw
        if not isinstance(value, dict) or not value or draw.random() < 0.15:
            return draw.choice(ODD_VALUES)
        edited = dict(value)
        name = draw.choice(list(edited))
        match self._at(5):
            case 0:
                del edited[name]
            case 1:
                edited[name] = [edited[name], draw.choice(ODD_VALUES)]
            case 2:
                edited[str(draw.choice(("streamId", "", "x", "streams", "think")))] = edited[name]
            case _:
                edited[name] = self.value(edited[name])
        return edited

    def model_lines(self) -> bytes:
        """Return a piece of a model server's answer."""
        draw = self._draw
        lines = b"".join(draw.choice(MODEL_LINES) for _ in range(1 + self._at(3)))
        return self.edit(lines, MODEL_TOKENS)


def base64(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False)
