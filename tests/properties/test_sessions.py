"""Engine.IO and Socket.IO as a client, a network and a clock may drive them, in any order.

Rules of this file: a session's life is a list of steps; what must hold, holds after each of them.
"""

import hashlib
import os
import subprocess
import sys

import pytest
from core.clients import POLLING, sid_of
from hypothesis import given
from hypothesis import strategies as st
from properties.inputs import FRAMES, PACKETS, repeatable
from properties.passing import passing
from tokenwire.config import Config
from tokenwire.outputs import Connected, Event
from tokenwire.testing import Wire, World
from tokenwire.testing.world import masked_frame

STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["post", "frame"]), PACKETS),
        st.tuples(st.just("bytes"), FRAMES),
        st.tuples(
            st.sampled_from(
                ["get", "probe", "drop", "eof", "emit", "close", "full", "room", "stop"]
            ),
            st.just(b""),
        ),
        st.tuples(st.just("wait"), st.sampled_from([b"1", b"99", b"100", b"1000", b"20000"])),
    ),
    max_size=25,
)
CONFIG = Config(
    ai_namespace=None,
    namespaces=("/", "/x"),
    heartbeat_interval=300,
    heartbeat_timeout=200,
    upgrade_timeout=1_000,
    connect_timeout=900,
    outbox_bytes=2_000,
    max_payload=300,
)


class Life:
    """One polling session that steps happen to."""

    def __init__(self) -> None:
        self.world = World(CONFIG)
        wire = self.world.connect()
        wire.send(request("GET", POLLING))
        answer = wire.answer()
        assert answer is not None
        self.sid = sid_of(answer.body)
        self.wires: list[Wire] = [wire]
        self.transcript: list[bytes] = []

    def new(self) -> Wire:
        wire = self.world.connect()
        self.wires.append(wire)
        return wire

    def step(self, kind: str, what: bytes) -> None:
        world = self.world
        last = self.wires[-1]
        target = f"{POLLING}&sid={self.sid}"
        match kind:
            case "get":
                self.new().send(request("GET", target))
            case "post":
                self.new().send(request("POST", target, f"Content-Length: {len(what)}\r\n") + what)
            case "probe":
                self.new().send(
                    request(
                        "GET",
                        target.replace("polling", "websocket"),
                        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n",
                    )
                )
            case "frame" if last.open:
                last.send(masked_frame(what))
            case "bytes" if last.open:
                last.send(what)
            case "drop" if last.open:
                last.drop()
            case "eof" if last.open:
                last.eof()
            case "full":
                last.room = 0
            case "room" if last.open:
                last.unblock()
            case "emit" | "close":
                joined = [o for o in world.program if isinstance(o, Connected)]
                for socket in [o.socket for o in joined]:
                    if any(socket in world.server.members(o.namespace) for o in joined):
                        if kind == "emit":
                            world.server.emit(socket, "e", [b"x", "y" * 100], world.now)
                        else:
                            world.server.disconnect(socket, world.now, close=True)
                world.pump()
            case "stop":
                world.server.shut_down(world.now)
                world.pump()
            case "wait":
                self.wait(int(what))
            case _:
                pass

    def wait(self, span: int) -> None:
        for _ in passing(self.world, span):
            pass


def request(method: str, target: str, headers: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()


@repeatable(400)
@given(STEPS)
def test_no_order_of_steps_raises_or_leaves_anything(steps: list[tuple[str, bytes]]) -> None:
    life = Life()
    for kind, what in steps:
        life.step(kind, what)
    life.wait(100_000)
    for wire in life.wires:
        if wire.open:
            wire.drop()
    life.wait(100_000)
    assert life.world.server.next_timeout() is None
    assert not any(life.world.server.members(name) for name in life.world.server.config.namespaces)
    assert not life.world.server._sockets._clients


@repeatable(300)
@given(
    st.lists(st.sampled_from(["emit", "get", "step", "post"]), max_size=30),
    st.integers(0, 2),
    st.booleans(),
)
def test_an_upgrade_in_any_interleaving_loses_and_doubles_nothing(
    steps: list[str], ready: int, read_late: bool
) -> None:
    life = Life()
    world, wires = life.world, life.wires
    target = f"{POLLING}&sid={life.sid}"
    life.step("post", b"40")
    (connected,) = world.program
    assert isinstance(connected, Connected)
    upgrading = iter([b"2probe", b"5"])
    life.step("probe", b"")
    websocket = wires[-1]
    assert websocket.answer() is not None
    for _ in range(ready):
        websocket.send(masked_frame(next(upgrading)))
    emitted, posted, upgraded = 0, 0, ready == 2
    poll: Wire | None = None
    got: list[bytes] = []

    def read() -> None:
        nonlocal poll
        answer = None if poll is None else poll.answer()
        if answer is not None:
            got.extend(answer.body.split(b"\x1e") if answer.status == 200 else [])
            poll = None

    for step in steps:
        if step == "emit":
            world.server.emit(connected.socket, emitted, [], world.now)
            emitted += 1
            if not read_late:
                world.pump()
        elif step == "get" and poll is None and not upgraded:
            poll = world.connect()
            poll.send(request("GET", target))
        elif step == "post":
            packet = b"42[%d]" % posted
            posted += 1
            if upgraded:
                websocket.send(masked_frame(packet))
            else:
                head = request("POST", target, f"Content-Length: {len(packet)}\r\n")
                world.connect().send(head + packet)
        elif step == "step" and (frame := next(upgrading, None)) is not None:
            world.pump()
            read()
            websocket.send(masked_frame(frame))
            upgraded = frame == b"5"
        read()
    world.pump()
    read()
    if not upgraded:
        poll = poll or world.connect()
        if poll.open and not poll.received:
            poll.send(request("GET", target))
        read()
    got.extend(frame.payload for frame in websocket.frames())
    assert [p for p in got if p[:2] == b"42"] == [b"42[%d]" % number for number in range(emitted)]
    received = [output.name for output in world.program if isinstance(output, Event)]
    assert received == list(range(posted))


def transcript() -> str:
    """Return a digest of all that a server sends in a life of many steps."""
    digest = hashlib.sha256()
    packets = [b"40", b"40/x,", b'420["a",{"b":1,"c":2}]', b"3", b"41/x,", b'42["b"]']
    for number in range(40):
        life = Life()
        for index in range(12):
            kind = ("post", "get", "emit", "wait", "probe", "post")[(index * 7 + number) % 6]
            what = b"100" if kind == "wait" else packets[(index + number) % len(packets)]
            life.step(kind, what)
        for wire in life.wires:
            digest.update(wire.received)
        digest.update(repr(life.world.program).encode())
        digest.update(repr(life.world.notices).encode())
    return digest.hexdigest()


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_the_hash_seed_changes_nothing(seed: str) -> None:
    program = "from properties.test_sessions import transcript; print(transcript())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == transcript()
