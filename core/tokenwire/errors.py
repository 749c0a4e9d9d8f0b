"""Errors, typed by whose fault they are.

`LocalProtocolError` is the program's misuse: it is raised and nothing has changed.
`RemoteProtocolError` is a peer's misuse: it never leaves the core; layers raise it to the layer
that turns it into an answer (an HTTP status, a close frame, an `ai:error`, a disconnect).
"""


class ProtocolError(Exception):
    """Base of both."""


class LocalProtocolError(ProtocolError):
    """The program used the core wrongly (an unknown connection, an argument out of range)."""


class RemoteProtocolError(ProtocolError):
    """A peer broke a rule.

    Attributes:
        status: the HTTP status that answers it where HTTP still can (400 if not told).
        close_code: the WebSocket close code that answers it (RFC 6455 7.4.1; 1002 if not told).
    """

    def __init__(self, message: str, *, status: int = 400, close_code: int = 1002) -> None:
        super().__init__(message)
        self.status = status
        self.close_code = close_code
