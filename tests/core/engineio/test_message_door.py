"""The message door: Engine.IO over somebody else's HTTP.

Rules of this file: whole requests and messages go in, answers and packets come out; there are no
bytes of HTTP or WebSocket.
"""

from core.clients import (
    Polling,
    open_websocket,
    plain_world,
    sid_of,
)
from tokenwire.config import Config
from tokenwire.endpoint import Endpoint
from tokenwire.testing import SeededIds
from tokenwire.testing.world import masked_frame
from tokenwire.types import ConnId, Millis, Peer, Request

NOW = Millis(1_000)


class Door:
    """An Endpoint with one polling session."""

    def __init__(self) -> None:
        config = Config(ai_namespace=None, max_payload=10)
        self.endpoint = Endpoint(config, ids=SeededIds())
        _, opening = self.ask(Request("GET", "/socket.io/", "EIO=4&transport=polling"))
        self.query = f"EIO=4&transport=polling&sid={sid_of(opening)}"

    def ask(self, request: Request) -> tuple[int, bytes]:
        conn = self.endpoint.connected(Peer(), NOW)
        self.endpoint.receive_request(conn, request, NOW)
        response = self.endpoint.response_to_send(conn, NOW)
        assert response is not None
        return response.status, response.body


def test_the_payload_limit_holds_at_the_message_door() -> None:
    door = Door()
    assert door.ask(Request("POST", "/socket.io/", door.query, body=b"x" * 11)) == (413, b"")
    assert door.ask(Request("POST", "/socket.io/", door.query, body=b"40")) == (200, b"ok")


def test_there_is_no_answer_before_there_is_one() -> None:
    door = Door()
    endpoint = door.endpoint
    assert endpoint.response_to_send(ConnId(99), NOW) is None
    conn = endpoint.connected(Peer(), NOW)
    endpoint.receive_request(conn, Request("GET", "/socket.io/", door.query), NOW)
    assert endpoint.response_to_send(conn, NOW) is None
    endpoint.receive_eof(ConnId(99), NOW)
    endpoint.receive_eof(conn, NOW)
    response = endpoint.response_to_send(conn, NOW)
    assert response is not None
    assert response.body == b"6"


def test_what_comes_late_about_a_websocket_does_nothing() -> None:
    endpoint = Door().endpoint
    out: list[bytes] = []
    endpoint.receive_message(ConnId(99), b"2probe", NOW)
    endpoint.messages_to_send(ConnId(99), out, 100, NOW)
    endpoint.write_blocked(ConnId(99), NOW)
    endpoint.connection_lost(ConnId(99), NOW)
    assert endpoint.close_code(ConnId(99)) is None
    assert out == []


def test_a_websocket_that_takes_nothing_is_dropped_behind_its_close() -> None:
    world = plain_world(close_timeout=1_000)
    wire = open_websocket(world)
    wire.room = 0
    world.advance(30_000)  # a ping that it does not take
    wire.send_text("x")
    world.advance(999)
    assert wire.open
    world.advance(1)
    assert not wire.open


def test_a_second_probe_in_the_same_read_gets_no_second_answer() -> None:
    world = plain_world()
    wire = Polling(world).probe()
    wire.send(masked_frame(b"2probe") * 2)
    assert wire.texts() == ["3probe"]


def test_a_client_of_python_engineio_is_known_by_its_http_library() -> None:
    world = plain_world()
    client = Polling(world, {"User-Agent": "python-requests/2.3"})
    socket = client.join()
    for _ in range(20):
        world.server.emit(socket, "e", [], world.now)
    answer = client.poll()
    assert answer is not None
    assert answer.body.count(b"\x1e") == 15
