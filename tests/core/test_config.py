"""The configuration: defaults that hold together, and values that make no sense refused."""

from typing import Any

import pytest
from tokenwire.config import Config
from tokenwire.errors import LocalProtocolError


def test_the_defaults_are_the_seeds_and_nodes() -> None:
    config = Config()
    assert config.max_concurrent_streams == 10
    assert config.stream_timeout == 300_000
    assert config.reconnect_timeout == 30_000
    assert config.backpressure_threshold == 100
    assert config.heartbeat_interval == 30_000
    assert config.default_model == "codellama"
    assert config.cors_origins == ("http://localhost:5173",)
    assert (config.max_payload, config.connect_timeout) == (1_000_000, 45_000)
    assert (config.upgrade_timeout, config.max_attachments) == (10_000, 10)


def test_polling_clients_find_their_connection_open_after_a_ping() -> None:
    config = Config()
    assert config.keep_alive_timeout > config.heartbeat_interval + config.heartbeat_timeout


NUMBERS = [name for name in Config.__struct_fields__ if type(getattr(Config(), name)) is int]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_below_one_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(LocalProtocolError, match=name):
        Config(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"cors_origins": ("*",)}, "cors_credentials"),
        ({"cors_origins": ("http://a", "null")}, "null"),
        ({"recovery_timeout": 0}, "recovery_timeout"),
        ({"namespace_patterns": ("/a(",)}, "namespace_patterns"),
        ({"namespace_patterns": ("a{99999999999}",)}, "namespace_patterns"),
        ({"namespaces": ("a",)}, "slash"),
        ({"namespaces": ("/a,b",)}, "comma"),
        ({"protocol": "engine.io"}, "ai_namespace"),
        ({"trusted_proxies": ("10.0.0.0/33",)}, "trusted_proxies"),
        ({"path": "socket.io/"}, "slash"),
        ({"path": "/socket.io"}, "slash"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, object], word: str) -> None:
    with pytest.raises(LocalProtocolError, match=word):
        Config(**values)  # type: ignore[arg-type]


def test_any_origin_is_allowed_without_credentials() -> None:
    assert Config(cors_origins=("*",), cors_credentials=False).cors_origins == ("*",)


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Config().max_payload = 5  # type: ignore[misc]


def test_what_clients_can_make_a_server_hold_is_bounded() -> None:
    small: dict[str, Any] = {
        name: 1_000
        for name in Config.__struct_fields__
        if name.endswith("_bytes") or name == "max_payload"
    }
    small["max_sessions"] = 1
    least = Config(**small).memory_bound()
    assert 9_000 < least < 100_000
    assert least < Config(**{**small, "max_sessions": 2}).memory_bound() < 2 * least
    returning: dict[str, Any] = {"max_namespaces": 2, "max_lost_sockets": 3, "recovery_timeout": 1}
    assert Config(**small, **returning).memory_bound() == least + (2 + 3) * 1_000
    for name in ("memory_bytes", "outbox_burst_bytes", "control_bytes", "max_payload"):
        assert Config(**{**small, name: 2_000}).memory_bound() >= least + 1_000
