"""Plays session vectors against a server, through any network.

Rules of this file: it knows the format and what a client reads, nothing of the server. A network
(`Net`) is the core under virtual time (`WorldNet`), or sockets (`tests/vectors/sockets.py`).
"""

import base64
import re
from typing import Protocol

import msgspec

from tokenwire.testing import vectors
from tokenwire.testing.parse import Answer, Frame, take_answer, take_frames
from tokenwire.testing.vectors import Vector
from tokenwire.testing.world import masked_frame

_PLACE = re.compile(r"\$\{(?:(?P<text>[^{}]+)\*(?P<count>\d+)|(?P<name>[a-z][A-Za-z0-9]*))\}")
_ANY = "${any}"
_TEXT, _BINARY, _CLOSE, _PONG = 1, 2, 8, 10


class VectorFailed(AssertionError):
    """The server did not do what a vector expects."""


class Link(Protocol):
    """One TCP connection, seen from the client."""

    received: bytes
    """What has come and was not taken."""

    def send(self, data: bytes) -> None: ...

    def eof(self) -> None: ...

    def drop(self) -> None: ...

    def stop(self) -> None:
        """Read no more."""
        ...

    def read(self) -> None:
        """Read again."""
        ...

    def wait_for_more(self, than: int) -> None:
        """Return when more than so many bytes are in `received`, or the end has come, or neither
        has in the time that a server may take."""
        ...

    def wait_for_end(self) -> None:
        """Return when the end has come, or has not in the time that a server may take."""
        ...

    def wait_for_rest(self) -> None:
        """Return when all has come that the server says without further input or time."""
        ...

    @property
    def over(self) -> bool:
        """True: the server has ended the connection."""
        ...


class Net(Protocol):
    """A server and the way to it. What was sent, it has taken when the call returns."""

    def connect(self) -> Link: ...

    def wait(self, ms: int) -> None: ...

    def shut_down(self) -> None:
        """Tell the server to end, and return at once."""
        ...

    def asked(self, *, wait: bool) -> "ModelLink | None":
        """Return the next request for a stream to the model server; None: there is none.

        Args:
            wait: True: give the server the time that it may take.
        """
        ...


class ModelLink(Protocol):
    """One request of the server's for a stream, seen from the model server."""

    headers: dict[str, str]
    """Names in lower case."""
    body: dict[str, object]

    def send(self, data: bytes) -> None:
        """Answer with 200, or send more of the answer."""
        ...

    def refuse(self, status: int, body: bytes) -> None: ...

    def finish(self) -> None: ...

    def lose(self) -> None: ...

    @property
    def cancelled(self) -> bool:
        """True: the server has closed the connection before the answer's end."""
        ...


class Player:
    """Plays one vector."""

    def __init__(self, net: Net, *, cut: int | None = None, cut_at: int | None = None) -> None:
        """
        Args:
            net: the server under test.
            cut: send everything in pieces of so many bytes; None: whole.
            cut_at: send everything whole, but cut once, behind so many bytes of all that is sent.
        """
        self._net = net
        self._cut = cut
        self._cut_at = cut_at
        self.sent = 0
        """How many bytes the steps so far send, on all connections."""
        self.answered = 0
        """How many the model server answers."""
        self._links: dict[str, Link] = {}
        self._models: dict[str, ModelLink] = {}
        self._names: dict[str, str] = {}

    def play(self, vector: Vector) -> None:
        """Play a vector.

        Raises:
            VectorFailed: the server did something else.
        """
        for number, step in enumerate(vector.steps):
            try:
                self._do(step)
            except VectorFailed as failed:
                raise VectorFailed(f"{vector.id} step {number}: {failed}") from None

    def _do(self, step: vectors.Step) -> None:
        match step:
            case vectors.Connect():
                self._links[step.link] = self._net.connect()
            case vectors.Send():
                data = self._fill(step.text).encode() + bytes.fromhex(step.hex)
                self._send(step.link, data * step.times)
            case vectors.Request():
                self._send(step.link, self._request(step))
            case vectors.Upgrade():
                self._send(step.link, self._upgrade(step))
            case vectors.SendFrame():
                self._send(step.link, self._frame(step) * step.times)
            case vectors.Eof():
                self._links[step.link].eof()
            case vectors.Drop():
                self._links[step.link].drop()
            case vectors.Stop():
                self._links[step.link].stop()
            case vectors.Read():
                self._links[step.link].read()
            case vectors.Expect():
                self._expect(step)
            case vectors.Asked():
                self._asked(step)
            case vectors.Answer():
                self._answer(step)
            case vectors.Refuse():
                self._models[step.model].refuse(step.status, step.body.encode())
            case vectors.Finish():
                self._models[step.model].finish()
            case vectors.Break():
                self._models[step.model].lose()
            case vectors.Cancelled():
                if not self._models[step.model].cancelled:
                    raise VectorFailed("the model's connection should have been closed")
            case vectors.Shutdown():
                self._net.shut_down()
            case vectors.Wait():
                self._net.wait(step.ms)

    # -- what the client sends ---------------------------------------------------------------------

    def _send(self, name: str, data: bytes) -> None:
        link = self._links[name]
        for piece in self._pieces(data):
            if link.over:  # the server has heard enough
                break
            link.send(piece)
        self.sent += len(data)

    def _pieces(self, data: bytes) -> list[bytes]:
        if self._cut_at is not None:
            at = max(0, self._cut_at - self.sent)
            return [piece for piece in (data[:at], data[at:]) if piece]
        size = self._cut or max(1, len(data))
        return [data[at : at + size] for at in range(0, len(data), size)]

    def _fill(self, text: str) -> str:
        def place(match: re.Match[str]) -> str:
            if match["text"]:
                return match["text"] * int(match["count"])
            return self._names[match["name"]]

        return _PLACE.sub(place, text)

    def _request(self, step: vectors.Request) -> bytes:
        body = self._fill(step.body).encode() + bytes.fromhex(step.hex)
        headers = {"Host": "test", **step.headers}
        names = {name.lower() for name in headers}
        if (body or step.method == "POST") and not names & {"content-length", "transfer-encoding"}:
            headers["Content-Length"] = str(len(body))
        return self._head(step.method, step.target, headers) + body

    def _upgrade(self, step: vectors.Upgrade) -> bytes:
        headers = {
            "Host": "test",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode(),
            **step.headers,
        }
        return self._head("GET", step.target, headers)

    def _head(self, method: str, target: str, headers: dict[str, str]) -> bytes:
        lines = [f"{method} {self._fill(target)} HTTP/1.1"]
        lines += [f"{name}: {self._fill(value)}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    def _frame(self, step: vectors.SendFrame) -> bytes:
        if step.text is not None:
            opcode, payload = _TEXT, self._fill(step.text).encode()
        elif step.binary is not None:
            opcode, payload = _BINARY, bytes.fromhex(step.binary)
        else:
            opcode, payload = step.opcode or 0, bytes.fromhex(step.hex)
        if step.opcode is not None:
            opcode = step.opcode
        frame = masked_frame(payload, opcode, fin=step.fin, masked=step.masked)
        return bytes([frame[0] | step.rsv << 4]) + frame[1:]

    # -- the model server --------------------------------------------------------------------------

    def _asked(self, step: vectors.Asked) -> None:
        request = self._net.asked(wait=not step.nothing)
        if step.nothing:
            if request is not None:
                raise VectorFailed(f"the model should not have been asked {request.body}")
            return
        if request is None:
            raise VectorFailed("the model should have been asked")
        self._models[step.model] = request
        self._check_headers(step.headers, request.headers)
        for name, value in step.body.items():
            if name not in request.body:
                raise VectorFailed(f"field {name} expected in {request.body}")
            self._check_value(value, request.body[name], str(request.body))

    def _answer(self, step: vectors.Answer) -> None:
        lines = b"".join(msgspec.json.encode(line) + b"\n" for line in step.lines)
        data = (self._fill(lines.decode()) + self._fill(step.text)).encode() * step.times
        size = self._cut or max(1, len(data))
        for at in range(0, len(data), size):
            self._models[step.model].send(data[at : at + size])
        self.answered += len(data)

    # -- what must come back -----------------------------------------------------------------------

    def _expect(self, step: vectors.Expect) -> None:
        link = self._links[step.link]
        if step.response is not None:
            self._check_response(step.response, self._take_response(link, head=step.response.head))
        if step.frames is not None:
            for expected in step.frames:
                self._check_frame(expected, self._next_frame(link))
        if step.nothing:
            link.wait_for_rest()
            if link.received:
                raise VectorFailed(f"nothing should have come, but {link.received[:200]!r} has")
        if step.end:
            link.wait_for_end()
            if not link.over:
                raise VectorFailed("the server should have ended the connection")
        if step.open:
            link.wait_for_rest()
            if link.over:
                raise VectorFailed("the server has ended the connection")

    def _take_response(self, link: Link, *, head: bool) -> Answer:
        while True:
            seen = link.received
            answer, rest = take_answer(seen, head=head)
            if answer is not None:
                link.received = rest
                return answer
            self._more(link, len(seen), "a response")

    def _next_frame(self, link: Link) -> Frame:
        while True:
            seen = link.received
            frames, _ = take_frames(seen)
            if frames:
                size = len(frames[0].payload)
                link.received = seen[size + (2 if size < 126 else 4 if size < 65536 else 10) :]
                return frames[0]
            self._more(link, len(seen), "a frame")

    @staticmethod
    def _more(link: Link, seen: int, what: str) -> None:
        link.wait_for_more(seen)
        if len(link.received) == seen:
            raise VectorFailed(f"{what} should have come; there is {link.received[:200]!r}")

    def _check_response(self, expected: vectors.ExpectedResponse, answer: Answer) -> None:
        if answer.status != expected.status:
            raise VectorFailed(f"status {expected.status} expected, {answer} came")
        self._check_headers(expected.headers, answer.headers)
        body = answer.body.decode(errors="surrogateescape")
        if expected.body is not None:
            self._check_packet(expected.body, body)
        if expected.packets is not None:
            packets = body.split("\x1e")
            if len(packets) != len(expected.packets):
                raise VectorFailed(f"packets {expected.packets} expected, {packets} came")
            for wanted, packet in zip(expected.packets, packets, strict=True):
                self._check_packet(wanted, packet)

    def _check_headers(self, expected: dict[str, str | None], headers: dict[str, str]) -> None:
        for name, value in expected.items():
            got = headers.get(name.lower())
            if value is None:
                if got is not None:
                    raise VectorFailed(f"no header {name} expected, {got!r} came")
            elif got is None:
                raise VectorFailed(f"header {name} expected, none came")
            else:
                self._check_text(value, got)

    def _check_frame(self, expected: vectors.ExpectedFrame, frame: Frame) -> None:
        if expected.text is not None and frame.opcode == _TEXT:
            self._check_packet(expected.text, frame.text)
            return
        if frame.opcode == _CLOSE:
            got = vectors.ExpectedFrame(close=int.from_bytes(frame.payload[:2], "big"))
        elif frame.opcode == _PONG:
            got = vectors.ExpectedFrame(pong=frame.payload.hex())
        elif frame.opcode == _BINARY:
            got = vectors.ExpectedFrame(binary=frame.payload.hex())
        else:
            got = vectors.ExpectedFrame(text=frame.text)
        if got != expected:
            raise VectorFailed(f"{expected} expected, {got} came")

    def _check_packet(self, expected: str, got: str) -> None:
        """Compare a head as text and the JSON behind it as values: the order of keys is free."""
        head, tail = _split(expected)
        if tail is None:
            self._check_text(expected, got)
            return
        got_head, got_tail = _split(got)
        if got_tail is None:
            raise VectorFailed(f"{expected!r} expected, {got!r} came")
        self._check_text(head, got_head)
        self._check_value(tail, got_tail, got)

    def _check_value(self, expected: object, got: object, whole: str) -> None:
        if expected == _ANY:
            return
        if isinstance(expected, str) and isinstance(got, str):
            self._check_text(expected, got)
        elif isinstance(expected, dict) and isinstance(got, dict) and expected.keys() == got.keys():
            for key, value in expected.items():
                self._check_value(value, got[key], whole)
        elif isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
            for value, other in zip(expected, got, strict=True):
                self._check_value(value, other, whole)
        elif expected != got or type(expected) is not type(got):
            raise VectorFailed(f"{expected!r} expected in {whole[:500]!r}")

    def _check_text(self, expected: str, got: str) -> None:
        names: list[str] = []
        pattern, at = "", 0
        for match in _PLACE.finditer(expected):
            pattern += re.escape(expected[at : match.start()])
            at = match.end()
            name = match["name"]
            if name is None:
                pattern += re.escape(match["text"] * int(match["count"]))
            elif name in self._names:
                pattern += re.escape(self._names[name])
            else:
                names.append(name)
                pattern += "([A-Za-z0-9_.-]+)"
        found = re.fullmatch(pattern + re.escape(expected[at:]), got, re.DOTALL)
        if found is None:
            raise VectorFailed(f"{expected!r} expected, {got[:500]!r} came")
        self._names.update(zip(names, found.groups(), strict=True))


def _split(packet: str) -> tuple[str, object]:
    """Return what stands before the JSON of a packet, and its value (None: there is no JSON)."""
    starts = [at for at in (packet.find("["), packet.find("{")) if at >= 0]
    for at in sorted(starts):
        try:
            return packet[:at], msgspec.json.decode(packet[at:])
        except msgspec.DecodeError:
            continue
    return packet, None
