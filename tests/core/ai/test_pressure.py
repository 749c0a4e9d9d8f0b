"""The measures against a slow reader, end to end in a virtual world: each step, each rule.

Rules of this file: as of `test_service.py`. A client is slow when its socket has no room.
"""

import msgspec
import pytest
from core.ai.client import (
    ENDED,
    LAST_LINE,
    NO_PINGS,
    Client,
    ages,
    all_named,
    at_rest,
    cancelled,
    line,
    metadata,
    new_world,
    only,
    paused,
    read,
    setting,
    text,
)


def test_a_burst_that_a_healthy_client_takes_at_once_is_no_pressure() -> None:
    world, client = setting()
    model = client.stream()
    model.say(*["x"] * 1_000)
    model.say(*["y" * 1_000] * 1_000)  # also more than the outbox holds
    assert not paused(model)
    world.advance(10_000)
    model.done()
    said = client.take()
    assert [event.name for event in said] == ["ai:stream:start", *["ai:token"] * 2_000, *ENDED]
    stats = world.server.stats()
    assert (stats.backpressure_events, stats.merged_events) == (0, 0)


def test_a_polling_client_between_two_polls_is_no_slow_one() -> None:
    world = new_world()
    wire = world.connect()
    target = "/socket.io/?EIO=4&transport=polling"
    opening = wire.request("GET", target)
    assert opening is not None
    target += f"&sid={msgspec.json.decode(opening.body[1:])['sid']}"
    wire.request("POST", target, body=b"40/ai,")
    wire.request("GET", target)
    request = b'42/ai,["ai:stream",{"prompt":"p","streamId":"s"}]'
    wire.request("POST", target, body=request)
    wire.request("GET", target)
    (model,) = world.models
    model.say(*["x"] * 1_000)
    assert paused(model)
    world.advance(100)
    answer = wire.request("GET", target)
    assert answer is not None
    assert text([read(packet[6:]) for packet in answer.body.split(b"\x1e")]) == "x" * 1_000
    assert not paused(model)
    world.advance(10_000)
    assert world.server.stats().backpressure_events == 0


def test_a_slow_reader_pauses_the_model_above_the_threshold() -> None:
    world, client = setting()
    model = client.stream()
    client.take()
    client.block()
    model.say(*["x"] * 100)
    assert not paused(model)
    model.say("x")
    assert paused(model)
    world.advance(499)
    assert world.server.stats().backpressure_events == 0
    world.advance(1)
    model.say("under way")  # it is taken all the same
    client.wire.unblock()
    assert not paused(model)
    said = client.take()
    notice = only(said, "ai:backpressure")
    assert notice.fields == {
        "message": "The connection is slower than the model: the model is paused.",
        "queueSize": 101,
        "streamId": "s",
        "policy": "merge",
    }
    assert text(said) == "x" * 101 + "under way"
    model.done()
    complete = client.take()[0]
    assert metadata(complete)["pausedMs"] == 500
    assert metadata(complete)["mergedEvents"] == 1
    stats = world.server.stats()
    assert (stats.backpressure_events, stats.merged_events, stats.paused_ms) == (1, 1, 500)


@pytest.mark.parametrize("what", ["text", "thinking"])
def test_a_slow_reader_pauses_the_model_above_the_outboxes_bytes(what: str) -> None:
    _, client = setting(outbox_bytes=1_000, log_bytes=100_000)
    model = client.stream(think=True)
    client.take()
    client.block()
    key = "content" if what == "text" else what
    piece = line(message={"content": "", key: "x" * 400}, done=False)
    model.send(piece)
    assert not paused(model)
    model.send(piece * 2)
    assert paused(model)
    client.wire.unblock()
    assert not paused(model)
    assert text(client.take()) == "x" * 1_200


def test_the_model_goes_on_at_the_low_water_mark() -> None:
    _, client = setting(backpressure_threshold=20, replay_bytes=1)  # nothing is merged
    model = client.stream()
    client.take()
    client.block()
    model.say(*"x" * 30)
    assert paused(model)
    taken = 0
    while paused(model):
        client.wire.unblock(1)
        taken += len(client.take())
    assert 30 - taken == 10 + 1  # one is under way, a byte at a time


def test_a_reader_that_recovers_soon_is_not_told() -> None:
    world, client = setting()
    model = client.stream()
    for _ in range(3):
        client.block()
        model.say(*["x"] * 200)
        assert paused(model)
        world.advance(499)
        client.wire.unblock()
    world.advance(10_000)
    assert "ai:backpressure" not in client.names()
    assert world.server.stats().paused_ms == 3 * 499


def test_a_slow_reader_is_told_once_in_an_episode_and_again_in_the_next() -> None:
    world, client = setting()
    models = [client.stream("a"), client.stream("b")]
    for _ in range(2):
        client.block()
        for model in models:
            model.say(*["x"] * 101)
        world.advance(10_000)
        client.wire.unblock(300)  # not enough to recover
        models[0].say("x")
        world.advance(10_000)
        client.wire.unblock()
        said = client.take()
        # One for each stream that is paused: a notice names its stream.
        assert {event["streamId"] for event in all_named(said, "ai:backpressure")} == {"a", "b"}
        assert len(all_named(said, "ai:backpressure")) == 2
    assert world.server.stats().backpressure_events == 2


def test_an_episode_is_over_when_its_streams_are() -> None:
    world, client = setting()
    model = client.stream("a")
    client.block()
    model.say(*["x"] * 101)
    client.send("ai:cancel", {"streamId": "a"})
    world.advance(9_000)
    assert world.server.stats().backpressure_events == 0  # nobody is paused any more
    model = client.stream("b")
    model.say(*["x"] * 101)
    world.advance(10_000)
    assert world.server.stats().backpressure_events == 1
    client.wire.unblock()
    assert only(client.take(), "ai:backpressure")["streamId"] == "b"


def test_a_stream_may_end_while_its_model_is_paused() -> None:
    world, client = setting()
    model = client.stream()
    client.block()
    model.say(*["x"] * 101)
    world.advance(300)
    model.say("last")
    model.send(line(**LAST_LINE))
    assert not paused(model)  # so that the rest of the response is read
    world.advance(999)
    assert not cancelled(model)
    world.advance(1)
    assert cancelled(model)  # the response lingered
    client.wire.unblock()
    said = client.take()
    assert text(said) == "x" * 101 + "last"
    complete, done = said[-2:]
    assert (complete.name, done.name) == tuple(ENDED)
    assert metadata(complete)["pausedMs"] == 300
    assert metadata(complete)["mergedEvents"] == 1
    assert metadata(all_named(said, "ai:token")[0])["tokens"] == 102
    assert world.server.stats().backpressure_events == 0
    at_rest(world)
    assert world.server.stats().merged_events == 1


def test_silence_in_a_pause_ends_no_stream() -> None:
    world, client = setting(
        first_token_timeout=2_000, idle_timeout=1_000, slow_consumer_timeout=NO_PINGS
    )
    begun, silent = client.stream("a"), client.stream("b")
    world.advance(900)
    client.block()
    begun.say(*["x"] * 101)
    assert (paused(begun), paused(silent)) == (True, True)  # all of its models
    world.advance(60_000)
    client.wire.unblock()
    world.advance(999)
    begun.say("on")
    world.advance(100)
    assert world.server.stats().errors == {}
    world.advance(1)  # 2,000 without the pause
    assert world.server.stats().errors == {"first_token_timeout": 1}
    begun.done()
    assert client.names()[-1] == "ai:done"


def test_the_whole_time_of_a_stream_goes_on_in_a_pause() -> None:
    world, client = setting(stream_timeout=5_000)
    model = client.stream()
    client.block()
    model.say(*["x"] * 101)
    world.advance(5_000)
    assert cancelled(model)
    client.wire.unblock()
    said = client.take()
    assert text(said) == "x" * 101
    assert (said[-1].name, said[-1]["code"]) == ("ai:stream:error", "stream_timeout")


def test_a_slow_reader_gets_the_end_however_late_it_reads() -> None:
    world, client = setting(reconnect_timeout=1_000, slow_consumer_timeout=NO_PINGS)
    model = client.stream()
    client.block()
    model.say("a", "b")
    model.done()
    world.advance(60_000)
    client.wire.unblock()
    said = client.take()
    assert text(said) == "ab"
    assert said[-1].name == "ai:done"
    ages(world)


def test_a_client_that_asks_and_does_not_read_is_dropped_and_may_come_back() -> None:
    world, client = setting(outbox_bytes=2_000)
    model = client.stream()
    model.say("a")
    client.block()
    while client.wire.open:
        client.send("ai:heartbeat")
    assert client.wire.aborted
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    model.done()
    assert text(back.take()) == "a"
    at_rest(world)


# -- detached --------------------------------------------------------------------------------------


def test_a_reader_that_takes_nothing_is_detached_and_may_come_back() -> None:
    world, client = setting(slow_consumer_timeout=5_000, reconnect_timeout=8_000)
    model = client.stream()
    client.block()
    model.say(*["x"] * 101)
    world.advance(4_999)
    assert client.wire.open
    world.advance(1)
    assert client.wire.aborted
    stats = world.server.stats()
    assert (stats.detaches, stats.total_sessions, stats.total_active_streams) == (1, 0, 1)
    assert not paused(model)  # it goes on as for any client that is away
    model.say("more")
    world.advance(7_999)
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    model.done()
    said = back.take()
    assert text(said) == "x" * 101 + "more"
    assert said[-1].name == "ai:done"
    at_rest(world)


def test_the_streams_of_a_detached_reader_are_cancelled_when_its_time_is_over() -> None:
    world, client = setting(slow_consumer_timeout=5_000, reconnect_timeout=8_000)
    model = client.stream()
    client.block()
    model.say("x")
    world.advance(5_000 + 7_999)
    assert not cancelled(model)
    world.advance(1)
    assert cancelled(model)
    at_rest(world)


def test_a_detached_stock_client_comes_back_by_itself() -> None:
    world = new_world(recovery="on", slow_consumer_timeout=5_000)
    client = Client(world)
    model = client.stream()
    model.say("a", "b")
    said = client.take()
    client.block()
    model.say(*["x"] * 101)
    world.advance(5_000)
    assert client.wire.aborted
    back = Client(world, {"pid": client.pid, "offset": client.offset})
    model.done()
    assert back.hello["recovered"] is True
    assert text(said + back.take()) == "ab" + "x" * 101


def test_who_reads_slowly_and_steadily_gets_all_of_it() -> None:
    world, client = setting(slow_consumer_timeout=5_000, heartbeat_interval=1_000)
    model = client.stream()
    client.block()
    model.say(*["x" * 50] * 101)
    model.done()
    for _ in range(30):
        world.advance(4_999)
        client.wire.unblock(200)
    client.wire.unblock()
    assert text(client.take()) == "x" * 50 * 101
    assert world.server.stats().detaches == 0
