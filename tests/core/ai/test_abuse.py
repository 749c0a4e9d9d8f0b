"""How much a client may ask for, end to end in a virtual world.

Rules of this file: clients, model server and clock are the world's; nothing is looked at but what a
client receives, what the model was asked, and the public getters.
"""

import pytest
from core.ai.client import (
    Client,
    Said,
    at_rest,
    back,
    new_world,
    setting,
    text,
)
from core.clients import Polling
from tokenwire.testing.world import masked_frame
from tokenwire.types import Peer

# -- limits ----------------------------------------------------------------------------------------

WRONG_ID = "x" * 22 + "." + "y" * 22
CROWD = Peer("192.0.2.1")


def test_so_many_messages_at_once_and_so_many_a_second() -> None:
    world, client = setting()
    for _ in range(40):
        client.send("ai:heartbeat")
    assert client.names() == ["ai:heartbeat:ack"] * 40
    client.send("ai:cancel", {"streamId": "s"})
    assert client.one() == Said(
        "ai:error",
        {
            "error": "Too many messages.",
            "code": "rate_limited",
            "details": "try again in 50 ms",
            "retryable": True,
            "retryAfterMs": 50,
            "streamId": "s",
        },
    )
    world.advance(50)
    client.send("ai:heartbeat")
    assert client.names() == ["ai:heartbeat:ack"]


@pytest.mark.parametrize("name", ["ai:stream", "ai:cancel", "ai:heartbeat", "ai:reconnect", "no"])
def test_every_message_counts_and_a_refused_one_does_nothing(name: str) -> None:
    world, client = setting(messages_per_second=1, message_burst=2)
    for _ in range(2):
        client.send(name, {})
    assert len(client.take()) == 2
    client.send("ai:stream", {"prompt": "p"})
    assert client.error() == ("rate_limited", None)
    assert world.models == []


def test_who_goes_on_is_told_once_a_second_and_each_ack_still_comes() -> None:
    world, client = setting(messages_per_second=1, message_burst=20)
    for _ in range(20):
        client.send("ai:heartbeat")
    client.take()
    for _ in range(100):
        answer = client.ask("ai:heartbeat")
        assert answer == {"ok": False, "error": "Too many messages.", "code": "rate_limited"}
    assert client.error() == ("rate_limited", None)
    assert world.server.stats().errors == {"rate_limited": 100}
    world.advance(1_000)
    for _ in range(3):
        client.send("ai:heartbeat")
    assert client.names() == ["ai:heartbeat:ack", "ai:error"]


def test_a_flood_ends_the_connection_and_its_streams_wait() -> None:
    world, client = setting(messages_per_second=1, message_burst=2)
    other = Client(world)
    model = client.stream()
    model.say("a")
    client.take()
    flood = masked_frame(b'42/ai,["ai:heartbeat"]') * 20_000
    client.wire.send(flood)
    assert [event.name for event in client.take()] == ["ai:heartbeat:ack", "ai:error"]
    assert client.fenced
    assert world.server.stats().errors == {"rate_limited": 19}  # no more were looked at
    assert not model.cancelled
    again = Client(world)
    again.send("ai:reconnect", {"previousClientId": client.id})
    assert text(again.take()) == "a"
    other.send("ai:heartbeat")
    assert other.names() == ["ai:heartbeat:ack"]


def test_a_flood_in_one_body_ends_a_polling_client() -> None:
    world = new_world(messages_per_second=1, message_burst=1)
    polling = Polling(world)
    polling.post(b"40/ai,")
    polling.poll()
    body = b"\x1e".join([b'42/ai,["ai:heartbeat"]'] * 1_000)
    assert polling.post(body).body == b"ok"
    answer = polling.poll()
    assert answer is not None
    assert [packet[:10] for packet in answer.body.split(b"\x1e")] == [
        *(b'42/ai,["ai', b'42/ai,["ai', b"41/ai,", b"1")
    ]
    assert world.server.stats().errors == {"rate_limited": 10}


def test_so_many_streams_a_minute() -> None:
    world, client = setting(stream_starts_per_minute=2)
    client.stream("a")
    client.send("ai:stream", {"prompt": "tell me", "streamId": "a"})  # joins it
    client.send("ai:stream", {"prompt": "other", "streamId": "a"})
    client.send("ai:stream", {"prompt": ""})
    client.send("ai:stream", {"prompt": "p", "model": "unknown"})
    client.stream("b").done()
    client.take()
    client.send("ai:stream", {"prompt": "p", "streamId": "b"})
    assert client.one() == Said(
        "ai:error",
        {
            "error": "Too many streams were started.",
            "code": "rate_limited",
            "details": "try again in 30000 ms",
            "retryable": True,
            "retryAfterMs": 30_000,
            "streamId": "b",
        },
    )
    world.advance(29_999)
    client.send("ai:stream", {"prompt": "p"})
    assert client.error() == ("rate_limited", None)
    world.advance(1)
    client.stream("c")


def test_a_stream_that_was_refused_does_not_forget_the_one_of_its_name() -> None:
    _, client = setting(stream_starts_per_minute=1)
    client.stream("s").done()
    client.take()
    client.send("ai:stream", {"prompt": "p", "streamId": "s"})
    client.send("ai:heartbeat")
    assert client.take()[-1]["streams"] == {"s": 0}


def test_the_buckets_are_the_sessions_and_not_the_connections() -> None:
    world, client = setting(messages_per_second=1, message_burst=2)
    client.send("ai:heartbeat")
    client.send("ai:heartbeat")
    client.take()
    client.leave()
    again = back(world, client)
    again.send("ai:heartbeat")
    assert again.error() == ("rate_limited", None)


def test_joining_anew_gives_more_only_so_often() -> None:
    world, client = setting(joins_per_minute=2)
    for joined in (True, False):
        client.wire.send_text("41/ai,")
        client.wire.send_text("40/ai,")
        assert bool(client.take()) is joined
    assert client.refusal == {
        "message": "Too many requests.",
        "data": {"code": "rate_limited", "retryable": True, "retryAfterMs": 30_000},
    }
    assert Client(world).hello
    world.advance(30_000)
    client.wire.send_text("40/ai,")
    assert client.names() == ["ai:connected"]


def test_the_fifth_wrong_id_ends_the_connection_behind_its_answer() -> None:
    world, client = setting()
    answers = []
    for _ in range(5):
        assert client.wire.open
        client.send("ai:reconnect", {"previousClientId": WRONG_ID})
        answers.append(client.take())
    assert all(answer == answers[0] for answer in answers)
    ((error,), *_) = answers
    assert (error["code"], error["retryable"]) == ("reconnect_failed", False)
    assert client.fenced
    client.wire.drop()
    assert not world.wires


@pytest.mark.parametrize("malformed", ["", "x", WRONG_ID + "x", WRONG_ID[:-1], "a.b", 5, None])
def test_what_cannot_be_an_id_is_answered_alike_and_is_no_guess(malformed: object) -> None:
    _, client = setting()
    client.send("ai:reconnect", {"previousClientId": WRONG_ID})
    wrong = client.one()
    for _ in range(9):
        client.send("ai:reconnect", {"previousClientId": malformed})
        assert client.one() == wrong
    client.send("ai:reconnect")
    assert client.one() == wrong
    assert not client.fenced


def test_an_id_that_was_once_right_is_no_guess() -> None:
    world, client = setting(reconnect_timeout=1_000)
    client.leave()
    world.advance(1_000)
    late = Client(world)
    for _ in range(9):
        late.send("ai:reconnect", {"previousClientId": client.id})
        assert late.error() == ("reconnect_failed", None)
    assert not late.fenced


def test_a_right_id_is_taken_after_wrong_ones() -> None:
    world, client = setting(guesses_per_minute=3)
    client.stream().say("a")
    client.leave()
    for guesses in (1, 1, 1, 2, 2):
        guesser = Client(world, peer=CROWD)
        for _ in range(guesses):
            assert not guesser.fenced
            guesser.send("ai:reconnect", {"previousClientId": WRONG_ID})
            assert guesser.error() == ("reconnect_failed", None)
        assert guesser.fenced is (guesses == 2)
    neighbour = Client(world, peer=CROWD)
    neighbour.send("ai:reconnect", {"previousClientId": WRONG_ID})
    neighbour.send("ai:reconnect", {"previousClientId": client.id})
    said = neighbour.take()
    assert [event.name for event in said[:2]] == ["ai:error", "ai:reconnect:success"]
    assert text(said) == "a"


def test_two_do_not_take_from_each_other_for_ever() -> None:
    world, client = setting(takeovers_per_minute=2)
    model = client.stream()
    model.say("a")
    holder = client
    for _ in range(2):
        thief = Client(world)
        thief.send("ai:reconnect", {"previousClientId": holder.id})
        assert text(thief.take()) == "a"
        holder.take()
        assert holder.fenced
        holder = thief
    thief = Client(world)
    assert thief.ask("ai:reconnect", {"previousClientId": holder.id})["code"] == "rate_limited"
    error = thief.one()
    assert (error["code"], error["retryAfterMs"]) == ("rate_limited", 30_000)
    model.say("b")
    assert [event.name for event in holder.take()] == ["ai:token"]
    assert not holder.fenced
    holder.leave()  # nothing is taken from anybody: that is not counted
    thief.send("ai:reconnect", {"previousClientId": holder.id})
    assert text(thief.take()) == "ab"


def test_the_id_is_good_after_the_wait() -> None:
    world, client = setting(takeovers_per_minute=1)
    first, second = Client(world), Client(world)
    first.send("ai:reconnect", {"previousClientId": client.id})
    second.send("ai:reconnect", {"previousClientId": first.id})
    assert second.error() == ("rate_limited", None)
    world.advance(60_000)
    second.send("ai:reconnect", {"previousClientId": first.id})
    assert second.names() == ["ai:reconnect:success"]


def test_two_with_one_pid_do_not_either() -> None:
    world, client = setting(takeovers_per_minute=1)
    client.take()
    again = back(world, client)
    assert again.hello["recovered"] is True
    other = back(world, again)
    assert other.hello["recovered"] is False
    assert again.wire.open
    again.leave()
    assert back(world, again).hello["recovered"] is True


def test_who_leaves_many_sessions_behind_pushes_out_none_of_others() -> None:
    world, client = setting(max_lost_per_address=2)
    model = client.stream()
    client.leave()
    left = []
    for _ in range(4):
        passer = Client(world, peer=CROWD)
        left.append(passer.stream())
        passer.leave()
    assert [one.cancelled for one in left] == [True, True, False, False]
    assert not model.cancelled
    at_rest(world)
