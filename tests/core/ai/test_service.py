"""The AI service as a whole: its shutdown, its statistics, its timers.

Rules of this file: clients, model server and clock are the world's; nothing is looked at but what a
client receives, what the model was asked, and the public getters.
"""

import pytest
from core.ai.client import (
    ENDED,
    Client,
    Said,
    at_rest,
    cancelled,
    config,
    new_world,
    setting,
    stopped,
)
from tokenwire.ai.service import AiService
from tokenwire.queue import Outputs
from tokenwire.testing import SeededIds, World
from tokenwire.timers import Timer, Timers
from tokenwire.types import Millis

# -- shutdown --------------------------------------------------------------------------------------


def shut_down(world: World) -> None:
    world.server.shut_down(world.now)
    world.pump()


def test_a_shutdown_lets_streams_finish_then_closes_the_transports() -> None:
    world, client = setting()
    idle = Client(world)
    model = client.stream()
    client.take()
    shut_down(world)
    assert idle.one() == Said(
        "ai:error",
        {
            "error": "The server is shutting down.",
            "code": "server_shutting_down",
            "details": "reconnect in a moment",
            "retryable": True,
        },
    )
    client.take()
    client.send("ai:stream", {"prompt": "p"})
    assert client.error() == ("server_shutting_down", None)
    shut_down(world)  # once more: nothing new
    world.advance(5_000)
    assert not stopped(world)
    model.say("a")
    model.done()
    world.advance(50)
    assert stopped(world)
    assert client.names() == ["ai:token", *ENDED]
    assert not client.fenced  # a DISCONNECT would keep a stock client away
    assert client.wire.frames() == []
    world.stopped = False
    shut_down(world)
    world.advance(100_000)
    assert not stopped(world)


def test_an_idle_server_stops_at_once() -> None:
    world, client = setting()
    shut_down(world)
    world.advance(0)
    assert stopped(world)
    assert client.names() == ["ai:error"]


def test_streams_that_do_not_finish_in_time_end_with_an_error_that_is_delivered() -> None:
    world, client = setting(shutdown_timeout=1_000)
    model = client.stream()
    client.take()
    shut_down(world)
    world.advance(999)
    assert not cancelled(model)
    world.advance(1)
    assert cancelled(model)
    assert not stopped(world)
    said = client.take()
    assert [event.name for event in said] == ["ai:error", "ai:stream:error"]
    assert said[1]["code"] == "server_shutting_down"
    world.advance(50)
    assert stopped(world)


def test_a_shutdown_does_not_wait_for_ever_for_a_slow_reader() -> None:
    world, client = setting(shutdown_timeout=1_000)
    model = client.stream()
    client.block()
    model.say("a")
    model.done()
    shut_down(world)
    world.advance(999)
    assert not stopped(world)
    world.advance(1)
    assert stopped(world)


def test_a_reader_that_catches_up_ends_the_wait() -> None:
    world, client = setting()
    model = client.stream()
    client.block()
    model.say("a")
    model.done()
    shut_down(world)
    client.wire.unblock()
    world.advance(50)
    assert stopped(world)
    assert client.names() == ["ai:stream:start", "ai:error", "ai:token", *ENDED]


def test_nobody_joins_while_the_server_shuts_down() -> None:
    world, client = setting()
    client.stream()
    wire = world.connect()
    wire.upgrade("/socket.io/?EIO=4&transport=websocket")
    shut_down(world)
    wire.send_text("40/ai,")
    assert wire.texts()[-1] == (
        '44/ai,{"message":"The server is shutting down.","data":{"code":"server_shutting_down"}}'
    )


def test_a_shutdown_survives_clients_that_are_dropped_by_its_own_words() -> None:
    world = new_world(outbox_bytes=1_000)
    clients = [Client(world) for _ in range(3)]
    clients[0].block()
    size = len('2/ai,["ai:heartbeat:ack",{"activeStreams":0,"queueSize":0,"streams":{}},"')
    size += len(f'{clients[0].offset}"]')
    for _ in range(1_000 // size):
        clients[0].send("ai:heartbeat")
    assert clients[0].wire.open
    shut_down(world)
    assert clients[0].wire.aborted
    assert [client.names() for client in clients[1:]] == [["ai:error"]] * 2


# -- statistics ------------------------------------------------------------------------------------


def test_the_statistics_count_what_happened() -> None:
    world, client = setting()
    idle = Client(world)
    a, b = client.stream("a"), client.stream("b")
    world.advance(100)
    before = world.server.stats().bytes_held
    a.say("1", "2")
    b.say("3")
    a.done()
    stats = world.server.stats()
    assert (stats.total_sessions, stats.active_sessions, stats.total_active_streams) == (2, 1, 1)
    assert (stats.total_streams, stats.total_tokens_streamed) == (2, 3)
    assert stats.average_stream_duration == 100
    text = (2 + 2 * 4) + (1 + 4) + (2 + 2 * 4) // 8
    assert before + text <= stats.bytes_held <= before + text + 1_000  # and two closing events
    world.advance(200)
    client.send("ai:cancel", {"streamId": "b"})
    assert world.server.stats().average_stream_duration == 200
    client.leave()
    idle.leave()
    stats = world.server.stats()
    assert (stats.total_sessions, stats.active_sessions, stats.cancels) == (0, 0, 1)
    at_rest(world)


def test_a_server_that_did_nothing_has_no_average() -> None:
    assert new_world().server.stats().average_stream_duration == 0


def test_a_timer_of_another_layer_is_not_taken() -> None:
    service = AiService(config(), Outputs(), Timers(), SeededIds())
    with pytest.raises(AssertionError):
        service.handle_timer(Timer.PING, "sid", Millis(0))
