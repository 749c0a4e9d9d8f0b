"""Identifiers as text: base64url without padding."""

import base64


def text(raw: bytes) -> str:
    """Return random bytes as text."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
