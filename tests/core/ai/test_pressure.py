"""The measures against a slow reader, end to end in a virtual world: each step, each rule.

Rules of this file: as of `test_streams.py`. A client is slow when its socket has no room.
"""

import msgspec
import pytest
from core.ai.client import (
    ENDED,
    LAST_LINE,
    NO_PINGS,
    Client,
    Said,
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
    stopped,
    text,
)
from tokenwire.outputs import Output, PauseUpstream, WantWrite


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


def test_only_what_comes_behind_something_that_waits_is_pressure() -> None:
    world, client = setting(outbox_bytes=500)
    model = client.stream()
    client.take()
    core = world.server
    seen: list[list[Output]] = []
    for size in (600, 1):
        core.receive_upstream(model.stream, line(done=False, response="x" * size), world.now)
        seen.append(list(iter(core.poll, None)))
    assert seen == [[WantWrite(client.wire.conn)], [PauseUpstream(model.stream)]]


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


# -- the policies ----------------------------------------------------------------------------------


def test_the_policy_pause_merges_nothing() -> None:
    world, client = setting(backpressure_policy="pause")
    model = client.stream()
    client.take()
    client.block()
    model.say(*["x"] * 101)
    assert paused(model)
    world.advance(500)
    client.wire.unblock()
    said = client.take()
    assert [event["seq"] for event in said[:-1]] == list(range(1, 102))
    assert (said[-1].name, said[-1]["policy"]) == ("ai:backpressure", "pause")
    assert not paused(model)
    stats = world.server.stats()
    assert (stats.merged_events, stats.paused_ms, stats.skipped_tokens) == (0, 500, 0)
    client.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 1}})
    replay = only(client.take(), "ai:token")  # a replay comes in pieces all the same
    assert replay["data"] == "x" * 100


def test_the_policy_skip_leaves_out_the_oldest_above_the_threshold() -> None:
    world, client = setting(backpressure_policy="skip", backpressure_threshold=5)
    model = client.stream()
    client.take()
    client.block()
    model.say(*"abcdefgh")
    world.advance(499)
    assert world.server.stats().skipped_tokens == 0
    world.advance(1)
    assert world.server.stats().skipped_tokens == 3
    model.say("i")
    client.send("ai:heartbeat")
    client.wire.unblock()
    ack, token, notice, newest = client.take()
    assert (ack["queueSize"], ack["streams"]) == (5, {"s": 0})  # handed over: nothing yet
    assert (token["data"], token["seq"], token["tokenCount"]) == ("efgh", 8, 8)
    assert metadata(token)["skipped"] == 4
    assert metadata(token)["tokens"] == 4
    assert (newest["data"], metadata(newest)) == ("i", {"model": "codellama"})
    assert metadata(token)["intent"] == "chat"  # it is the first that the client gets
    assert notice.fields == {
        "message": "The connection is slower than the model: tokens are left out.",
        "queueSize": 8,
        "streamId": "s",
        "policy": "skip",
    }
    model.say("j")
    assert metadata(client.one()) == {"model": "codellama"}
    model.done()
    assert client.take()[-1]["totalTokens"] == 10
    stats = world.server.stats()
    assert (stats.skipped_tokens, stats.backpressure_events, stats.paused_ms) == (4, 1, 0)
    client.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 0}})
    assert text(client.take()) == "abcdefghij"  # the log has the whole text


def test_with_the_policy_skip_a_reader_that_recovers_soon_misses_nothing() -> None:
    world, client = setting(backpressure_policy="skip", backpressure_threshold=5)
    model = client.stream()
    for _ in range(3):
        client.block()
        model.say(*["x"] * 20)
        world.advance(499)
        client.wire.unblock()
    world.advance(10_000)
    model.say("y")
    assert text(client.take()) == "x" * 60 + "y"
    assert world.server.stats().backpressure_events == 0


def test_with_the_policy_skip_the_text_that_waits_is_bounded_in_bytes_too() -> None:
    world, client = setting(backpressure_policy="skip", outbox_bytes=1_000, log_bytes=100_000)
    model = client.stream()
    client.take()
    client.block()
    model.say(*["x" * 100] * 30)
    world.advance(500)
    assert not paused(model)
    client.wire.unblock()
    token, notice = client.take()
    assert metadata(token)["skipped"] == 22
    assert len(str(token["data"])) == 800  # and the notice
    assert notice["queueSize"] == 30


def test_the_newest_token_is_never_left_out() -> None:
    world, client = setting(backpressure_policy="skip", outbox_bytes=400)
    models = [client.stream(name) for name in "ab"]
    client.take()
    client.block()
    for model in models:
        model.say("x" * 500)
    world.advance(500)
    models[0].say("y" * 500)
    client.wire.unblock()
    tokens = all_named(client.take(), "ai:token")
    assert [(str(event["data"])[0], event["seq"]) for event in tokens] == [("y", 2), ("x", 1)]


def test_with_the_policy_skip_a_replay_is_whole() -> None:
    world, client = setting(backpressure_policy="skip", backpressure_threshold=5)
    model = client.stream()
    model.say(*["x"] * 50)
    client.take()
    client.block()
    client.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 0}})
    model.say(*["y"] * 50)
    world.advance(10_000)
    client.wire.unblock()
    assert text(client.take()) == "x" * 50 + "y" * 50


def test_who_comes_back_to_a_hole_gets_what_was_in_it() -> None:
    world = new_world(recovery="on", backpressure_policy="skip", backpressure_threshold=5)
    client = Client(world)
    model = client.stream()
    model.say("a")
    said = client.take()
    client.block()
    model.say(*["x"] * 20)
    world.advance(500)
    client.send("ai:heartbeat")
    client.wire.unblock(200)  # the answer and its offset, no token behind the hole
    said += client.take()
    assert said[-1].name == "ai:heartbeat:ack"
    client.leave()
    back = Client(world, {"pid": client.pid, "offset": client.offset})
    assert text(said + back.take()) == "a" + "x" * 20


def test_with_the_policy_skip_a_full_log_pauses_the_model_and_skipping_makes_room() -> None:
    world, client = setting(
        backpressure_policy="skip", log_bytes=1_000, unconfirmed_bytes=1, outbox_bytes=500
    )
    model = client.stream()
    empty = world.server.stats().bytes_held
    client.block()
    model.say(*["x" * 50] * 30)  # nobody was told yet, so nothing is left out yet
    assert paused(model)
    world.advance(500)
    model.say("x" * 50)
    assert paused(model)
    client.wire.unblock()
    assert not paused(model)
    client.block()
    model.say(*["x" * 50] * 15)
    world.advance(500)
    for _ in range(100):
        model.say("x" * 50)
        assert not paused(model)
        assert world.server.stats().bytes_held < empty + 1_800


def test_with_the_policy_skip_nobody_is_told_of_a_stream_that_is_over() -> None:
    world, client = setting(backpressure_policy="skip", backpressure_threshold=5)
    client.stream("a")
    model = client.stream("b")
    client.block()
    model.say(*["x"] * 20)
    model.done()
    world.advance(5_000)
    client.wire.unblock()
    said = client.take()
    assert text(said, "b") == "x" * 20
    assert "ai:backpressure" not in [event.name for event in said]
    assert world.server.stats().backpressure_events == 0
    at_rest(world)


# -- the rate limit --------------------------------------------------------------------------------


def test_a_paced_stream_keeps_its_rate_and_loses_nothing() -> None:
    world, client = setting(stream_rate_limit=100)
    model = client.stream()
    client.take()
    model.say(*["x"] * 50)
    model.done()
    said = client.take()
    assert [event["seq"] for event in said] == [5]
    assert metadata(said[0])["tokens"] == 5
    world.advance(449)
    assert all(event.name == "ai:token" for event in said)
    world.advance(1)
    said += client.take()
    assert text(said) == "x" * 50
    assert [event.name for event in said] == ["ai:token"] * 10 + ENDED
    assert said[-1]["totalTokens"] == 50
    assert world.server.stats().merged_events == 10
    at_rest(world)


def test_a_model_that_is_slower_than_the_rate_is_not_held() -> None:
    world, client = setting(stream_rate_limit=10)
    model = client.stream()
    client.take()
    for _ in range(5):
        model.say("x")
        assert len(client.take()) == 1
        world.advance(100)


def test_a_paced_streams_model_is_slowed_and_its_client_is_not_blamed() -> None:
    world, client = setting(stream_rate_limit=100, idle_timeout=500)
    model = client.stream()
    model.say(*["x"] * 105)
    assert not paused(model)
    model.say("x")
    assert paused(model)
    world.advance(500)
    assert paused(model)
    world.advance(50)
    assert not paused(model)
    model.done()
    world.advance(1_000)
    said = client.take()
    assert text(said) == "x" * 106
    assert "ai:backpressure" not in [event.name for event in said]
    stats = world.server.stats()
    assert (stats.backpressure_events, stats.paused_ms, stats.errors) == (0, 550, {})


def test_a_client_that_says_it_has_what_was_held_is_believed() -> None:
    world, client = setting(stream_rate_limit=10, log_bytes=1_000, unconfirmed_bytes=1)
    model = client.stream()
    model.say(*["x"] * 20)
    client.take()
    client.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 20}})
    for _ in range(30):
        model.say("y" * 100)
    model.done()
    world.advance(10_000)
    said = client.take()
    assert text(said) == "y" * 3_000
    assert said[-1].name == "ai:done"


def test_a_paced_streams_model_is_slowed_by_bytes_too() -> None:
    _, client = setting(stream_rate_limit=10, outbox_bytes=1_000)
    model = client.stream()
    model.say("x", "y" * 1_000)
    assert not paused(model)
    model.say("y")
    assert paused(model)


def test_a_paced_stream_waits_for_its_reader_as_any_other() -> None:
    world, client = setting(stream_rate_limit=1_000, backpressure_threshold=100)
    model = client.stream()
    client.block()
    model.say(*["x"] * 150)
    world.advance(100)
    client.send("ai:heartbeat")
    world.advance(1_000)
    client.wire.unblock()
    said = client.take()
    assert only(said, "ai:heartbeat:ack")["queueSize"] == 150
    assert only(said, "ai:backpressure")["queueSize"] == 150
    assert text(said) == "x" * 150


def test_a_replay_is_not_paced_but_what_follows_is() -> None:
    world, client = setting(stream_rate_limit=10)
    model = client.stream()
    for _ in range(30):
        model.say("x")
        world.advance(100)
    model.say("y", "y", "y")
    client.take()
    client.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 0}})
    assert text(client.take()) == "x" * 30 + "y"
    world.advance(199)
    assert text(client.take()) == "y"
    world.advance(1)
    assert text(client.take()) == "y"


def test_what_came_while_its_client_was_away_is_not_paced() -> None:
    world, client = setting(stream_rate_limit=10)
    model = client.stream()
    model.say("a", "b", "c")
    client.leave()
    model.say(*["x"] * 200)
    assert not paused(model)
    model.done()
    world.advance(1_000)
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    assert text(back.take()) == "abc" + "x" * 200
    at_rest(world)


@pytest.mark.parametrize("how", ["cancel", "again", "forget"])
def test_a_paced_stream_may_go_at_any_time(how: str) -> None:
    world, client = setting(stream_rate_limit=10, reconnect_timeout=1_000)
    model = client.stream()
    model.say(*["x"] * 50)
    if how == "cancel":
        client.send("ai:cancel", {"streamId": "s"})
        assert client.take()[-1].name == "ai:stream:cancelled"
    elif how == "again":  # what its client was not told yet comes before the new start
        model.done()
        client.stream()
        said = client.take()
        assert [event.name for event in said[-3:]] == [*ENDED, "ai:stream:start"]
        assert sum(len(str(event["data"])) for event in all_named(said, "ai:token")) == 50
    world.advance(10_000)
    at_rest(world)


def test_a_shutdown_waits_for_what_is_paced() -> None:
    world, client = setting(stream_rate_limit=10)
    model = client.stream()
    model.say(*["x"] * 50)
    model.done()
    world.server.shut_down(world.now)
    world.pump()
    world.advance(4_800)
    assert not stopped(world)
    world.advance(200)
    assert stopped(world)
    assert text(client.take()) == "x" * 50


# -- who shares a connection -----------------------------------------------------------------------


def drained_by(client: Client, size: int) -> list[Said]:
    """Return what comes when the client takes `size` bytes more, in small reads."""
    for _ in range(size // 4_096):
        client.wire.unblock(4_096)
    return client.take()


def test_streams_share_a_connection_by_bytes() -> None:
    _, client = setting(replay_bytes=1, outbox_bytes=10_000_000)
    names = ["huge", *(f"small{number}" for number in range(9))]
    models = [client.stream(name) for name in names]
    client.take()
    client.block()
    models[0].say(*["x" * 16_384] * 8)
    for model in models[1:]:
        model.say(*["y" * 40] * 500)
    said = drained_by(client, 600_000)
    shares = {
        name: sum(len(msgspec.json.encode(one)) for one in said if one["streamId"] == name)
        for name in names
    }
    assert min(shares.values()) > 30_000
    assert max(shares.values()) < 1.7 * min(shares.values())


def test_a_huge_event_costs_its_stream_the_next_turns() -> None:
    _, client = setting(replay_bytes=1)
    models = [client.stream(name) for name in "ab"]
    models[0].say("x")
    client.take()
    client.block()
    call = {"function": {"name": "f", "arguments": {"text": "x" * 60_000}}}
    models[0].send(line(message={"content": "", "tool_calls": [call]}, done=True))
    again = client.stream("c")
    again.say(*["z" * 40] * 400)
    models[1].say(*["y" * 40] * 400)
    said = drained_by(client, 200_000)
    order = [event["streamId"] for event in said]
    assert order[0] == "a"
    assert said[0].name == "ai:stream:complete"
    assert order.index("a", 1) > 200  # its `ai:done` waits for 60,000 bytes of the others


def test_events_that_name_no_stream_overtake_waiting_tokens_and_pings_go_first() -> None:
    world, client = setting(heartbeat_interval=1_000, slow_consumer_timeout=NO_PINGS)
    model = client.stream()
    client.take()
    client.block()
    model.say(*["x"] * 50)
    world.advance(900)
    client.send("ai:heartbeat")
    world.advance(100)
    client.send("ai:stream", {"prompt": ""})
    client.wire.unblock()
    packets = client.wire.texts()
    assert packets[0] == "2"
    assert [read(packet[6:].encode()).name for packet in packets[1:]] == [
        "ai:heartbeat:ack",
        "ai:error",
        "ai:token",
    ]


def test_events_of_other_namespaces_on_the_connection_overtake_too() -> None:
    world, client = setting()
    client.wire.send_text("40")
    (reply,) = client.wire.texts()
    socket = msgspec.json.decode(reply[2:])["sid"]
    model = client.stream()
    client.take()
    client.block()
    model.say(*["x"] * 10)
    world.server.emit(socket, "news", [1], world.now)
    world.pump()
    client.wire.unblock()
    packets = client.wire.texts()
    assert packets[0] == '42["news",1]'
    assert len(packets) == 2


def test_a_healthy_client_hears_of_no_pressure_whatever_the_bursts() -> None:
    world, client = setting()
    models = [client.stream(name) for name in "abc"]
    for _ in range(4):
        for model in models:
            model.say(*["x"] * 1_000)
            assert not paused(model)
        world.advance(7)
    for model in models:
        model.done()
    world.advance(10_000)
    said = client.take()
    assert len(all_named(said, "ai:token")) == 12_000
    assert "ai:backpressure" not in [event.name for event in said]
    stats = world.server.stats()
    assert (stats.backpressure_events, stats.merged_events, stats.paused_ms) == (0, 0, 0)


def test_pauses_that_go_on_are_counted() -> None:
    world, client = setting()
    model = client.stream()
    client.block()
    model.say(*["x"] * 101)
    world.advance(700)
    client.send("ai:heartbeat")
    assert world.server.stats().paused_ms == 700
    client.wire.unblock()
    world.advance(300)
    assert world.server.stats().paused_ms == 700
