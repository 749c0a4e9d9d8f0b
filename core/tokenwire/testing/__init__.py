"""For tests of programs on the core: a world without sockets, clocks and chance.

Shipped, so that who ports a runtime or writes a client can test against the same core.
"""

from tokenwire.testing.ids import SeededIds
from tokenwire.testing.parse import Answer, Frame
from tokenwire.testing.world import Model, Wire, World

__all__ = ["Answer", "Frame", "Model", "SeededIds", "Wire", "World"]
