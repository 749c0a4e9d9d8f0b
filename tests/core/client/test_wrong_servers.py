"""Servers that say anything at all: nothing raises out of the core, and the client goes on.

Rules of this file: a seed decides what is said; what failed once can be played again.
"""

import random

import pytest
from core.client.net import Link, Net, frame, handshake
from tokenwire.errors import LocalProtocolError

PACKETS = [
    b"", b"1", b"2", b"3", b"3probe", b"4", b"5", b"6", b"0{}", b"\xff", handshake(),
    handshake(upgrades=[]), b'40{"sid":"s","pid":"p"}', b'40/a,{"sid":"a"}', b"41", b"41/a,",
    b'44{"message":"no"}', b'42["a","offset"]', b'421["a"]', b"430[]",
    b'451-["a",{"_placeholder":true,"num":0}]', b"bYQ==",
]  # fmt: skip
FRAMES = [*map(frame, PACKETS), frame(b"a", 2), frame(b"p", 9), frame(b"\x03\xe8", 8), b"\xff"]
ANSWERS = [
    b"HTTP/1.1 101 X\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n6",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n6\r\n0\r\n\r\nmore",
    b"\x00",
]
TRANSPORTS = [("polling", "websocket"), ("polling",), ("websocket",)]


class Chaos:
    """One client, its program and its server, all by chance."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.net = Net(seed=seed, transports=self.chance.choice(TRANSPORTS))
        self.net.join()

    def step(self) -> None:
        links = [link for link in self.net.links if not (link.ended or link.aborted)]
        what = self.chance.random()
        if what < 0.1 or not links:
            self.program()
        elif what < 0.16:
            self.net.advance(self.chance.choice([1, 100, 5_000, 10_000, 45_000]))
        else:
            self.server(self.chance.choice(links))

    def program(self) -> None:
        net = self.net
        acts = [
            lambda: net.emit("a", b"1", want_ack=True, ack_timeout=100),
            lambda: net.acknowledge(1),
            lambda: net.join("/a"),
            lambda: net.join("/"),
            lambda: net.leave("/a"),
            lambda: net.leave("/"),
            net.close,
        ]
        try:
            self.chance.choice(acts)()
        except LocalProtocolError:
            assert net.client.poll() is None, "misuse changes nothing"

    def server(self, link: Link) -> None:
        pick = self.chance.choice
        if not link.opened:
            pick([link.open, link.open, link.open, link.drop])()
        elif self.chance.random() < 0.05:
            pick([link.eof, link.drop])()
        elif b"sec-websocket-key" in link.sent:
            link.accept(b"".join(pick(FRAMES) for _ in range(pick([0, 0, 1, 2]))))
        elif b" HTTP/1.1" in link.sent:
            link.sent = b""
            body = b"\x1e".join(pick(PACKETS) for _ in range(pick([1, 1, 2])))
            if self.chance.random() < 0.1:
                link.send(pick(ANSWERS))
            else:
                link.answer(body, pick([200] * 9 + [400]), pick(["", "Connection: close\r\n"]))
        else:
            link.send(b"".join(pick(FRAMES) for _ in range(pick([1, 2]))))


@pytest.mark.parametrize("start", range(0, 500, 100))
def test_nothing_raises_and_nobody_is_stuck(start: int) -> None:
    for seed in range(start, start + 100):
        chaos = Chaos(seed)
        for _ in range(50):
            chaos.step()
        net = chaos.net
        dials = any(not (link.opened or link.ended or link.aborted) for link in net.links)
        assert net.over() or dials or net.client.next_timeout() is not None, seed
        net.close()
        net.advance(2_000)
        assert net.over(), seed
