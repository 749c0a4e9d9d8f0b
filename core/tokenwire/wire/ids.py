"""Identifiers as text: base64url without padding."""

import binascii

_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def text(raw: bytes) -> str:
    """Return random bytes as text."""
    return binascii.b2a_base64(raw, newline=False).translate(_URL_SAFE, b"=").decode()
