"""The client's settings: what makes no sense is refused where it is said."""

from typing import Any

import pytest
from tokenwire.client import ClientConfig
from tokenwire.errors import LocalProtocolError


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"path": "/a%20b/", "query": (("a b", "ü&="),), "headers": (("X-Y", "a b"), ("x-y", ""))},
        {"transports": ("websocket",), "reconnect_attempts": 0, "reconnect_jitter": 0},
        {"transports": ("websocket", "polling"), "reconnect_attempts": 7, "reconnect_jitter": 1},
        {"connect_timeout": 0, "send_buffer": 0},
    ],
)
def test_settings_that_make_sense(settings: dict[str, Any]) -> None:
    config = ClientConfig(host="h:1", **settings)
    assert {name: getattr(config, name) for name in settings} == settings


@pytest.mark.parametrize(
    "settings",
    [
        {"host": "a b"},
        {"host": "a\r\nX: y"},
        {"host": "ü.example"},
        {"path": "socket.io/"},
        {"path": "/a b"},
        {"path": "/ü"},
        {"query": (("EIO", "3"),)},
        {"query": (("a", "b"), ("sid", "x"))},
        {"query": (("transport", "x"),)},
        {"headers": (("Host", "other"),)},
        {"headers": (("content-length", "1"),)},
        {"headers": (("Transfer-Encoding", "chunked"),)},
        {"headers": (("x y", "z"),)},
        {"headers": (("x", "a\nb"),)},
        {"headers": (("x", "ü"),)},
        {"transports": ()},
        {"transports": ("carrier pigeon",)},
        {"reconnect_jitter": -0.1},
        {"reconnect_jitter": 1.1},
        {"reconnect_attempts": -1},
        {"reconnect_delay": -1},
        {"connect_timeout": -1},
        {"max_message": -1},
    ],
)
def test_settings_that_make_none(settings: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        ClientConfig(**{"host": "h", **settings})
