"""What is held of streams is bounded: each log, and all together.

Rules of this file: clients, model server and clock are the world's; nothing is looked at but what a
client receives, what the model was asked, and the public getters. `text` reads as the seed's client
does: it empties at `ai:stream:start` and appends each token.
"""

from core.ai.client import (
    LAST_LINE,
    Client,
    at_rest,
    cancelled,
    line,
    only,
    paused,
    setting,
    text,
)

# -- the log's bounds ------------------------------------------------------------------------------


def test_text_that_was_sent_is_evicted_when_the_log_is_full_and_not_before() -> None:
    world, client = setting(log_bytes=1_000)
    model = client.stream()
    kept = []
    empty = world.server.stats().bytes_held
    for _ in range(300):
        model.say("0123456")  # 11 bytes with their boundary, and an eighth of room
        kept.append(world.server.stats().bytes_held - empty)
    assert not paused(model)
    assert 980 < max(kept) * 8 / 9 < 1_001
    full = kept[100:]
    assert 850 < min(full) * 8 / 9 < 890  # an eighth is evicted at once
    client.take()
    client.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 10}})
    gap, success, *tokens = client.take()
    first = only([success], "ai:reconnect:success")["streams"]
    assert isinstance(first, list)
    assert gap.name == "ai:error"
    assert (gap["code"], gap["retryable"], gap["streamId"]) == ("resume_gap", False, "s")
    assert gap["firstSeq"] == first[0]["firstSeq"] == first[0]["nextSeq"] > 200
    assert tokens[-1]["seq"] == 300
    assert world.server.stats().errors == {"resume_gap": 1}


def test_a_pause_for_a_slow_reader_evicts_nothing() -> None:
    world, client = setting(log_bytes=1_000)
    model = client.stream()
    model.say(*["0123456"] * 40)  # all sent
    client.block()
    model.say(*["x"] * 101)
    assert paused(model)
    client.wire.unblock()
    client.leave()
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    assert text(back.take()) == "0123456" * 40 + "x" * 101


def test_the_streams_of_an_absent_client_go_on_until_their_log_is_full() -> None:
    world, client = setting(log_bytes=1_000)
    model = client.stream()
    model.say("sent ")
    client.take()
    client.leave()
    for number in range(80):
        model.say(f"{number:7}")
        assert not paused(model)
    while not paused(model):
        model.say("0123456")
    world.advance(20_000)  # a pause for a full log: nobody is there to be told
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 1}})
    assert not paused(model)
    model.say("on")
    said = back.take()
    assert text(said).startswith("      0      1")
    assert text(said).endswith("on")
    assert "ai:backpressure" not in [event.name for event in said]
    stats = world.server.stats()
    assert (stats.paused_ms, stats.backpressure_events) == (20_000, 0)


def test_who_comes_back_and_reads_slowly_is_told() -> None:
    world, client = setting(log_bytes=1_000, backpressure_threshold=50)
    model = client.stream()
    client.take()
    client.leave()
    while not paused(model):
        model.say("0123456")
    back = Client(world)
    back.block()
    back.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 0}})
    world.advance(500)
    back.wire.unblock()
    assert "ai:backpressure" in back.names()


def test_a_full_log_pauses_also_for_a_client_that_is_there() -> None:
    world, client = setting(log_bytes=100, replay_bytes=1)
    models = [client.stream(name) for name in "ab"]
    client.take()
    client.block()
    models[0].say(*["0123456"] * 10)
    models[1].say(*["0123456"] * 6)
    assert [paused(model) for model in models] == [True, False]
    client.wire.unblock(150)  # one token: the log is full still
    world.advance(1_000)
    assert paused(models[0])
    client.wire.unblock()
    assert not paused(models[0])
    assert world.server.stats().backpressure_events == 0
    assert "ai:backpressure" not in client.names()


def test_a_client_that_leaves_ends_its_episode() -> None:
    world, client = setting()
    model = client.stream()
    client.block()
    model.say(*["x"] * 101)
    client.leave()
    assert not paused(model)
    world.advance(10_000)
    assert world.server.stats().backpressure_events == 0
    assert world.server.stats().paused_ms == 0
    at_rest(world)


def test_a_response_that_goes_on_behind_its_end_is_closed() -> None:
    world, client = setting()
    model = client.stream()
    model.send(line(**LAST_LINE))
    world.advance(999)
    assert not cancelled(model)
    world.advance(1)
    assert cancelled(model)
    at_rest(world)


# -- pressure (all of it: test_pressure.py) --------------------------------------------------------


def test_the_timers_of_pressure_and_of_the_pace_are_taken() -> None:
    world, client = setting(backpressure_threshold=2, stream_rate_limit=20)
    model = client.stream()
    client.block()
    model.say(*"abcdef")
    world.advance(1_000)
    client.wire.unblock()
    assert text(client.take()) == "abcdef"
    assert world.server.stats().backpressure_events == 1
    at_rest(world)


# -- memory ----------------------------------------------------------------------------------------


def test_above_80_percent_no_stream_starts() -> None:
    world, client = setting(memory_bytes=100_000)
    model = client.stream("a")
    model.say(*["x" * 16_000] * 5)
    client.take()
    client.send("ai:stream", {"prompt": "p", "streamId": "b"})
    refused = client.one()
    assert (refused["code"], refused["retryable"]) == ("node_overloaded", True)
    client.leave()
    world.advance(30_000)
    assert cancelled(model)
    other = Client(world)
    other.stream("b")
    assert other.one().name == "ai:stream:start"
    at_rest(world)


def test_above_95_percent_the_longest_absent_sessions_go() -> None:
    world, first = setting(memory_bytes=100_000)
    second, empty, present = Client(world), Client(world), Client(world)
    models = [client.stream() for client in (first, second)]
    model = present.stream()
    for kept in models:
        kept.say("x" * 14_000, "y" * 14_000)
    empty.leave()
    first.leave()
    world.advance(1)
    second.leave()
    models[0].say("x" * 10_000)  # nobody needs room yet
    assert world.server.stats().evictions == 0
    model.say("z" * 16_000)
    assert (cancelled(models[0]), cancelled(models[1])) == (True, False)
    stats = world.server.stats()
    assert (stats.evictions, stats.cancels) == (1, 1)
    assert stats.bytes_held <= stats.memory_bound == world.server.memory_bound()
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": first.id})
    assert back.error() == ("reconnect_failed", None)
    back.send("ai:reconnect", {"previousClientId": second.id})
    assert text(back.take()) == "x" * 14_000 + "y" * 14_000
    assert not paused(model)
    at_rest(world)


def test_the_session_that_needs_the_room_may_be_the_one_that_goes() -> None:
    world, client = setting(memory_bytes=100_000)
    model = client.stream()
    client.leave()
    model.say(*["x" * 16_000] * 6)
    assert cancelled(model)
    assert world.server.stats().bytes_held == 0
    at_rest(world)


def test_a_node_without_room_pauses_all_models_and_loses_nothing() -> None:
    world, slow = setting(memory_bytes=200_000, outbox_bytes=1_000_000)
    quick, other = Client(world), Client(world)
    slow_model, quick_model, other_model = slow.stream(), quick.stream(), other.stream()
    slow.block()
    slow_model.say(*["s" * 10_000] * 9)
    quick_model.say("a")
    other_model.say(*["o" * 1_000] * 100)
    assert [paused(model) for model in world.models] == [False] * 3
    assert world.server.stats().bytes_held < 200_000  # text that was sent has made room
    slow_model.say(*["s" * 10_000] * 9)
    assert [paused(model) for model in world.models] == [True] * 3
    assert text(other.take()) == "o" * 100_000
    slow.wire.unblock()
    assert [paused(model) for model in world.models] == [False] * 3
    assert text(slow.take()) == "s" * 180_000
    quick_model.say("b")
    assert text(quick.take()) == "ab"
    at_rest(world)


def test_who_leaves_a_node_without_room_makes_room() -> None:
    world, leaving = setting(memory_bytes=100_000, outbox_bytes=1_000_000)
    staying = Client(world)
    models = [leaving.stream(), staying.stream()]
    leaving.block()
    models[0].say(*["x" * 10_000] * 9)
    assert [paused(model) for model in models] == [True, True]
    leaving.leave()
    assert cancelled(models[0])
    assert not paused(models[1])
    at_rest(world)


def test_the_unfinished_line_of_a_model_counts() -> None:
    world, client = setting(memory_bytes=100_000)
    model = client.stream()
    before = world.server.stats().bytes_held
    model.send(b'{"message":{"content":"' + b"x" * 50_000)
    assert world.server.stats().bytes_held == before + 50_023
    model.send(b"y" * 60_000)
    assert paused(model)
    model.send(b'"},"done":false}\n')
    assert not paused(model)
    assert text(client.take()) == "x" * 50_000 + "y" * 60_000
    at_rest(world)


def test_text_that_was_handed_over_makes_room_before_a_model_is_paused() -> None:
    """Prompts alone take most of the memory; the logs are small, and read."""
    world, first = setting(memory_bytes=1_000_000)
    clients = [first, *(Client(world) for _ in range(20))]
    models = [client.stream("s", "x" * 30_000) for client in clients]
    for _ in range(300):
        for model in models:
            model.say("y" * 200)
        for client in clients:
            client.take()
    assert [paused(model) for model in models] == [False] * len(models)
    at_rest(world)


def test_ended_streams_that_are_read_make_room() -> None:
    world, hog = setting(memory_bytes=400_000)
    client = Client(world)
    model = client.stream()
    for number in range(9):
        ended = hog.stream(f"s{number}")
        ended.say(*["x" * 10_000] * 3)
        ended.done()
        hog.take()
    for _ in range(200):
        model.say("y" * 1_000)
        client.take()
        assert not paused(model)
    other = Client(world)
    other.stream()  # there is room again, and no refusal
    at_rest(world)


def test_room_does_not_help_who_does_not_read() -> None:
    world, slow = setting(memory_bytes=200_000, outbox_bytes=10_000, slow_consumer_timeout=10**6)
    hog, quick = Client(world), Client(world)
    models = [client.stream() for client in (slow, hog, quick)]
    slow.block()
    hog.block()
    models[0].say(*["s" * 5_000] * 3)
    assert [paused(model) for model in models] == [True, False, False]
    models[1].say(*["h" * 10_000] * 18)
    assert [paused(model) for model in models] == [True, True, True]
    hog.send("ai:cancel", {"streamId": "s"})
    assert [paused(models[0]), paused(models[2])] == [True, False]
    at_rest(world)


def test_a_start_makes_room_of_what_has_ended() -> None:
    world, client = setting(memory_bytes=100_000)
    model = client.stream("a")
    model.say(*["x" * 10_000] * 8)
    model.done()
    assert world.server.stats().bytes_held > 80_000
    client.take()
    client.stream("b")
    assert world.server.stats().bytes_held < 20_000
    assert client.one().name == "ai:stream:start"
    at_rest(world)


def test_an_unfinished_line_may_be_what_is_too_much() -> None:
    world, client = setting(memory_bytes=100_000)
    model = client.stream()
    client.leave()
    model.send(b'{"message":{"content":"' + b"y" * 120_000)
    assert cancelled(model)
    assert world.server.stats().bytes_held == 0
    at_rest(world)


def test_who_joins_a_stream_whose_beginning_is_gone_is_told() -> None:
    world, client = setting(log_bytes=1_000, unconfirmed_bytes=1)
    model = client.stream("s", "p")
    model.say(*["x" * 50] * 40)
    client.take()
    client.send("ai:stream", {"prompt": "p", "streamId": "s"})
    gap, *tokens = client.take()
    assert gap["code"] == "resume_gap"
    assert {event.name for event in tokens} == {"ai:token"}
    at_rest(world)


def test_a_node_without_room_looks_again_whether_anybody_has_read() -> None:
    world, hog = setting(memory_bytes=200_000, outbox_bytes=1_000_000, slow_consumer_timeout=10**6)
    client = Client(world)
    model = client.stream()
    ended = hog.stream()
    hog.block()
    ended.say(*["x" * 10_000] * 18)
    ended.done()
    assert paused(model)
    world.advance(5_000)
    assert paused(model)
    hog.wire.unblock()
    world.advance(1_000)
    assert not paused(model)
    model.say("y")
    assert text(hog.take()) == "x" * 180_000
    assert text(client.take()) == "y"
    at_rest(world)


def test_who_is_dropped_by_what_a_reconnect_says_may_go_for_want_of_room() -> None:
    world, client = setting(
        memory_bytes=90_000,
        log_bytes=4_096,
        unconfirmed_bytes=256,
        outbox_bytes=1_500,
        outbox_burst_bytes=1_500,
    )
    models = [client.stream(f"s{number}") for number in range(10)]
    for model in models * 100:
        if world.server.stats().bytes_held < 88_000:
            model.say("z" * 40)
    client.take()
    back = Client(world)
    back.block()
    back.send("ai:reconnect", {"previousClientId": client.id})
    at_rest(world)


def test_what_is_told_of_a_stream_before_its_next_start_counts() -> None:
    world, client = setting(outbox_bytes=1_000_000)
    model = client.stream()
    client.block()
    model.say(*["\x01" * 10_000] * 5)  # each takes six characters of JSON
    model.done()
    client.stream()
    assert world.server.stats().bytes_held > 300_000
    at_rest(world)


def test_a_line_that_is_whole_counts_once() -> None:
    world, away = setting(memory_bytes=1_000_000)
    client = Client(world)
    away.stream().say("x" * 10_000)
    away.leave()
    model = client.stream()
    model.send(b'{"message":{"content":"' + b"y" * 500_000)
    model.send(b'"},"done":false}\n')
    assert world.server.stats().evictions == 0
    at_rest(world)


def test_one_request_may_be_what_is_too_much() -> None:
    world, away = setting(memory_bytes=100_000)
    kept = away.stream()
    kept.say(*["x" * 10_000] * 6)
    away.leave()
    Client(world).stream("s", "y" * 30_000)
    assert cancelled(kept)
    at_rest(world)


def test_sessions_that_were_taken_over_keep_nothing() -> None:
    world, client = setting()
    for _ in range(20):
        for _ in range(20):
            client.send("ai:reconnect", {})
        newer = Client(world)
        newer.send("ai:reconnect", {"previousClientId": client.id})
        client.leave()
        client = newer
        world.advance(1_000)
    assert world.server.stats().bytes_held < 20_000
    at_rest(world)


def test_a_flood_of_thinking_pauses_the_model_of_who_does_not_read() -> None:
    world, client = setting(outbox_bytes=10**7, log_bytes=20_000, lane_bytes=1_000)
    model = client.stream(think=True)
    client.block()
    thought = line(message={"content": "", "thinking": "hm" * 100}, done=False)
    sent = 0
    while not paused(model):
        model.send(thought)
        sent += 1
    assert sent < 100
    client.wire.unblock()
    assert not paused(model)
    assert len([one for one in client.take() if one.name == "ai:token"]) == sent
    client.leave()
    while not paused(model):
        model.send(thought)
    back = Client(world, {"pid": client.pid, "offset": client.offset})
    assert not paused(model)
    assert len(back.take()) > 50
    at_rest(world)


def test_who_never_answers_a_ping_is_not_in_doubt_for_ever() -> None:
    world, client = setting(
        heartbeat_interval=2_000, heartbeat_timeout=1_000, reconnect_timeout=1_000
    )
    model = client.stream()
    model.say("all of it")
    model.done()
    for _ in range(15):  # twice 4 s; what it is sent is a sign of life
        assert world.server.stats().bytes_held > 4_000
        client.send("ai:heartbeat")
        world.advance(500)
        assert client.wire.open
    for _ in range(3):
        client.send("ai:heartbeat")
        world.advance(500)
    assert client.wire.open
    assert world.server.stats().bytes_held < 4_000


def test_an_ended_stream_is_kept_until_its_client_would_be_known_to_be_gone() -> None:
    world, client = setting(heartbeat_interval=20_000, heartbeat_timeout=10_000)
    model = client.stream()
    model.say("all of it")
    model.done()
    world.advance(29_000)  # the link is dead, and nobody knows
    world.advance(1_000)
    assert world.server.stats().total_sessions == 0
    world.advance(29_000)
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 0}})
    assert text(back.take()) == "all of it"
    back.wire.send_text("3")
    for _ in range(5):
        assert world.server.stats().bytes_held > 4_000
        world.advance(10_000)
        back.wire.send_text("3")
    world.advance(10_001)
    back.wire.send_text("3")
    assert world.server.stats().bytes_held < 4_000
    at_rest(world)
