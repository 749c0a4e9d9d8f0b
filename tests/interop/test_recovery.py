"""Connection state recovery with the stock clients: no code of theirs, and nothing is lost.

Rules of this file: the drop is a reset of TCP at a moment that the test knows; the program on the
client's side only listens.
"""

import pytest
from interop.clients import Client
from interop.conftest import Play
from interop.link import Link
from interop.scene import Scene
from interop.test_streams import still_streams
from runtimes.scripted_ollama import Gate, Send, Step, say, token

DROPS = 3


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """The JavaScript clients: python-socketio's has no recovery."""
    name: str = request.param
    return name


javascript = pytest.mark.parametrize(
    "kind", ["js-default", "js-websocket", "js-polling"], indirect=True
)


def texts(client: Client, stream_id: str) -> str:
    """Return all that the client was given of a stream, without forgetting at a start."""
    return "".join(
        item.payload["data"] for item in client.events(stream_id) if item.name == "ai:token"
    )


def drop(scene: Scene, client: Client, link: Link) -> None:
    """Cut the link. (A client whose upgrade is cut would notice by the next ping timeout only.)"""
    if scene.kind == "js-default":
        client.take("$upgrade")
    link.cut()
    client.take("$disconnect")


def recovered(client: Client) -> bool:
    """Return `socket.recovered` of the last time that the client was connected."""
    *_, last = (item for item in client.log if item.name == "$connect")
    value: bool = last.args[2]
    return value


@javascript
def test_a_stream_goes_on_over_three_drops(scene: Scene) -> None:
    gates = [Gate() for _ in range(DROPS)]
    steps: list[Step] = [Send(token("begin "))]
    for number, gate in enumerate(gates):
        steps += [gate, Send(token(f"{number} ") + token("and "))]
    scene.ollama.scripts["drops"] = [*steps, *say("end")]
    link = scene.link()
    client = scene.connect(f"http://localhost:{link.port}")
    own = client.hello["clientId"]
    stream_id = client.stream("drops")
    client.take("ai:token")
    for gate in gates:
        drop(scene, client, link)
        gate.open()
        link.mend()
        client.wait_connected()
        assert client.hello["recovered"] is True
        assert client.hello["clientId"] == own
        assert recovered(client)
    client.take("ai:done", streamId=stream_id)
    assert texts(client, stream_id) == "begin 0 and 1 and 2 and end"
    names = [item.name for item in client.events(stream_id)]
    assert names.count("ai:stream:start") == 1
    still_streams(client, scene)


@javascript
def test_a_recovered_client_that_also_asks_gets_success_and_nothing_twice(scene: Scene) -> None:
    gate = Gate()
    scene.ollama.scripts["both"] = [Send(token("one ")), gate, *say("two ", "three")]
    link = scene.link()
    client = scene.connect(f"http://localhost:{link.port}")
    stream_id = client.stream("both")
    client.take("ai:token")
    own = client.hello["clientId"]
    drop(scene, client, link)
    link.mend()
    client.wait_connected()
    answer = client.call("ai:reconnect", {"previousClientId": own})
    assert answer == {"ok": True, "newClientId": own}
    client.take("ai:reconnect:success")
    gate.open()
    client.take("ai:done", streamId=stream_id)
    assert texts(client, stream_id) == "one two three"


@javascript
@pytest.mark.parametrize("how", ["the server", "the client"])
def test_it_can_be_switched_off(play: Play, how: str) -> None:
    scene = play(recovery="off") if how == "the server" else play()
    link = scene.link()
    options: dict[str, object] = {} if how == "the server" else {"auth": {"recovery": False}}
    client = scene.connect(f"http://localhost:{link.port}", options)
    scene.ollama.default = [Send(token("one ")), Gate()]
    client.stream("off")
    client.take("ai:token")
    assert all(len(item.args) == 1 for item in client.log if item.name == "ai:token")
    own = client.hello["clientId"]
    drop(scene, client, link)
    link.mend()
    client.wait_connected()
    assert client.hello["recovered"] is False
    assert client.hello["clientId"] != own
