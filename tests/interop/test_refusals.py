"""Bad input, with every stock client: a clear error, and nobody is harmed.

Rules of this file: each case is refused by event and by ack alike, names its field, and is followed
by a good stream on the same connection.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from interop.clients import Client
from interop.conftest import Play
from interop.contract import REFUSAL_ACK
from interop.scene import Scene
from interop.test_streams import still_streams
from runtimes.raw_client import CLOSE, Closed, RawClient, WebSocket, http
from runtimes.scripted_ollama import Gate, Send, done, say, token


class Case(NamedTuple):
    """One bad input."""

    name: str
    event: str
    args: tuple[object, ...]
    code: str = "invalid_request"
    field: str | None = None


def nested(depth: int) -> dict[str, object]:
    """An object of this depth."""
    value: dict[str, object] = {}
    for _ in range(depth - 1):
        value = {"k": value}
    return value


def bad(name: str, field: str, code: str = "invalid_request", **fields: object) -> Case:
    """An `ai:stream` that is good but for `fields`."""
    payload = {"prompt": "p", "useOrchestrator": False, **fields}
    return Case(name, "ai:stream", (payload,), code, field)


STREAM_CASES = [
    Case("no payload", "ai:stream", ()),
    Case("a text as payload", "ai:stream", ("hi",)),
    Case("null as payload", "ai:stream", (None,)),
    Case("a number as payload", "ai:stream", (5,)),
    Case("a list as payload", "ai:stream", ([{"prompt": "p"}],)),
    Case("no prompt", "ai:stream", ({},), field="prompt"),
    bad("prompt null", "prompt", prompt=None),
    bad("prompt empty", "prompt", prompt=""),
    bad("prompt a number", "prompt", prompt=7),
    bad("prompt an object", "prompt", prompt={"text": "p"}),
    bad("prompt true", "prompt", prompt=True),
    bad("prompt too long", "prompt", "prompt_too_long", prompt="p" * 32_769),
    bad("temperature a text", "temperature", temperature="0.7"),
    bad("temperature true", "temperature", temperature=True),
    bad("temperature a list", "temperature", temperature=[1]),
    bad("temperature too low", "temperature", temperature=-0.1),
    bad("temperature too high", "temperature", temperature=2.01),
    bad("temperature huge", "temperature", temperature=10**30),
    bad("maxTokens 0", "maxTokens", maxTokens=0),
    bad("maxTokens negative", "maxTokens", maxTokens=-1),
    bad("maxTokens too big", "maxTokens", maxTokens=8_193),
    bad("maxTokens huge", "maxTokens", maxTokens=10**30),
    bad("maxTokens a fraction", "maxTokens", maxTokens=1.5),
    bad("maxTokens true", "maxTokens", maxTokens=True),
    bad("maxTokens a text", "maxTokens", maxTokens="12"),
    bad("model a number", "model", model=5),
    bad("model empty", "model", model=""),
    bad("model with a blank", "model", model="code llama"),
    bad("model a path", "model", model="../../etc/passwd"),
    bad("model not offered", "model", "model_not_found", model="gpt-9"),
    bad("useOrchestrator a text", "useOrchestrator", useOrchestrator="false"),
    bad("think a number", "think", think=1),
    bad("streamId a number", "streamId", streamId=5),
    bad("streamId empty", "streamId", streamId=""),
    bad("streamId with a blank", "streamId", streamId="a b"),
    bad("streamId with an umlaut", "streamId", streamId="ü"),
    bad("streamId with a newline", "streamId", streamId="a\n"),
    bad("streamId too long", "streamId", streamId="a" * 129),
    bad("agentContext a text", "agentContext", agentContext="App.js"),
    bad("agentContext a list", "agentContext", agentContext=[1]),
    bad("agentContext too deep", "agentContext", "context_too_large", agentContext=nested(9)),
    bad(
        "agentContext with too many keys",
        "agentContext",
        "context_too_large",
        agentContext={f"k{number}": 1 for number in range(65)},
    ),
    bad(
        "agentContext too large",
        "agentContext",
        "context_too_large",
        agentContext={"file": "x" * 65_536},
    ),
    bad("agent unknown", "agent", agent="Nobody"),
    bad("agent a number", "agent", agent=1),
]

OTHER_CASES = [
    Case("unknown event", "ai:unknown", ({},), "unknown_event"),
    Case("unknown event without payload", "hello", (), "unknown_event"),
    Case("an event of the server's", "ai:token", ({"streamId": "s"},), "unknown_event"),
    Case("cancel without payload", "ai:cancel", ()),
    Case("cancel with a text", "ai:cancel", ("s",)),
    Case("cancel without streamId", "ai:cancel", ({},), field="streamId"),
    Case("cancel with a number", "ai:cancel", ({"streamId": 1},), field="streamId"),
    Case("cancel of nothing", "ai:cancel", ({"streamId": "x"},), "stream_not_found", "streamId"),
    Case("reconnect without payload", "ai:reconnect", (), "reconnect_failed"),
    Case("reconnect with a text", "ai:reconnect", ("x",), "reconnect_failed"),
    Case("reconnect without id", "ai:reconnect", ({},), "reconnect_failed"),
    Case("reconnect with null", "ai:reconnect", ({"previousClientId": None},), "reconnect_failed"),
    Case("reconnect with a number", "ai:reconnect", ({"previousClientId": 1},), "reconnect_failed"),
    Case(
        "reconnect with the seed's text",
        "ai:reconnect",
        ({"previousClientId": "old_client_id"},),
        "reconnect_failed",
    ),
    Case(
        "reconnect with an umlaut",
        "ai:reconnect",
        ({"previousClientId": "ü.ü"},),
        "reconnect_failed",
    ),
    Case(
        "reconnect with a well-formed id",
        "ai:reconnect",
        ({"previousClientId": f"{'A' * 22}.{'A' * 22}"},),
        "reconnect_failed",
    ),
]

CASES = {case.name: case for case in STREAM_CASES + OTHER_CASES}


def refused(client: Client, case: Case) -> dict[str, object]:
    """Send bad input, check both answers, and return the event's payload."""
    answer = client.call(case.event, *case.args)
    assert REFUSAL_ACK(answer)
    error: dict[str, object] = client.take("ai:error")
    assert (error["code"], error.get("field")) == (case.code, case.field)
    assert (answer["code"], answer["error"]) == (case.code, error["error"])
    return error


@pytest.mark.parametrize("name", CASES)
def test_bad_input_has_a_clear_error(scene: Scene, name: str) -> None:
    case = CASES[name]
    client = scene.connect()
    error = refused(client, case)
    if case.field is not None and case.code == "invalid_request":
        assert case.field in str(error["error"])
    assert scene.ollama.requests == []
    still_streams(client, scene)


RANGES = {
    "temperature too high": ("0", "2"),
    "maxTokens too big": ("1", "8192"),
    "prompt too long": ("32768",),
    "agentContext too deep": ("8",),
}


@pytest.mark.parametrize("name", RANGES)
def test_the_error_names_the_range(scene: Scene, name: str) -> None:
    error = refused(scene.connect(), CASES[name])
    said = str(error["error"]).replace(",", "")
    assert all(limit in said for limit in RANGES[name]), said


@pytest.mark.parametrize("field", ["prompt", "model", "streamId", "agent"])
def test_a_lone_surrogate_is_refused(scene: Scene, field: str) -> None:
    client = scene.connect()
    payload = {"prompt": "p", "useOrchestrator": False, field: "a\ud800"}
    refused(client, Case("a lone surrogate", "ai:stream", (payload,), field=field))
    still_streams(client, scene)


def test_bad_input_leaves_a_running_stream_alone(play: Play) -> None:
    scene = play(message_burst=2 * len(CASES))  # all at once
    gate = Gate()
    scene.ollama.scripts["long"] = [Send(token("before ")), gate, *say("after")]
    client = scene.connect()
    stream_id = client.stream("long")
    client.take("ai:token")
    for case in CASES.values():
        refused(client, case)
    gate.open()
    client.take("ai:done", streamId=stream_id)
    assert client.text(stream_id) == "before after"


def test_bad_input_without_an_ack_has_the_event(scene: Scene) -> None:
    client = scene.connect()
    client.emit("ai:stream", {"prompt": ""})
    assert client.take("ai:error")["field"] == "prompt"
    still_streams(client, scene)


def test_the_error_names_the_stream_where_it_is_known(scene: Scene) -> None:
    client = scene.connect()
    client.emit("ai:stream", {"prompt": "", "streamId": "s"})
    assert client.take("ai:error")["streamId"] == "s"
    client.emit("ai:cancel", {"streamId": "s"})
    assert client.take("ai:error")["streamId"] == "s"


def test_a_stream_id_in_use_for_something_else(scene: Scene) -> None:
    gate = Gate()
    scene.ollama.scripts["first"] = [Send(token("first ")), gate, *say("stays")]
    client = scene.connect()
    client.stream("first", streamId="s")
    client.take("ai:token")
    error = refused(client, bad("in use", "streamId", "duplicate_stream", streamId="s"))
    assert error["streamId"] == "s"
    gate.open()
    client.take("ai:done", streamId="s")
    assert client.text("s") == "first stays"
    still_streams(client, scene)


def test_a_stream_id_can_be_used_again_after_its_end(scene: Scene) -> None:
    client = scene.connect()
    for text in ("one", "two"):
        scene.ollama.scripts[text] = say(text)
        client.stream(text, streamId="s")
        client.take("ai:done", streamId="s")
        assert client.text("s") == text


def test_cancel_of_an_ended_stream(scene: Scene) -> None:
    client = scene.connect()
    client.stream("short", streamId="s")
    client.take("ai:done", streamId="s")
    ended = Case("ended", "ai:cancel", ({"streamId": "s"},), "stream_not_found", "streamId")
    assert refused(client, ended)["streamId"] == "s"
    still_streams(client, scene)


def test_a_model_that_is_not_allowed(play: Play) -> None:
    scene = play(allowed_models=("codellama",))
    client = scene.connect()
    refused(client, bad("not allowed", "model", "model_not_allowed", model="llama3.2:1b"))
    still_streams(client, scene)


# -- broken packets ------------------------------------------------------------------------------

BROKEN_PACKETS = {
    "no JSON": "2/ai,[",
    "no array": '2/ai,{"prompt":"p"}',
    "an empty array": "2/ai,[]",
    "a reserved event": '2/ai,["connect"]',
    "an unknown type": "9",
    "a namespace that was not joined": '2/nowhere,["ai:stream",{}]',
    "a second CONNECT": "0/ai,",
    "a CONNECT_ERROR": '4/ai,{"message":"x"}',
    "a binary event without attachments": '52-/ai,["x"]',
}


@pytest.mark.parametrize("name", BROKEN_PACKETS)
def test_a_broken_packet_closes_its_own_connection_only(scene: Scene, name: str) -> None:
    gate = Gate()
    scene.ollama.scripts["long"] = [Send(token("before ")), gate, *say("after")]
    other, broken = scene.connect(), scene.connect()
    stream_id = other.stream("long")
    other.take("ai:token")
    packet = BROKEN_PACKETS[name]
    broken.write(packet)
    if packet.startswith("5"):
        broken.write('2/ai,["x"]')  # where its attachment should be
    broken.take("$disconnect")
    broken.wait_connected()  # stock clients come back by themselves
    still_streams(broken, scene)
    gate.open()
    other.take("ai:done", streamId=stream_id)
    assert other.text(stream_id) == "before after"
    assert not [item for item in other.log if item.name == "$disconnect"]


def broken_text(scene: Scene) -> None:
    with RawClient(scene.server.host, scene.server.port) as raw:
        raw.send_text("4nonsense")
        with pytest.raises(Closed):
            raw.read_event()


def broken_binary(scene: Scene) -> None:
    with RawClient(scene.server.host, scene.server.port) as raw:
        raw.send_frame(b"\x00\x01", 2)
        with pytest.raises(Closed):
            raw.read_event()


def broken_utf8(scene: Scene) -> None:
    with RawClient(scene.server.host, scene.server.port) as raw:
        raw.send_frame(b"42/ai,\xff\xfe")
        opcode, payload = raw.read_frame()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, 1007)


def broken_frame(scene: Scene) -> None:
    with RawClient(scene.server.host, scene.server.port) as raw:
        raw.socket.sendall(b"\xff\xff\xff\xff")
        opcode, payload = raw.read_frame()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, 1002)


def too_large_message(scene: Scene) -> None:
    with RawClient(scene.server.host, scene.server.port) as raw:
        raw.send_frame(b"4" * 1_000_001)
        opcode, payload = raw.read_frame()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, 1009)


def broken_post(scene: Scene) -> None:
    host, port = scene.server.host, scene.server.port
    path = "/socket.io/?EIO=4&transport=polling"
    status, body = http(host, port, "GET", path)
    assert status == 200
    sid = body.decode().partition('"sid":"')[2].partition('"')[0]
    status, body = http(host, port, "POST", f"{path}&sid={sid}", b"nonsense")
    assert status in (200, 400)
    assert b"Traceback" not in body
    assert http(host, port, "GET", f"{path}&sid={sid}")[0] == 400


def nothing_joined(scene: Scene) -> None:
    with WebSocket(scene.server.host, scene.server.port) as raw:
        raw.read_text()
        raw.send_text('42/ai,["ai:stream",{"prompt":"p"}]')
        with pytest.raises(Closed):
            raw.read_text()


BREAKS: dict[str, Callable[[Scene], None]] = {
    work.__name__: work
    for work in (
        broken_text,
        broken_binary,
        broken_utf8,
        broken_frame,
        too_large_message,
        broken_post,
        nothing_joined,
    )
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_connection_harms_no_other(scene: Scene, how: str) -> None:
    gate = Gate()
    scene.ollama.scripts["long"] = [Send(token("before ")), gate, Send(token("after") + done())]
    other = scene.connect()
    stream_id = other.stream("long")
    other.take("ai:token")
    BREAKS[how](scene)
    gate.open()
    other.take("ai:done", streamId=stream_id)
    assert other.text(stream_id) == "before after"
    still_streams(other, scene)
