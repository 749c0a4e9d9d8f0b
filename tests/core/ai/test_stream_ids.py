"""A streamId that was used before: the stream that runs, that has ended, that was not read.

Rules of this file: those of `test_streams.py`.
"""

import msgspec
import pytest
from core.ai.client import (
    ENDED,
    Client,
    Fields,
    at_rest,
    line,
    metadata,
    setting,
    text,
)


def test_the_same_request_again_joins_the_stream_that_runs() -> None:
    world, client = setting()
    model = client.stream("s", "p", temperature=0.5)
    model.say("a", "b")
    client.take()
    answer = client.ask("ai:stream", {"prompt": "p", "streamId": "s", "temperature": 0.5})
    assert answer["ok"] is True
    model.say("c")
    model.done()
    said = client.take()
    assert [event.name for event in said] == ["ai:stream:start", "ai:token", "ai:token", *ENDED]
    assert (said[0]["resumed"], said[0]["epoch"]) == (True, answer["epoch"])
    assert metadata(said[1])["replayed"] is True
    assert text(said) == "abc"
    assert metadata(said[-2])["resumes"] == 1
    assert len(world.models) == 1


@pytest.mark.parametrize("other", [{"prompt": "q"}, {"prompt": "p", "temperature": 1}])
def test_another_request_under_a_name_in_use_is_refused(other: Fields) -> None:
    world, client = setting()
    model = client.stream("s", "p")
    client.take()
    client.send("ai:stream", {"streamId": "s", **other})
    refused = client.one()
    assert (refused["code"], refused["field"]) == ("duplicate_stream", "streamId")
    assert refused["streamId"] == "s"
    model.done()
    assert client.names() == ENDED
    assert len(world.models) == 1


@pytest.mark.parametrize("prompt", ["p", "q"])
@pytest.mark.parametrize("how", ["done", "cancelled"])
def test_the_name_of_a_stream_that_has_ended_is_free(prompt: str, how: str) -> None:
    world, client = setting()
    model = client.stream("s", "p")
    if how == "done":
        model.done()
    else:
        client.send("ai:cancel", {"streamId": "s"})
    first = client.take()[0]["epoch"]
    client.stream("s", prompt).done()
    said = client.take()
    assert [event.name for event in said] == ["ai:stream:start", *ENDED]
    assert said[0]["epoch"] != first
    assert "resumed" not in said[0].fields
    at_rest(world)


@pytest.mark.parametrize("prompt", ["p", "q"])
def test_a_stream_that_ended_unread_is_told_of_before_the_next_of_its_name(prompt: str) -> None:
    world, client = setting()
    model = client.stream("s", "p")
    client.block()
    model.say("a")
    model.done()
    client.send("ai:stream", {"prompt": prompt, "streamId": "s"})
    assert len(world.models) == 2
    world.models[1].say("b")
    client.wire.unblock()
    said = client.take()
    names = [event.name for event in said]
    assert names == ["ai:stream:start", "ai:token", *ENDED, "ai:stream:start", "ai:token"]
    assert [event["data"] for event in said if event.name == "ai:token"] == ["a", "b"]


def test_a_cancel_and_the_same_name_again_in_one_read() -> None:
    world, client = setting()
    client.stream("s", "p")
    client.block()
    client.send("ai:cancel", {"streamId": "s"})
    client.send("ai:stream", {"prompt": "p", "streamId": "s"})
    client.wire.unblock()
    assert client.names() == ["ai:stream:start", "ai:stream:cancelled", "ai:stream:start"]
    assert [model.cancelled for model in world.models] == [True, False]


def test_who_does_not_read_ended_streams_gets_no_more_of_them() -> None:
    world, client = setting(ended_streams_kept=3)
    client.block()
    for number in range(5):
        client.send("ai:stream", {"prompt": "p", "streamId": str(number)})
        if len(world.models) > number:
            world.models[number].fail(reached=False)
    assert len(world.models) == 3
    client.wire.unblock()
    codes = [event["code"] for event in client.take() if event.name == "ai:error"]
    assert codes == ["too_many_streams"] * 2
    client.stream("again")


def test_who_does_not_read_much_text_gets_no_more_of_it() -> None:
    world, client = setting(outbox_bytes=100)
    model = client.stream("s", "p")
    client.block()
    model.say("x" * 200)
    model.done()
    client.send("ai:stream", {"prompt": "p", "streamId": "s"})
    assert len(world.models) == 1


def test_the_longest_absent_session_makes_room() -> None:
    world, client = setting(max_sessions=2)
    model = client.stream("s")
    client.wire.drop()
    for _ in range(2):
        Client(world).wire.drop()
    assert model.cancelled


def test_a_long_piece_of_text_counts_as_several_tokens() -> None:
    _, client = setting(token_chars=4)
    client.stream("s").say("aaaabbbbcc")
    said = client.take()
    assert text(said) == "aaaabbbbcc"
    assert said[-1]["seq"] == 3


def test_long_thinking_is_several_events() -> None:
    _, client = setting(token_chars=4)
    model = client.stream(think=True)
    client.take()
    model.send(line(message={"content": "", "thinking": "aaaabbbbcc"}, done=False))
    assert [event["data"] for event in client.take()] == ["aaaa", "bbbb", "cc"]


def test_a_refused_request_does_not_forget_the_stream_of_its_name() -> None:
    _, client = setting()
    client.stream("s").done()
    client.take()
    client.send("ai:stream", {"prompt": "p", "streamId": "s", "agent": "Nobody"})
    client.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 0}})
    assert client.names() == ["ai:error", "ai:reconnect:success", *ENDED]


def kept_streams(client: Client) -> list[str]:
    client.take()
    client.send("ai:heartbeat")
    return list(msgspec.convert(client.one()["streams"], dict[str, int]))


def test_only_so_many_ended_streams_of_a_client_are_kept() -> None:
    world, client = setting(ended_streams_kept=2, heartbeat_interval=1_000)
    for number in range(5):
        client.stream(str(number)).done()
    assert kept_streams(client) == ["0", "1", "2", "3", "4"]  # it may not have them
    world.advance(1_000)
    client.pong()
    client.stream("5").done()
    assert kept_streams(client) == ["3", "4", "5"]
    client.stream("running")
    assert kept_streams(client) == ["4", "5", "running"]
    at_rest(world)


def test_of_what_may_not_have_come_not_more_is_kept_than_a_limit() -> None:
    world, client = setting(ended_streams_kept=2, ended_streams_in_doubt=3)
    offset = client.offset
    client.stream("first").done()
    for number in range(4):
        client.stream(str(number)).done()
    assert kept_streams(client) == ["0", "1", "2", "3"]
    client.leave()
    back = Client(world, {"pid": client.pid, "offset": offset})
    assert back.hello["recovered"] is False  # never a hole without a word
    at_rest(world)
