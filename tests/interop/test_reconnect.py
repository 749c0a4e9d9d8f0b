"""A dropped transport in the middle of a stream, and who gets what afterwards, with every client.

Rules of this file: the drop is a reset of TCP; the stock clients come back by themselves, and only
then ask for what they had. The server is one without connection state recovery, so that each of
them is a new session (`test_recovery.py` has it the other way).
"""

from collections.abc import Callable

import pytest
from interop.clients import Client
from interop.conftest import Play
from interop.contract import ACKS
from interop.scene import Scene
from interop.test_refusals import Case, refused
from interop.test_streams import still_streams
from runtimes.loop_thread import LIMIT
from runtimes.scripted_ollama import Gate, Send, Step, done, say, token


@pytest.fixture
def scene(play: Play) -> Scene:
    return play(recovery="off")


class Dropped:
    """A client that has lost its transport after the first token of a stream, and is back."""

    def __init__(
        self, scene: Scene, gate: Gate, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        steps: list[Step] = [Send(token("one ")), gate, *say("two ", "three")]
        scene.ollama.scripts["drop"] = steps
        self.link = scene.link()
        self.client = scene.connect(f"http://localhost:{self.link.port}")
        if scene.kind == "js-default":
            self.client.take("$upgrade")
        self.stream_id = self.client.stream("drop")
        self.epoch = self.client.take("ai:stream:start")["epoch"]
        self.client.take("ai:token")
        self.old_id = self.client.hello["clientId"]
        self.lose_transport(meanwhile)
        self.new_id = self.client.hello["clientId"]
        assert self.new_id != self.old_id

    def lose_transport(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.link.cut()
        self.client.take("$disconnect")
        meanwhile()
        self.link.mend()
        self.client.wait_connected()


def failed(client: Client, previous: str) -> None:
    """An ai:reconnect with this id is refused."""
    case = Case("wrong", "ai:reconnect", ({"previousClientId": previous},), "reconnect_failed")
    refused(client, case)


def test_the_whole_text_again(scene: Scene) -> None:
    gate = Gate()
    dropped = Dropped(scene, gate)
    client = dropped.client
    answer = client.call("ai:reconnect", {"previousClientId": dropped.old_id})
    assert ACKS["ai:reconnect"](answer)
    assert answer["newClientId"] == dropped.new_id
    success = client.take("ai:reconnect:success")
    assert success == {
        "previousClientId": dropped.old_id,
        "newClientId": dropped.new_id,
        "streams": [
            {
                "streamId": dropped.stream_id,
                "state": "streaming",
                "nextSeq": 1,
                "firstSeq": 1,
                "epoch": dropped.epoch,
            }
        ],
    }
    start = client.take("ai:stream:start")
    assert start == {
        "streamId": dropped.stream_id,
        "epoch": dropped.epoch,
        "model": "codellama",
        "resumed": True,
    }
    replayed = client.take("ai:token")
    assert (replayed["data"], replayed["metadata"]["replayed"]) == ("one ", True)
    gate.open()
    client.take("ai:done")
    assert client.text(dropped.stream_id) == "one two three"
    assert len(scene.ollama.requests) == 1


def test_what_came_meanwhile_is_not_lost(scene: Scene) -> None:
    gate = Gate()

    def go_on() -> None:
        gate.open()
        assert scene.ollama.request().closed.wait(LIMIT)

    dropped = Dropped(scene, gate, meanwhile=go_on)
    dropped.client.call("ai:reconnect", {"previousClientId": dropped.old_id})
    dropped.client.take("ai:reconnect:success")
    dropped.client.take("ai:stream:start", resumed=True)
    dropped.client.take("ai:done")
    assert dropped.client.text(dropped.stream_id) == "one two three"


def test_with_a_cursor_exactly_the_rest(scene: Scene) -> None:
    gate = Gate()
    dropped = Dropped(scene, gate)
    client = dropped.client
    payload = {"previousClientId": dropped.old_id, "streams": {dropped.stream_id: 1}}
    client.call("ai:reconnect", payload)
    (stream,) = client.take("ai:reconnect:success")["streams"]
    assert (stream["nextSeq"], stream["epoch"]) == (2, dropped.epoch)
    gate.open()
    client.take("ai:done")
    tokens = [i.payload for i in client.events(dropped.stream_id) if i.name == "ai:token"]
    assert [item["seq"] - item["metadata"].get("tokens", 1) for item in tokens][:2] == [0, 1]
    assert client.text(dropped.stream_id) == "one two three"
    starts = [i for i in client.events(dropped.stream_id) if i.name == "ai:stream:start"]
    assert len(starts) == 1


def test_with_a_cursor_and_its_epoch(scene: Scene) -> None:
    gate = Gate()
    dropped = Dropped(scene, gate)
    cursor = {"seq": 1, "epoch": dropped.epoch}
    dropped.client.call(
        "ai:reconnect",
        {"previousClientId": dropped.old_id, "streams": {dropped.stream_id: cursor}},
    )
    (stream,) = dropped.client.take("ai:reconnect:success")["streams"]
    assert stream["nextSeq"] == 2
    gate.open()
    dropped.client.take("ai:done")
    assert dropped.client.text(dropped.stream_id) == "one two three"


def test_a_cursor_of_another_epoch_gets_the_whole(scene: Scene) -> None:
    gate = Gate()
    dropped = Dropped(scene, gate)
    cursor = {"seq": 1, "epoch": "another"}
    dropped.client.call(
        "ai:reconnect",
        {"previousClientId": dropped.old_id, "streams": {dropped.stream_id: cursor}},
    )
    dropped.client.take("ai:stream:start", resumed=True)
    gate.open()
    dropped.client.take("ai:done")
    assert dropped.client.text(dropped.stream_id) == "one two three"


def test_a_guessed_id_of_another_client(scene: Scene) -> None:
    gate = Gate()
    scene.ollama.scripts["private"] = [Send(token("pri")), gate, *say("vate")]
    owner, thief = scene.connect(), scene.connect()
    stream_id = owner.stream("private")
    owner.take("ai:token")
    public, _, secret = owner.hello["clientId"].partition(".")
    other = "A" if secret[0] != "A" else "B"
    for guess in (public, f"{public}.", f"{public}.{other}{secret[1:]}", f".{secret}"):
        failed(thief, guess)
    gate.open()
    owner.take("ai:done", streamId=stream_id)
    assert owner.text(stream_id) == "private"
    assert thief.events(stream_id) == []
    still_streams(thief, scene)


def test_an_old_id_is_good_once(scene: Scene) -> None:
    gate = Gate()
    dropped = Dropped(scene, gate)
    dropped.client.call("ai:reconnect", {"previousClientId": dropped.old_id})
    dropped.client.take("ai:reconnect:success")
    dropped.client.emit("ai:heartbeat", {})  # it knows its new one
    dropped.client.take("ai:heartbeat:ack")
    failed(scene.connect(), dropped.old_id)
    failed(dropped.client, dropped.old_id)
    gate.open()
    dropped.client.take("ai:done")
    assert dropped.client.text(dropped.stream_id) == "one two three"


def test_a_retry_after_a_lost_answer_is_no_second_use(scene: Scene) -> None:
    gate = Gate()
    dropped = Dropped(scene, gate)
    dropped.client.call("ai:reconnect", {"previousClientId": dropped.old_id})
    dropped.lose_transport()
    answer = dropped.client.call("ai:reconnect", {"previousClientId": dropped.old_id})
    assert answer == {"ok": True, "newClientId": dropped.client.hello["clientId"]}
    gate.open()
    dropped.client.take("ai:done")
    assert dropped.client.text(dropped.stream_id) == "one two three"


def test_a_connection_that_still_lives_is_fenced(scene: Scene) -> None:
    gate = Gate()
    scene.ollama.scripts["moved"] = [Send(token("one ")), gate, *say("two")]
    first, second = scene.connect(), scene.connect()
    stream_id = first.stream("moved")
    first.take("ai:token")
    answer = second.call("ai:reconnect", {"previousClientId": first.hello["clientId"]})
    assert answer["ok"] is True
    reason = first.take("$disconnect")
    assert reason in ("io server disconnect", "server disconnect")
    gate.open()
    second.take("ai:done", streamId=stream_id)
    assert second.text(stream_id) == "one two"
    assert [item.payload["data"] for item in first.events(stream_id)[1:]] == ["one "]


def test_asking_again_on_the_same_connection(scene: Scene) -> None:
    scene.ollama.default = [Send(token("one ")), *say("two ", "three")]
    client = scene.connect()
    stream_id = client.stream("again")
    client.take("ai:done")
    own = client.hello["clientId"]
    for _ in range(2):  # nothing is burnt
        payload = {"previousClientId": own, "streams": {stream_id: 1}}
        assert client.call("ai:reconnect", payload) == {"ok": True, "newClientId": own}
        client.take("ai:reconnect:success")
        client.take("ai:done")
    still_streams(client, scene)


def test_after_the_grace_period_it_is_too_late(play: Play) -> None:
    scene = play(reconnect_timeout=150, recovery="off")
    scene.ollama.scripts["late"] = [Send(token("late")), Gate()]
    lost = scene.connect()
    lost.stream("late")
    lost.take("ai:token")
    lost.disconnect()
    scene.ollama.request().wait_closed()
    client = scene.connect()
    failed(client, lost.hello["clientId"])
    still_streams(client, scene)


def test_an_ended_stream_is_kept_for_the_grace_period(scene: Scene) -> None:
    scene.ollama.scripts["ended"] = [Send(token("all ") + token("of it") + done())]
    lost = scene.connect()
    stream_id = lost.stream("ended")
    lost.take("ai:done")
    lost.disconnect()
    client = scene.connect()
    client.call("ai:reconnect", {"previousClientId": lost.hello["clientId"]})
    (stream,) = client.take("ai:reconnect:success")["streams"]
    assert stream["state"] == "done"
    client.take("ai:done", streamId=stream_id)
    assert client.text(stream_id) == "all of it"
