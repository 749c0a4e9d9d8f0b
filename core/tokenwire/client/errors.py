"""What a runtime's `connect()` raises."""

from tokenwire.client.outputs import ConnectFailed, Left, Refused


class ConnectError(Exception):
    """The server could not be reached, or did not let the client in."""

    def __init__(self, output: ConnectFailed | Left | Refused) -> None:
        """
        Args:
            output: what the core has said of it.
        """
        self.data: object = None
        """The server's CONNECT_ERROR object, if it sent one."""
        if isinstance(output, Refused):
            self.data = output.error
            error = output.error if isinstance(output.error, dict) else {}
            super().__init__(str(error.get("message", output.error)))
        else:
            why = filter(None, (output.reason, output.detail))
            super().__init__(f"cannot connect: {', '.join(why)}")
