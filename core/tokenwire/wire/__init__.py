"""Codecs: pure functions over bytes, without state between calls.

A message is `bytes`: valid UTF-8 text, or a `Binary`. Both transports and both directions use it.
"""


class Binary(bytes):
    """A binary message (a WebSocket binary frame, a `b...` packet of a polling payload)."""

    __slots__ = ()
