"""Which web pages may talk to the server, and the CORS headers that tell browsers so.

Rules of this file: the list is exact; nothing is derived from the Host header (DNS rebinding). No
Origin means no browser page: allowed. `null` is refused always. Node's server does not look at the
Origin of a WebSocket handshake; this one does, before anything is allocated.
"""

import re

from tokenwire.types import Headers, Request, Response

_TOKENS = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(\s*,\s*[A-Za-z0-9!#$%&'*+.^_`|~-]+){0,31}")


class Origins:
    """The allow-list of origins."""

    __slots__ = ("_allowed", "_any", "_credentials")

    def __init__(self, allowed: tuple[str, ...], *, credentials: bool) -> None:
        self._allowed = frozenset(allowed)
        self._any = "*" in allowed
        self._credentials = credentials

    def allows(self, request: Request) -> bool:
        origins = [value for name, value in request.headers if name == "origin"]
        if not origins:
            return True
        if len(origins) > 1 or origins[0] == "null":
            return False
        return self._any or origins[0] in self._allowed

    def headers(self, request: Request) -> Headers:
        """Return the CORS headers of an answer to `request`, whose origin is allowed."""
        origin = request.header("origin")
        if origin is None:
            return () if self._any else (("vary", "Origin"),)
        if self._any:
            return (("access-control-allow-origin", "*"),)
        headers: Headers = (("access-control-allow-origin", origin), ("vary", "Origin"))
        if self._credentials:
            headers += (("access-control-allow-credentials", "true"),)
        return headers

    def preflight(self, request: Request) -> Response:
        """Answer an OPTIONS request (Fetch standard, CORS-preflight). Touches no session."""
        headers = (*self.headers(request), ("access-control-allow-methods", "GET,POST"))
        wanted = request.header("access-control-request-headers")
        if wanted is not None and _TOKENS.fullmatch(wanted):
            headers += (("access-control-allow-headers", wanted),)
        return Response(204, headers)
