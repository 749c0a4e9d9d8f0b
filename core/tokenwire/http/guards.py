"""What h11 lets through and we do not.

Rules of this file: a request that two parsers could read differently is refused (RFC 9112 11.2);
what is refused does not depend on how the bytes were cut; a WebSocket handshake is checked whole
(RFC 6455 4.2.1) before wsproto sees a byte.
"""

import base64
import binascii
import re

from tokenwire.config import Config
from tokenwire.errors import RemoteProtocolError
from tokenwire.types import Headers

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(:[0-9]{0,5})?")
# The end of a head, or a CR or LF that is not part of a CR LF. Such a set of bytes at its beginning
# lets `re` go from one end of a line to the next; it would try alternatives at every byte.
_END_OR_BAD_LINE = re.compile(rb"[\r\n](?:(?<=\r)(?:(\n\r\n)|[^\n])|(?<!\r)(?<!\r\n))")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([^\r]*)", re.IGNORECASE)
_SINGLE = (
    "host",
    "content-length",
    "transfer-encoding",
    "content-type",
    "upgrade",
    "sec-websocket-key",
    "sec-websocket-version",
)
_KEY_BYTES = 16


def find_head(data: bytearray, seen: int, config: Config) -> int | None:
    """Find the end of a request's head.

    Args:
        data: what has come of the request.
        seen: how much of it was looked at before.
        config: has the limit.

    Returns:
        The size of the head, or None if it is not whole yet.

    Raises:
        RemoteProtocolError: with the HTTP status that answers it.
    """
    if data and data[0] <= 0x20:  # also a TLS client: it would wait for us
        raise RemoteProtocolError("the request line is not one")
    match = _END_OR_BAD_LINE.search(data, max(0, seen - 3))
    size = match.end() if match else len(data)
    if size > config.header_bytes:
        if data.find(b"\r\n", 0, config.header_bytes) < 0:
            raise RemoteProtocolError("the request target is too long", status=414)
        raise RemoteProtocolError("the header fields are too large", status=431)
    if match is None:
        return None
    if match[1] is None:
        raise RemoteProtocolError("a line does not end in CR LF")
    return size


def check_head(head: bytes, config: Config) -> None:
    """Check what is not to be seen any more once a head is parsed.

    Raises:
        RemoteProtocolError: with the HTTP status that answers it.
    """
    if head.count(b"\r\n") - 2 > config.header_count:  # the request line, the empty line
        raise RemoteProtocolError("too many header fields", status=431)
    if b"\r\n " in head or b"\r\n\t" in head:
        raise RemoteProtocolError("a folded header field")  # RFC 9112 5.2
    if _CONTROL.search(head):
        raise RemoteProtocolError("a control character in the head")
    lengths: list[bytes] = _LENGTH.findall(head)
    if len(lengths) > 1:  # h11 makes one of two that agree
        raise RemoteProtocolError("the header content-length stands twice")
    if lengths and not lengths[0].rstrip(b" \t").isdigit():
        raise RemoteProtocolError("the header content-length is not a number")


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
    if method == "CONNECT":  # its answer would make a tunnel (RFC 9110 9.3.6)
        raise RemoteProtocolError("this is no proxy", status=501)
    if not target.startswith(b"/") and not (method == "OPTIONS" and target == b"*"):
        raise RemoteProtocolError("the request target must be a path")
    names = [name for name, _ in headers]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise RemoteProtocolError(f"the header {name} stands twice")
    values = dict(headers)
    if not _HOST.fullmatch(values.get("host", "")):
        raise RemoteProtocolError("the header host is not a host")
    if "transfer-encoding" in values and ("content-length" in values or version == b"1.0"):
        raise RemoteProtocolError("the length of the request is ambiguous")
    if int(values.get("content-length", "0")) > config.max_payload:
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
    options = {
        option.strip().lower()
        for name, value in headers
        if name == "connection"
        for option in value.split(",")
    }
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
