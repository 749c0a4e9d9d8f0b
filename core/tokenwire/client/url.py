"""The address of a namespace as programs write it: `http://host:port/namespace?key=value`."""

from urllib.parse import parse_qsl, urlsplit

import msgspec

_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_SECURE = frozenset({"https", "wss"})


class Address(msgspec.Struct, frozen=True):
    """Where to dial, and what to ask for there."""

    host: str
    port: int
    secure: bool
    """True: with TLS."""
    authority: str
    """For the Host header."""
    namespace: str
    query: tuple[tuple[str, str], ...]


def parse(url: str) -> Address:
    """Return the parts of a URL, as the stock client's `io(url)` understands it.

    Raises:
        ValueError: it is not the URL of a Socket.IO server.
    """
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"not the URL of a Socket.IO server: {url}")
    return Address(
        host=parts.hostname,
        port=_PORTS[parts.scheme] if parts.port is None else parts.port,
        secure=parts.scheme in _SECURE,
        authority=parts.netloc.rpartition("@")[2],
        namespace=parts.path or "/",
        query=tuple(parse_qsl(parts.query, keep_blank_values=True)),
    )
