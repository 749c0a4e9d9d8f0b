"""Readers that take nothing, or much less than they are sent.

Rules of this file: from bytes to bytes, in a virtual world; what stock clients see is what is
looked at.
"""

import pytest
from core.clients import (
    Polling,
    join,
    open_websocket,
    plain_world,
)
from core.engineio.looks import FAST, ask, body, emit, error, reasons


def test_a_websocket_that_takes_nothing_is_dropped_in_time() -> None:
    world = plain_world(slow_consumer_timeout=5_000)
    wire = open_websocket(world)
    socket = join(wire)
    wire.room = 10
    emit(world, socket, "x" * 50)
    world.advance(4_999)
    assert wire.open
    world.advance(1)
    assert wire.aborted
    assert reasons(world) == ["slow consumer"]
    assert world.server.next_timeout() is None


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_who_reads_however_slowly_is_never_cut(transport: str) -> None:
    world = plain_world(slow_consumer_timeout=5_000, write_timeout=5_000)
    client = Polling(world)
    socket = client.join()
    wire = client.upgrade() if transport == "websocket" else client.hanging()
    wire.room = 0
    emit(world, socket, "x" * 100)
    for _ in range(90):  # its heartbeats run late all the time
        world.advance(4_999)
        assert wire.open
        wire.unblock(1)
    wire.unblock()
    if transport == "websocket":
        assert wire.texts()[0] == f'42["a","{"x" * 100}"]'
    else:
        assert body(wire) == f'42["a","{"x" * 100}"]'.encode()
        assert body(client.hanging()) == b"2"
    assert reasons(world) == []


def test_a_poll_whose_answer_is_not_taken_ends_its_session() -> None:
    world = plain_world(slow_consumer_timeout=5_000)
    client = Polling(world)
    socket = client.join()
    wire = client.hanging()
    wire.room = 100
    emit(world, socket, "x" * 500)
    assert wire.room == 0
    world.advance(4_999)
    assert wire.open
    world.advance(1)
    assert wire.aborted
    assert reasons(world) == ["slow consumer"]
    assert error(ask(world, "GET", client.target)) == (400, 1)


def test_a_client_that_does_not_poll_is_not_slow() -> None:
    world = plain_world(slow_consumer_timeout=5_000)
    client = Polling(world)
    socket = client.join()
    emit(world, socket, "x" * 500)
    world.advance(30_000 + 19_999)
    assert reasons(world) == []
    world.advance(1)
    assert reasons(world) == ["ping timeout"]


@pytest.mark.parametrize("end", ["lost", "another request"])
def test_an_answer_that_is_of_no_concern_any_more_is_not_waited_for(end: str) -> None:
    world = plain_world(slow_consumer_timeout=5_000)
    client = Polling(world)
    socket = client.join()
    wire = client.hanging()
    wire.room = 100
    emit(world, socket, "x" * 500)
    if end == "lost":
        wire.drop()
    else:
        wire.send(
            f"POST {client.target} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n3".encode()
        )
    world.advance(10_000)
    assert reasons(world) == []
    client.poll()


def test_a_session_that_goes_on_elsewhere_outlives_a_stuck_answer() -> None:
    world = plain_world(slow_consumer_timeout=5_000)
    client = Polling(world)
    socket = client.join()
    stuck = client.hanging()
    stuck.room = 100
    emit(world, socket, "x" * 500)
    world.advance(1_000)
    wire = client.upgrade()
    world.advance(3_000)
    emit(world, socket, "on")
    world.advance(4_999)
    assert reasons(world) == []
    world.advance(1)  # nothing was taken anywhere
    assert reasons(world) == ["slow consumer"]
    assert (wire.aborted, stuck.aborted) == (True, True)


def test_a_session_that_is_closing_is_not_slow() -> None:
    world = plain_world(slow_consumer_timeout=1_000)
    wire = open_websocket(world)
    socket = join(wire)
    wire.room = 0
    emit(world, socket, "x")
    world.server.disconnect(socket, world.now, close=True)
    world.pump()
    world.advance(60_000)
    assert reasons(world) == ["forced close"]


def test_a_reader_that_is_stuck_for_longer_than_its_pong_may_take_is_taken_for_dead() -> None:
    world = plain_world(slow_consumer_timeout=60_000, **FAST)
    wire = open_websocket(world)
    wire.room = 0
    world.advance(300 + 200)
    assert reasons(world) == ["ping timeout"]


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_who_took_the_last_of_it_is_not_waited_for(transport: str) -> None:
    world = plain_world(slow_consumer_timeout=5_000)
    client = Polling(world)
    socket = client.join()
    wire = client.upgrade() if transport == "websocket" else client.hanging()
    wire.room = 10_000
    emit(world, socket, "x")
    size = 10_000 - wire.room  # of such an event
    wire = wire if transport == "websocket" else client.hanging()
    wire.room = size
    emit(world, socket, "x")
    assert wire.room == 0  # all is in the runtime's hands, and its buffer is full
    world.advance(4_999)
    wire.unblock()  # nothing is left to pull
    world.advance(5_000)
    assert reasons(world) == []
