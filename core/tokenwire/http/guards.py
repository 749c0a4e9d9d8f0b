"""What h11 lets through and we do not.

Rules of this file: a request that two parsers could read differently is refused (RFC 9112 11.2);
a WebSocket handshake is checked whole (RFC 6455 4.2.1) before wsproto sees a byte.
"""

import base64
import binascii
import re

from tokenwire.config import Config
from tokenwire.errors import RemoteProtocolError
from tokenwire.types import Headers

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(:[0-9]{0,5})?")
_KEY_BYTES = 16


def check_request(
    method: str, target: bytes, version: bytes, headers: Headers, config: Config
) -> None:
    """Check a request's head.

    Raises:
        RemoteProtocolError: with the HTTP status that answers it.
    """
    if version not in (b"1.0", b"1.1"):
        raise RemoteProtocolError("HTTP/1.0 and HTTP/1.1 only", status=505)
    if len(target) > config.target_bytes:
        raise RemoteProtocolError("the request target is too long", status=414)
    if len(headers) > config.header_count:
        raise RemoteProtocolError("too many header fields", status=431)
    if not target.startswith(b"/") and not (method == "OPTIONS" and target == b"*"):
        raise RemoteProtocolError("the request target must be a path")
    names = [name for name, _ in headers]
    for name in ("host", "content-length", "transfer-encoding", "content-type", "upgrade"):
        if names.count(name) > 1:
            raise RemoteProtocolError(f"the header {name} stands twice")
    values = dict(headers)
    if not _HOST.fullmatch(values.get("host", "")):
        raise RemoteProtocolError("the header host is not a host")
    if "transfer-encoding" in values and ("content-length" in values or version == b"1.0"):
        raise RemoteProtocolError("the length of the request is ambiguous")
    length = values.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise RemoteProtocolError("the header content-length is not a number")
    if int(length[:20]) > config.max_payload:
        raise RemoteProtocolError("the request body is too large", status=413)


def is_upgrade(headers: Headers) -> bool:
    """Return True if the request asks for a WebSocket."""
    return any(name == "upgrade" and "websocket" in value.lower() for name, value in headers)


def check_upgrade(method: str, version: bytes, headers: Headers) -> str:
    """Check a WebSocket handshake. Return its key.

    Raises:
        RemoteProtocolError: with the HTTP status that answers it.
    """
    values = dict(headers)
    options = {option.strip().lower() for option in values.get("connection", "").split(",")}
    if method != "GET" or version != b"1.1":
        raise RemoteProtocolError("a WebSocket handshake is a GET of HTTP/1.1")
    if values["upgrade"].lower() != "websocket" or "upgrade" not in options:
        raise RemoteProtocolError("the upgrade is not one to a WebSocket")
    if values.get("content-length", "0") != "0" or "transfer-encoding" in values:
        raise RemoteProtocolError("a WebSocket handshake has no body")
    if values.get("sec-websocket-version") != "13":
        raise RemoteProtocolError("WebSocket version 13 only", status=426)
    key = values.get("sec-websocket-key", "")
    try:
        raw = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RemoteProtocolError("the header sec-websocket-key is not base64") from error
    if len(raw) != _KEY_BYTES:
        raise RemoteProtocolError("the header sec-websocket-key is not 16 bytes")
    return key
