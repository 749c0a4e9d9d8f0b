"""The upgrade from polling to WebSocket.

Rules of this file: from bytes to bytes, in a virtual world; what stock clients see is what is
looked at.
"""

import pytest
from core.clients import (
    Polling,
    close_code,
    plain_world,
)
from core.engineio.looks import ask, body, echo, error
from tokenwire.testing import Wire
from tokenwire.testing.world import masked_frame


def test_an_upgrade_answers_every_poll_until_it_is_done() -> None:
    world = plain_world()
    client = Polling(world)
    client.join()
    first = client.hanging()
    wire = client.probe()
    assert first.answer() is None
    wire.send_text("2probe")
    assert wire.texts() == ["3probe"]
    assert body(first) == b"6"
    for _ in range(3):
        assert body(client.hanging()) == b"6"
    assert client.post(b'42["by post"]').body == b"ok"
    wire.send_text("5")
    assert error(ask(world, "GET", client.target)) == (400, 3)
    assert error(ask(world, "POST", client.target, body=b"3")) == (400, 3)
    wire.send_text('42["by websocket"]')
    echo(world)
    assert wire.texts() == ['42["by post"]', '42["by websocket"]']


def test_what_waits_moves_to_the_websocket() -> None:
    world = plain_world()
    client = Polling(world)
    socket = client.join()
    wire = client.probe()
    world.server.emit(socket, "one", [], world.now)
    wire.send_text("2probe")
    world.server.emit(socket, "two", [b"\x01"], world.now)
    assert (
        body(client.hanging()) == b'42["one"]\x1e451-["two",{"_placeholder":true,"num":0}]\x1ebAQ=='
    )
    world.server.emit(socket, "three", [b"\x02"], world.now)
    wire.send_text("5")
    frames = [(frame.opcode, frame.payload) for frame in wire.frames()]
    assert frames == [
        (1, b"3probe"),
        (1, b'451-["three",{"_placeholder":true,"num":0}]'),
        (2, b"\x02"),
    ]


def test_a_poll_that_waits_at_the_end_of_an_upgrade_is_answered() -> None:
    world = plain_world()
    client = Polling(world)
    waiting = client.hanging()
    wire = client.probe()
    wire.send_text("5")  # without a probe, as Node takes it
    assert body(waiting) == b"6"
    wire.send_text("40")
    assert wire.texts()[0].startswith('40{"sid"')


@pytest.mark.parametrize("payload", [b"4hello", b"3", b"", b"2", b"5probe", b"40"])
def test_another_first_packet_closes_the_websocket_alone(payload: bytes) -> None:
    world = plain_world()
    client = Polling(world)
    wire = client.probe()
    wire.send_frame(payload)
    assert close_code(wire) == 1000
    assert client.post(b"40").status == 200
    assert client.upgrade().open


@pytest.mark.parametrize("payload", [b"2probe", b"5"])
def test_a_probe_is_text(payload: bytes) -> None:
    world = plain_world()
    client = Polling(world)
    wire = client.probe()
    wire.send_frame(payload, 2)
    assert close_code(wire) == 1000
    assert client.poll() is None


@pytest.mark.parametrize("probed", [False, True])
@pytest.mark.parametrize("how", ["drop", "eof", "close", "violation", "timeout"])
def test_an_abandoned_upgrade_falls_back_to_polling(probed: bool, how: str) -> None:
    world = plain_world(heartbeat_interval=1_000_000)
    client = Polling(world)
    client.join()
    wire = client.probe()
    if probed:
        wire.send_text("2probe")
    match how:
        case "drop":
            wire.drop()
        case "eof":
            wire.eof()
        case "close":
            wire.send_frame(b"\x03\xe8", 8)
        case "violation":
            wire.send(b"\xff\xff")
        case _:
            world.advance(9_999)
            assert close_code(wire) is None
            world.advance(1)
            assert close_code(wire) == 1000
    waiting = client.hanging()
    assert waiting.answer() is None
    client.post(b'42["still there"]')
    echo(world)
    assert body(waiting) == b'42["still there"]'
    again = client.upgrade()
    again.send_text('42["again"]')
    echo(world)
    assert again.texts() == ['42["again"]']


@pytest.mark.parametrize("stage", ["opened", "probed", "upgraded"])
def test_a_second_websocket_completes_its_handshake_and_is_closed(stage: str) -> None:
    world = plain_world()
    client = Polling(world)
    wire = client.probe()
    if stage != "opened":
        wire.send_text("2probe")
    if stage == "upgraded":
        wire.send_text("5")
    second = world.connect()
    assert second.upgrade(client.ws_target).status == 101
    assert close_code(second) == 1000
    second.send_text("2probe")
    second.send_frame(b"\x03\xe8", 8)
    assert second.ended
    if stage != "upgraded":
        wire.send_text("2probe")
        wire.send_text("5")
    wire.send_text("40")
    assert any(text.startswith("40{") for text in wire.texts())


def test_a_closed_session_has_no_upgrade_left() -> None:
    world = plain_world()
    client = Polling(world)
    wire = client.probe()
    wire.send_text("2probe")
    client.post(b"1")
    assert close_code(wire) == 1000
    assert world.connect().upgrade(client.ws_target).status == 400


FRAMES = masked_frame(b"2probe") + masked_frame(b"5") + masked_frame(b"3")
UPGRADED_AT = len(masked_frame(b"2probe") + masked_frame(b"5"))


@pytest.mark.parametrize("cut", range(len(FRAMES) + 1))
def test_no_packet_is_lost_or_doubled_wherever_the_upgrade_is_cut(cut: int) -> None:
    world = plain_world(heartbeat_interval=1_000_000)
    client = Polling(world)
    socket = client.join()
    wire = client.probe()
    poll: Wire | None = None
    got: list[bytes] = []

    def read_poll() -> None:
        nonlocal poll
        answer = None if poll is None else poll.answer()
        if answer is not None and answer.status == 200:
            got.extend(answer.body.split(b"\x1e"))
            poll = None

    for index in range(cut):
        if poll is None and index % 5 == 0:
            poll = client.hanging()
        world.server.emit(socket, index, [], world.now)
        wire.send(FRAMES[index : index + 1])
        read_poll()
    if cut >= UPGRADED_AT:
        got.extend(text.encode() for text in wire.texts())
    else:
        wire.drop()
        poll = poll or client.hanging()
        read_poll()
    messages = [packet for packet in got if packet.startswith(b"42")]
    assert messages == [b"42[%d]" % index for index in range(cut)]
