"""The virtual world that other tests stand in."""

from tokenwire.config import Config
from tokenwire.testing import World
from tokenwire.types import Response


def test_reading_goes_on_only_on_a_socket_that_is_there() -> None:
    world = World(Config(ai_namespace=None, read_ahead_bytes=10))
    wire = world.connect()
    wire.send(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + b"x" * 11)
    assert wire.reading_paused
    world.respond(world.requests.pop(), Response(200))
    assert wire.ended
