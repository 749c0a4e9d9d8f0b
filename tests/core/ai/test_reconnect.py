"""A session is taken over by `ai:reconnect`, end to end in a virtual world.

Rules of this file: clients, model server and clock are the world's; nothing is looked at but what a
client receives, what the model was asked, and the public getters. `text` reads as the seed's client
does: it empties at `ai:stream:start` and appends each token.
"""

import msgspec
import pytest
from core.ai.client import (
    ENDED,
    Client,
    Fields,
    Said,
    all_named,
    at_rest,
    cancelled,
    line,
    metadata,
    only,
    paused,
    setting,
    text,
)
from tokenwire.testing import World
from tokenwire.types import Millis

REPLAYED = ["ai:stream:start", "ai:token"]


# -- ai:reconnect ----------------------------------------------------------------------------------


def test_a_session_is_taken_over_with_its_streams() -> None:
    world, client = setting()
    running, over = client.stream("running"), client.stream("over")
    running.say("a", "b")
    over.say("x")
    over.done()
    epochs = [event["epoch"] for event in client.take() if event.name == "ai:stream:start"]
    client.leave()
    running.say("c")
    back = Client(world)
    answer = back.ask("ai:reconnect", {"previousClientId": client.id})
    assert answer == {"ok": True, "newClientId": back.id}
    running.say("d")
    running.done()
    said = back.take()
    assert said[0] == Said(
        "ai:reconnect:success",
        {
            "previousClientId": client.id,
            "newClientId": back.id,
            "streams": [
                {
                    "streamId": "running",
                    "state": "streaming",
                    "nextSeq": 1,
                    "firstSeq": 1,
                    "epoch": epochs[0],
                },
                {
                    "streamId": "over",
                    "state": "done",
                    "nextSeq": 1,
                    "firstSeq": 1,
                    "epoch": epochs[1],
                },
            ],
        },
    )
    assert text(said, "running") == "abcd"
    assert text(said, "over") == "x"
    own = [event for event in said[1:] if event["streamId"] == "running"]
    assert [event.name for event in own] == [*REPLAYED, "ai:token", *ENDED]
    assert [metadata(event).get("replayed") for event in own[1:3]] == [True, None]
    assert world.server.stats().resumes == 1
    at_rest(world)


def test_a_long_text_is_replayed_in_pieces() -> None:
    world, client = setting()
    model = client.stream()
    model.say(*["x" * 1_000] * 40)
    client.leave()
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    said = back.take()
    sizes = [len(str(event["data"])) for event in all_named(said, "ai:token")]
    assert sizes == [16_000, 16_000, 8_000]
    assert text(said) == "x" * 40_000


@pytest.mark.parametrize(
    ("cursor", "shown", "started"),
    [
        (0, "abc", False),
        (2, "c", False),
        (3, "", False),
        ({"seq": 2}, "c", False),
        ({"seq": 2, "epoch": "the epoch"}, "c", False),
        ({"seq": 2, "epoch": "another"}, "abc", True),  # of an earlier stream of that name
        (4, "abc", True),  # so is what this stream does not have
    ],
)
def test_a_cursor_brings_exactly_what_is_missing(cursor: object, shown: str, started: bool) -> None:
    world, client = setting()
    model = client.stream()
    epoch = client.one()["epoch"]
    model.say("a", "b", "c")
    client.leave()
    if isinstance(cursor, dict) and cursor.get("epoch") == "the epoch":
        cursor = cursor | {"epoch": epoch}
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": cursor, "t": 5}})
    model.say("d")
    said = back.take()
    assert text(said) == shown + "d"
    assert ("ai:stream:start" in [event.name for event in said]) is started


def test_streams_that_a_cursor_client_does_not_name_come_whole() -> None:
    world, client = setting()
    a, b = client.stream("a"), client.stream("b")
    a.say("1", "2")
    b.say("3", "4")
    client.leave()
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id, "streams": {"a": 1}})
    said = back.take()
    assert (text(said, "a"), text(said, "b")) == ("2", "34")
    assert [event["streamId"] for event in all_named(said, "ai:stream:start")] == ["b"]


def test_a_connection_may_ask_again_with_its_own_id_and_burns_nothing() -> None:
    world, client = setting()
    model = client.stream("s")
    client.stream("t").say("other")
    model.say("a", "b", "c")
    client.take()
    for _ in range(2):
        client.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 1}})
        success, tokens = client.take()
        assert success["newClientId"] == success["previousClientId"] == client.id
        assert (tokens["streamId"], tokens["data"], tokens["seq"]) == ("s", "bc", 3)
    client.send("ai:reconnect", {"previousClientId": client.id})
    assert client.names() == ["ai:reconnect:success"]  # it has all, and gets no token twice
    assert world.server.stats().total_sessions == 1


def test_a_request_that_arrives_when_its_client_is_elsewhere_takes_nothing() -> None:
    world, client = setting()
    model = client.stream()
    client.take()
    client.leave()
    given_up, back = Client(world), Client(world)
    request: Fields = {"previousClientId": client.id}
    back.send("ai:reconnect", request)
    given_up.send("ai:reconnect", request)  # was under way all the time
    assert given_up.error() == ("reconnect_failed", None)
    given_up.leave()
    model.say("a")
    assert text(back.take()) == "a"
    assert not back.fenced
    back.leave()
    again = Client(world)
    again.send("ai:reconnect", request)  # the answer to the first was lost
    assert text(again.take()) == "a"


def test_what_a_connection_got_before_it_reconnects_does_not_come_twice() -> None:
    world, client = setting()
    client.stream("old").say("a")
    client.leave()
    back = Client(world)
    back.stream("new").say("b")
    first = back.take()
    back.send("ai:reconnect", {"previousClientId": client.id})
    second = back.take()
    assert text(first, "new") == "b"
    assert [event.name for event in second] == ["ai:reconnect:success", *REPLAYED]
    assert text(second, "old") == "a"


@pytest.mark.parametrize("newer", ["the old session's", "the new connection's"])
@pytest.mark.parametrize("ended", [False, True])
def test_of_two_streams_of_one_name_the_newer_wins(newer: str, ended: bool) -> None:
    world, client = setting()
    if newer == "the old session's":
        back = Client(world)
        loser, winner = back.stream("s", "one"), client.stream("s", "two")
    else:
        loser = client.stream("s", "one")
        client.leave()
        back = Client(world)
        winner = back.stream("s", "two")
    loser.say("lost")
    if ended:
        loser.done()
    winner.say("kept")
    back.take()
    back.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 0}})
    assert cancelled(loser) is not ended
    assert not cancelled(winner)
    winner.done()
    said = back.take()
    success = only(said, "ai:reconnect:success")
    assert success["replaced"] == ["s"]
    assert isinstance(success["streams"], list)
    assert len(success["streams"]) == 1
    assert [event.name for event in said[1:]] == ["ai:token", *ENDED]
    assert text(said) == "kept"
    at_rest(world)


def test_replaced_streams_leave_the_others_whole() -> None:
    world, client = setting(ended_streams_kept=1)
    for name in "abcd":
        client.stream(name).done()
    client.stream("s")
    client.leave()
    back = Client(world)
    back.stream("s", "newer")
    back.send("ai:reconnect", {"previousClientId": client.id})
    assert only(back.take(), "ai:reconnect:success")["replaced"] == ["s"]
    at_rest(world)


def test_who_takes_over_one_session_after_the_other_does_not_collect_their_ended_streams() -> None:
    world, collector = setting(ended_streams_kept=2, ended_streams_in_doubt=2)
    streams: list[Fields] = []
    for number in range(4):
        client = Client(world)
        for name in (f"a{number}", f"b{number}"):
            client.stream(name).done()
        client.leave()
        collector.send("ai:reconnect", {"previousClientId": client.id})
        success = only(collector.take(), "ai:reconnect:success")
        streams = msgspec.convert(success["streams"], list[Fields])
        assert len(streams) <= 2 + 2
    assert [stream["streamId"] for stream in streams] == ["a2", "b2", "a3", "b3"]
    at_rest(world)


def test_a_paused_stream_moves_and_goes_on_with_its_new_reader() -> None:
    world, client = setting()
    model = client.stream()
    client.block()
    model.say(*["x"] * 101)
    assert paused(model)
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    assert not paused(model)
    model.done()
    said = back.take()
    assert text(said) == "x" * 101
    world.advance(10_000)
    assert world.server.stats().backpressure_events == 0
    at_rest(world)


def test_limits_are_counted_after_the_transfer() -> None:
    world, client = setting(max_concurrent_streams=2)
    client.stream("a")
    client.stream("b")
    client.leave()
    back = Client(world)
    back.stream("c")
    back.send("ai:reconnect", {"previousClientId": client.id})
    back.take()
    back.send("ai:stream", {"prompt": "p"})
    assert back.error() == ("too_many_streams", None)


def test_a_session_that_still_seems_alive_is_fenced() -> None:
    world, client = setting()
    model = client.stream()
    model.say("a")
    client.take()
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    model.say("b")
    assert client.take() == []
    assert client.fenced
    assert client.wire.open
    back.take()
    client.leave()  # its late close changes nothing
    world.advance(40_000)
    model.say("c")
    assert text(back.take()) == "c"
    assert world.server.stats().total_sessions == 1
    at_rest(world)


def crowded(room: int, heartbeats: int) -> tuple[World, Client, int]:
    """Return a client that reads nothing, and how many of `heartbeats` it lived to send."""
    world, client = setting(outbox_bytes=room)
    client.stream()
    client.block()
    sent = 0
    while sent < heartbeats and client.wire.open:
        client.send("ai:heartbeat")
        sent += 1
    return world, client, sent


def test_a_session_that_reads_nothing_is_fenced_or_dropped_if_that_is_one_too_many() -> None:
    dropped = []
    for room in range(1_000, 1_100, 5):  # a DISCONNECT has 6 bytes
        _, _, too_many = crowded(room, 1_000)
        world, client, _ = crowded(room, too_many - 1)
        back = Client(world)
        back.send("ai:reconnect", {"previousClientId": client.id})
        world.models[0].done()
        assert back.names() == ["ai:reconnect:success", "ai:stream:start", *ENDED]
        dropped.append(client.wire.aborted)
        at_rest(world)
    assert set(dropped) == {True, False}


def test_the_old_id_stays_valid_until_the_answer_is_known_to_have_come() -> None:
    world, first = setting()
    model = first.stream()
    model.say("a")
    first.leave()
    chain = [first]
    for _ in range(3):  # the answer is lost again and again
        chain.append(Client(world))
        chain[-1].send("ai:reconnect", {"previousClientId": first.id})
        chain[-1].leave()
    last = Client(world)
    last.send("ai:reconnect", {"previousClientId": first.id})
    assert text(last.take()) == "a"
    last.send("ai:reconnect", {"previousClientId": chain[2].id})  # also on one connection
    said = last.take()
    assert [event.name for event in said] == ["ai:reconnect:success", *REPLAYED]
    last.send("ai:heartbeat")
    last.take()
    for client in chain:
        last.send("ai:reconnect", {"previousClientId": client.id})
        assert last.error() == ("reconnect_failed", None)
    model.done()
    assert last.names() == ENDED
    at_rest(world)


def test_a_pong_burns_the_old_id() -> None:
    world, client = setting(heartbeat_interval=1_000)
    client.leave()
    back = Client(world)
    world.advance(1_000)  # its first ping is on the way
    back.send("ai:reconnect", {"previousClientId": client.id})
    back.pong()  # answers a ping from before the answer
    again = Client(world)
    again.send("ai:reconnect", {"previousClientId": client.id})
    assert again.names() == ["ai:reconnect:success"]
    world.advance(1_000)
    again.pong()
    for asking in (again, Client(world)):
        asking.send("ai:reconnect", {"previousClientId": client.id})
        assert asking.error() == ("reconnect_failed", None)
    last = Client(world)
    last.send("ai:reconnect", {"previousClientId": again.id})
    assert last.names() == ["ai:reconnect:success"]
    at_rest(world)


def test_a_pong_before_the_answer_was_handed_over_burns_nothing() -> None:
    world, client = setting(heartbeat_interval=1_000)
    client.leave()
    back = Client(world)
    world.advance(990)
    back.block()
    back.send("ai:reconnect", {"previousClientId": client.id})
    world.advance(10)
    back.wire.unblock(1)  # the ping goes first, and then the answer
    back.pong()
    again = Client(world)
    again.send("ai:reconnect", {"previousClientId": client.id})
    assert again.names() == ["ai:reconnect:success"]
    at_rest(world)


def test_the_old_id_is_burnt_in_time_also_without_a_word() -> None:
    world, client = setting()
    client.leave()
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    world.advance(30_000)
    other = Client(world)
    other.send("ai:reconnect", {"previousClientId": client.id})
    assert other.error() == ("reconnect_failed", None)
    other.send("ai:reconnect", {"previousClientId": back.id})
    assert other.names() == ["ai:reconnect:success"]
    at_rest(world)


def test_an_id_in_the_middle_of_a_chain_is_burnt_with_it() -> None:
    world, first = setting()
    second = Client(world)
    second.send("ai:reconnect", {"previousClientId": first.id})
    world.advance(20_000)
    third = Client(world)
    third.send("ai:reconnect", {"previousClientId": second.id})
    world.advance(10_000)  # the first transfer's time is over: its id, and no other
    third.send("ai:reconnect", {"previousClientId": first.id})
    third.send("ai:reconnect", {"previousClientId": second.id})
    assert third.names() == ["ai:reconnect:success", "ai:error", "ai:reconnect:success"]
    at_rest(world)


def test_a_connection_may_take_over_two_sessions_and_both_are_burnt() -> None:
    world, one = setting()
    other = Client(world)
    one.stream("a").say("1")
    other.stream("b").say("2")
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": one.id})
    back.send("ai:reconnect", {"previousClientId": other.id})
    said = back.take()
    assert (text(said, "a"), text(said, "b")) == ("1", "2")
    back.send("ai:heartbeat")
    back.take()
    for client in (one, other):
        back.send("ai:reconnect", {"previousClientId": client.id})
        assert back.error() == ("reconnect_failed", None)
    at_rest(world)


@pytest.mark.parametrize(
    "forge",
    [
        lambda used, expired, own: used,
        lambda used, expired, own: expired,
        lambda used, expired, own: own.split(".")[0],
        lambda used, expired, own: own.split(".")[0] + "." + used.split(".")[1],
        lambda used, expired, own: "x" * 44,
        lambda used, expired, own: None,
        lambda used, expired, own: {"$ne": ""},
    ],
)
def test_unknown_used_expired_and_foreign_ids_get_one_answer(forge: object) -> None:
    world, expired = setting()
    expired.leave()
    world.advance(30_000)
    used = Client(world)
    owner = Client(world)
    owner.send("ai:reconnect", {"previousClientId": used.id})
    owner.send("ai:heartbeat")
    other = Client(world)
    assert callable(forge)
    other.send("ai:reconnect", {"previousClientId": forge(used.id, expired.id, owner.id)})
    assert other.one() == Said(
        "ai:error",
        {
            "error": "There is no session to take over with this previousClientId.",
            "code": "reconnect_failed",
            "details": "reconnect_failed",
            "retryable": False,
        },
    )
    assert not owner.fenced


def test_streams_of_who_does_not_come_back_are_cancelled_at_the_model() -> None:
    world, client = setting()
    model = client.stream()
    over, late = client.stream("over"), client.stream("late")
    over.done()
    client.leave()
    late.done()  # with nobody there to be told
    world.advance(29_999)
    model.say("a")
    assert not cancelled(model)
    world.advance(1)
    assert cancelled(model)
    assert world.server.stats().cancels == 1
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    assert back.error() == ("reconnect_failed", None)
    at_rest(world)


def test_thinking_for_an_absent_client_is_not_kept() -> None:
    world, client = setting()
    model = client.stream(think=True)
    client.leave()
    model.send(line(message={"content": "", "thinking": "hm"}, done=False))
    model.say("a")
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    assert text(back.take()) == "a"


def test_an_ended_stream_waits_for_an_absent_client() -> None:
    world, client = setting(reconnect_timeout=1_000)
    model = client.stream()
    model.say("a")
    client.take()
    world.advance(400)
    client.block()
    model.done()
    world.advance(700)
    client.leave()
    world.advance(900)  # the end is older than the grace period, the absence is not
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 1}})
    assert back.names() == ["ai:reconnect:success", *ENDED]
    at_rest(world)


def test_an_ended_stream_waits_for_its_client_as_long_as_the_session_does() -> None:
    world, client = setting()
    model = client.stream()
    model.say("a")
    client.take()
    seen = client.offset
    model.say("b")
    model.done()
    world.advance(10_000)
    client.leave()
    world.advance(29_999)
    back = Client(world, {"pid": client.pid, "offset": seen})
    assert back.names() == ["ai:token", *ENDED]
    at_rest(world)


def test_an_ended_stream_waits_also_when_the_loss_was_noticed_late() -> None:
    world, client = setting(heartbeat_interval=25_000)
    model = client.stream()
    model.say("a")
    client.take()
    seen = client.offset
    model.say("b")
    model.done()
    world.advance(25_000 + 20_000 + 29_999)  # no pong has come
    back = Client(world, {"pid": client.pid, "offset": seen})
    assert back.names() == ["ai:token", *ENDED]
    at_rest(world)


def test_the_time_of_an_ended_stream_begins_when_its_client_was_handed_the_last_of_it() -> None:
    world, client = setting(heartbeat_interval=4_000, heartbeat_timeout=3_000)
    kept = 4_000 + 3_000 + 30_000
    stream, early = client.stream(), client.stream("early")
    early.done()
    stream.say("a")
    client.block()
    stream.done()
    for now in range(0, 100_000, 2_000):
        world.advance(2_000)
        if now == 50_000:
            client.wire.unblock()
        elif now < 50_000:
            client.wire.unblock(1)  # reads, very slowly
        client.wire.send_text("3")
        if now == 50_000 + kept - 3_000:
            client.send("ai:heartbeat")
            assert client.take()[-1]["streams"] == {"s": 1}
    client.send("ai:heartbeat")
    assert client.take()[-1]["streams"] == {}


def test_an_id_is_over_at_its_deadline_handled_or_not() -> None:
    world, client = setting()
    client.stream()
    other = Client(world)
    client.leave()
    world.now = Millis(world.now + 30_000)  # and nobody has called handle_timeout
    other.send("ai:reconnect", {"previousClientId": client.id})
    assert other.names() == ["ai:error"]


def test_a_used_id_is_over_at_its_deadline_handled_or_not() -> None:
    world, client = setting()
    client.stream()
    back, other = Client(world), Client(world)
    client.leave()
    back.send("ai:reconnect", {"previousClientId": client.id})
    world.now = Millis(world.now + 30_000)
    other.send("ai:reconnect", {"previousClientId": client.id})
    assert other.names() == ["ai:error"]
    assert not back.fenced
    other.send("ai:reconnect", {"previousClientId": back.id})
    assert other.names() == ["ai:reconnect:success", "ai:stream:start"]


def test_a_client_of_very_many_streams_is_recovered() -> None:
    world, client = setting(
        max_concurrent_streams=200, message_burst=1_000, stream_starts_per_minute=1_000
    )
    for number in range(200):
        client.stream(f"s{number}")
    client.take()
    client.leave()
    back = Client(world, {"pid": client.pid, "offset": client.offset})
    assert back.hello["recovered"]
    assert back.names() == []
