"""A client comes back by itself, end to end in a virtual world.

Rules of this file: clients, model server and clock are the world's; nothing is looked at but what a
client receives, what the model was asked, and the public getters. `text` reads as the seed's client
does: it empties at `ai:stream:start` and appends each token.
"""

import msgspec
import pytest
from core.ai.client import (
    ENDED,
    Client,
    at_rest,
    back,
    cancelled,
    line,
    new_world,
    setting,
    text,
)
from tokenwire.types import Millis

# -- connection state recovery ---------------------------------------------------------------------


def test_a_client_comes_back_by_itself() -> None:
    world, client = setting()
    model = client.stream()
    model.say("a")
    client.take()
    client.leave()
    model.say("b")
    again = back(world, client)
    assert (again.sid, again.pid, again.id) == (client.sid, client.pid, client.id)
    assert again.hello["recovered"] is True
    assert [event["data"] for event in again.take()] == ["b"]
    assert world.server.stats().resumes == 1
    model.done()
    assert again.names() == ["ai:stream:complete", "ai:done"]


def test_it_replaces_a_connection_that_seems_alive() -> None:
    world, client = setting()
    client.stream().say("a")
    client.take()
    again = back(world, client)
    assert again.hello["recovered"] is True
    assert not client.wire.open
    assert again.take() == []


@pytest.mark.parametrize(
    ("offset", "auth"),
    [
        ("x.0.0", {"pid": "unknown"}),
        ("x.0.0", {"pid": 5}),
        ("{own}.9.0", {}),
        ("{own}.1.9", {}),
        ("{own}.1.1.1.9.1", {}),
        ("{own}.1.1.1.0.9", {}),
        ("{own}.1", {}),
    ],
)
def test_who_cannot_come_back_is_new(offset: str, auth: dict[str, object]) -> None:
    world, client = setting()
    client.stream()
    client.take()
    assert client.offset is not None
    own = client.offset.partition(".")[0]
    client.leave()
    again = back(world, client, offset.format(own=own), **auth)
    assert again.hello["recovered"] is False
    assert again.sid != client.sid


@pytest.mark.parametrize("how", ["time", "late timer", "transfer"])
def test_a_pid_that_is_over(how: str) -> None:
    world, client = setting(reconnect_timeout=1_000)
    client.take()
    client.leave()
    match how:
        case "time":
            world.advance(1_000)
        case "late timer":
            world.now = Millis(world.now + 1_000)
        case _:
            Client(world).send("ai:reconnect", {"previousClientId": client.id})
    again = back(world, client)
    assert again.sid != client.sid


def test_who_lacks_thoughts_alone_gets_no_text_again() -> None:
    world, client = setting(lane_bytes=1_000)
    model = client.stream(think=True)
    model.say("a", "b", "c")
    said = client.take()
    offset = client.offset
    for _ in range(20):
        model.send(line(message={"content": "", "thinking": "hm" * 50}, done=False))
    model.say("d")
    client.leave()
    back = Client(world, {"pid": client.pid, "offset": offset})
    again = back.take()
    assert "ai:stream:start" not in [event.name for event in again]
    shown = [event for event in said + again if "seq" in event.fields]
    assert "".join(str(event["data"]) for event in shown) == "abcd"
    at_rest(world)


def test_an_offset_from_before_a_replay_that_was_cancelled_is_good() -> None:
    world, client = setting()
    model, other = client.stream("s"), client.stream("other")
    model.say(*"aaaa")
    other.say("x")
    client.take()
    offset = client.offset
    client.block()
    client.send("ai:stream", {"prompt": "tell me", "streamId": "s"})
    client.send("ai:cancel", {"streamId": "s"})
    client.leave()
    other.say("y")
    back = Client(world, {"pid": client.pid, "offset": offset})
    assert back.hello["recovered"] is True
    said = back.take()
    assert text(said, "other") == "y"
    assert said[-1].name == "ai:stream:cancelled" or "ai:stream:cancelled" in [
        event.name for event in said
    ]
    at_rest(world)


def test_an_ended_stream_is_kept_while_its_clients_death_is_not_known() -> None:
    """What other streams send goes into a dead link, and counts as a sign of life for a while."""
    world, client = setting(heartbeat_interval=25_000, heartbeat_timeout=20_000)
    ended, running = client.stream("a"), client.stream("b")
    running.say("x")
    client.take()
    offset = client.offset
    ended.say("all")
    ended.done()
    for _ in range(60):
        running.say("y")
        world.advance(2_000)
    back = Client(world, {"pid": client.pid, "offset": offset})
    assert back.hello["recovered"] is True
    said = back.take()
    assert text(said, "a") == "all"
    assert text(said, "b") == "y" * 60
    at_rest(world)


def test_what_was_not_read_of_an_earlier_stream_stays_before_the_start() -> None:
    world, client = setting()
    model = client.stream()
    client.take()
    client.block()
    model.say("old")
    model.done()
    newer = client.stream("s", "another")
    newer.say("new")
    client.send("ai:stream", {"prompt": "another", "streamId": "s"})
    client.wire.unblock()
    assert client.names() == ["ai:token", *ENDED, "ai:stream:start", "ai:token"]
    at_rest(world)


def test_stop_and_again_under_the_same_name_can_be_recovered() -> None:
    world, client = setting()
    model, other = client.stream(), client.stream("other")
    model.say("old")
    other.say("x")
    said = client.take()
    offset = client.offset
    client.send("ai:cancel", {"streamId": "s"})
    client.stream("s", "another").say("new")
    other.say("y")
    client.leave()  # nothing of that arrived
    back = Client(world, {"pid": client.pid, "offset": offset})
    assert back.hello["recovered"] is True
    said += back.take()
    assert text(said) == "new"
    assert text(said, "other") == "xy"
    at_rest(world)


def test_a_gap_is_told_with_the_offset_of_before_it() -> None:
    world, client = setting(log_bytes=4_096, unconfirmed_bytes=256)
    model = client.stream()
    model.say(*["z" * 100] * 100)
    model.done()
    client.take()
    client.block()
    client.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 0}})
    client.wire.unblock(330)
    (gap,) = client.take()
    assert gap["code"] == "resume_gap"
    client.leave()
    back = Client(world, {"pid": client.pid, "offset": client.offset})
    said = back.take()
    assert [event.name for event in said][-2:] == ENDED
    assert text(said).endswith("z" * 100)
    at_rest(world)


def test_what_was_handed_over_lately_may_not_have_arrived_and_is_kept() -> None:
    world, client = setting(log_bytes=4_000)
    model = client.stream()
    model.say(*["x" * 50] * 90)
    client.take()
    offset = client.offset
    model.say(*["y" * 50] * 15)  # within the last quarter of a log
    client.leave()
    back = Client(world, {"pid": client.pid, "offset": offset})
    assert text(back.take()) == "y" * 750
    at_rest(world)


def test_a_recovered_client_stays() -> None:
    world, client = setting(reconnect_timeout=10_000, max_sessions=5, memory_bytes=100_000)
    model = client.stream()
    client.leave()
    back = Client(world, {"pid": client.pid, "offset": client.offset})
    world.advance(20_000)
    model.say(*["x" * 10_000] * 9)  # would evict who is away
    assert not cancelled(model)
    assert len(text(back.take())) == 90_000
    at_rest(world)


def test_a_cancelled_stream_is_told_after_the_end_of_the_earlier_one_of_its_name() -> None:
    world, client = setting()
    model = client.stream()
    client.take()
    client.block()
    model.say("old")
    model.done()
    client.stream("s", "another")
    client.send("ai:cancel", {"streamId": "s"})
    client.wire.unblock()
    names = client.names()
    assert names == ["ai:token", *ENDED, "ai:stream:start", "ai:stream:cancelled"]
    at_rest(world)


def test_events_that_name_no_stream_come_again_too_and_a_hole_is_said() -> None:
    world, client = setting(log_bytes=100)
    model = client.stream()
    client.take()
    before = client.offset
    client.send("ai:heartbeat")
    model.say(*["0123456789"] * 20)
    client.take()
    client.leave()
    names = [event.name for event in back(world, client, before).take()]
    assert names[:2] == ["ai:heartbeat:ack", "ai:error"]
    assert set(names[2:]) == {"ai:token"}


@pytest.mark.parametrize(
    ("recovery", "agent", "auth", "offered"),
    [
        ("auto", "", {}, True),
        ("auto", "Mozilla/5.0", {}, True),
        ("auto", "Python/3.11 aiohttp/3.9", {}, False),
        ("auto", "python-requests/2.3", {}, False),
        ("on", "python-requests/2.3", {}, True),
        ("on", "", {"recovery": False}, False),
        ("auto", "", {"recovery": True}, True),
        ("off", "", {}, False),
    ],
)
def test_to_whom_it_is_offered(
    recovery: str, agent: str, auth: dict[str, object], offered: bool
) -> None:
    world = new_world(recovery=recovery)
    wire = world.connect()
    wire.upgrade("/socket.io/?EIO=4&transport=websocket", {"User-Agent": agent})
    wire.send_text("40/ai," + msgspec.json.encode(auth).decode())
    _, reply, hello = wire.texts()
    assert ('"pid"' in reply) is offered
    assert (len(msgspec.json.decode(hello[6:])) == 3) is offered


def test_a_client_that_cannot_come_back_by_itself_is_not_told_what_it_misses() -> None:
    world = new_world(recovery="off")
    client = Client(world)
    model = client.stream(think=True)
    client.leave()
    model.say("a")
    again = back(world, client)
    assert again.hello["recovered"] is False
