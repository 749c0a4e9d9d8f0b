"""Where the program's identifiers and secrets come from: the operating system."""

import secrets


class SystemIds:
    """The `tokenwire.types.IdSource` of a running server."""

    def random_bytes(self, count: int) -> bytes:
        """Return `count` bytes (at least 0) from the system's secure source."""
        return secrets.token_bytes(count)
