"""Time that passes in a virtual world, looked at after each deadline."""

from collections.abc import Iterator

from tokenwire.testing import World
from tokenwire.types import Millis


def passing(world: World, span: int) -> Iterator[None]:
    """Let time pass, and yield after each deadline. Each that is handled must leave a later one."""
    end = world.now + span
    while (deadline := world.server.next_timeout()) is not None and deadline.at <= end:
        world.now = max(world.now, deadline.at)
        world.server.handle_timeout(world.now)
        world.pump()
        yield
        following = world.server.next_timeout()
        assert following is None or following.at > world.now, following
    world.now = Millis(end)
