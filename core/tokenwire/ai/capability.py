"""clientIds: capabilities of a public and a secret part.

Rules of this file: `<public>.<secret>`, 128 random bits public, 128 secret. The secret is a MAC of
the public part under a key that never leaves this object: it is computed again when it must be
said or checked, and stored nowhere.
"""

import hashlib
import hmac
import re

from tokenwire.types import IdSource
from tokenwire.wire import ids

_PUBLIC_BYTES = 16
_SECRET_BYTES = 16
_KEY_BYTES = 32
_CLIENT_ID = re.compile(r"[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{22}")


def is_client_id(text: str) -> bool:
    """Return True if a text has the form of a clientId."""
    return _CLIENT_ID.fullmatch(text) is not None


class Capabilities:
    """Issues and checks clientIds."""

    __slots__ = ("_ids", "_key")

    def __init__(self, id_source: IdSource) -> None:
        self._ids = id_source
        self._key = id_source.random_bytes(_KEY_BYTES)

    def issue(self) -> str:
        """Return the public part of a new clientId."""
        return ids.text(self._ids.random_bytes(_PUBLIC_BYTES))

    def client_id(self, public: str) -> str:
        """Return the whole clientId with this public part."""
        mac = hmac.digest(self._key, public.encode(), hashlib.sha256)
        return f"{public}.{ids.text(mac[:_SECRET_BYTES])}"

    def check(self, client_id: str) -> str | None:
        """Return the public part of a clientId that was issued here, or None. In constant time."""
        public = client_id.partition(".")[0]
        known = self.client_id(public)
        return public if hmac.compare_digest(known.encode(), client_id.encode()) else None
