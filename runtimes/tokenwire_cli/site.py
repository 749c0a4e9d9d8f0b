"""The plain HTTP side of the server: health, statistics, the demo page, the client's bundle.

Rules of this file: pure and synchronous: a request in, a response out. Files are read once, when
the site is made, into a fixed table; no part of a request ever becomes part of a file's path. The
answer to HEAD is the answer to GET: the HTTP layer sends its length and drops its body.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Literal, Protocol

import msgspec
from tokenwire.types import Headers, Peer, Request, Response

UpstreamStatus = Literal["unknown", "ok", "down"]


class Operated(Protocol):
    """What the site needs of a server (`tokenwire.server.Server` has it)."""

    def stats(self) -> msgspec.Struct:
        """Return the statistics: a struct that msgspec encodes with the contract's names."""
        ...

    def upstream_status(self) -> UpstreamStatus:
        """Return what the last probe of the model server found."""
        ...


class Site:
    """Answers every request that is not Engine.IO's."""

    def __init__(
        self,
        server: Operated,
        *,
        page: bool,
        stats_open: bool,
        default_model: str,
        folder: Path | None = None,
    ) -> None:
        """Read the files once.

        Args:
            server: where health and statistics come from.
            page: serve the demo page at `/`.
            stats_open: answer `/stats` to everybody, not only to this machine.
            default_model: shown by the page as the model that an empty field means.
            folder: where the page's files are; None means this package's own.
        """
        self._server = server
        self._stats_open = stats_open
        self._version = _version()
        self._computed: dict[str, Callable[[Request], Response]] = {
            "/healthz": self._health,
            "/stats": self._stats,
        }
        self._files: dict[str, _File] = {}
        self._absent: dict[str, Response] = {"/ai": _not_found(_NAMESPACE_HINT)}

        folder = folder or Path(__file__).with_name("page")
        for name, kind in _BUNDLE.items():
            path = f"/socket.io/{name}"
            file = folder / "vendor" / name
            if file.is_file():
                self._files[path] = _File(file.read_bytes(), kind)
            else:
                self._absent[path] = _not_found(_BUNDLE_HINT)
        settings = {"defaultModel": default_model, "version": self._version}
        if page:
            for path, (name, kind, extra) in _PAGE.items():
                self._files[path] = _File((folder / name).read_bytes(), kind, extra)
            self._files[_SETTINGS] = _File(msgspec.json.encode(settings), _JSON)
        else:
            self._absent.update(dict.fromkeys((*_PAGE, _SETTINGS), _not_found(_PAGE_HINT)))

    def respond(self, request: Request) -> Response:
        """Answer one request."""
        path = request.path
        if absent := self._absent.get(path):
            return absent
        file = self._files.get(path)
        computed = self._computed.get(path)
        if file is None and computed is None:
            return _not_found(_PATH_HINT)
        if request.method not in ("GET", "HEAD"):
            # RFC 9110 15.5.6: a 405 names the methods that would do.
            return _json(
                405,
                {"error": "method not allowed", "details": f"{path} answers GET and HEAD"},
                (("allow", "GET, HEAD"),),
            )
        if file is not None:
            return file.respond(request)
        assert computed is not None
        return computed(request)

    def _health(self, _request: Request) -> Response:
        # 200 also while the model server is down: this process is fine, and a supervisor that
        # restarts it would only cut its clients off.
        status = {
            "status": "ok",
            "upstream": self._server.upstream_status(),
            "version": self._version,
        }
        return _json(200, status)

    def _stats(self, request: Request) -> Response:
        if not (self._stats_open or _is_local(request)):
            return _json(403, {"error": "forbidden", "details": _STATS_HINT})
        return _json(200, self._server.stats())


class _File:
    """A file in memory with what HTTP has to say about it."""

    __slots__ = ("_body", "_etag", "_headers")

    def __init__(self, body: bytes, kind: str, extra: Headers = ()) -> None:
        self._body = body
        self._etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        # no-cache: keep it, but ask each time, so that an upgraded server is never met by the
        # scripts of the one before.
        self._headers: Headers = (
            ("content-type", kind),
            ("cache-control", "no-cache"),
            ("etag", self._etag),
            _NO_SNIFFING,
            *extra,
        )

    def respond(self, request: Request) -> Response:
        wanted = request.header("if-none-match")
        if wanted is not None and _etag_matches(wanted, self._etag):
            return Response(304, self._headers)
        return Response(200, self._headers, self._body)


def _etag_matches(field: str, etag: str) -> bool:
    """Compare as RFC 9110 13.1.2 says: any member of the list, weakly, and `*` means all."""
    members = [member.strip().removeprefix("W/") for member in field.split(",")]
    return "*" in members or etag in members


def _is_local(request: Request) -> bool:
    """Say whether the request was made on this machine, and meant for it."""
    # A name that an attacker points at this machine (DNS rebinding) is in the Host header.
    host = _PORT.sub("", request.header("host") or "localhost").strip("[]")
    if host != "localhost" and not _is_loopback(Peer(host)):
        return False
    # A proxy on this machine is a loopback peer that speaks for somebody else.
    if request.header("forwarded") or request.header("x-forwarded-for"):
        return False
    return _is_loopback(request.peer)


def _is_loopback(peer: Peer) -> bool:
    try:
        address = ipaddress.ip_address(peer.host or "")
    except ValueError:
        return False
    # A dual-stack socket shows 127.0.0.1 as ::ffff:127.0.0.1, which Python 3.11 does not call
    # a loopback address.
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _json(status: int, content: object, extra: Headers = ()) -> Response:
    headers = (("content-type", _JSON), ("cache-control", "no-store"), _NO_SNIFFING, *extra)
    return Response(status, headers, msgspec.json.encode(content))


def _not_found(details: str) -> Response:
    return _json(404, {"error": "not found", "details": details})


def _version() -> str:
    try:
        return metadata.version("tokenwire")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


_PORT = re.compile(r":[0-9]+$")
_JSON = "application/json"
_JAVASCRIPT = "text/javascript; charset=utf-8"
_NO_SNIFFING = ("x-content-type-options", "nosniff")

# Text of a model is shown by this page: whatever it holds, no script of another origin, no inline
# script and no form can come of it. `ws:` is for browsers whose 'self' does not cover WebSocket.
_PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self' ws: wss:",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

_PAGE: dict[str, tuple[str, str, Headers]] = {
    "/": (
        "index.html",
        "text/html; charset=utf-8",
        (("content-security-policy", _PAGE_POLICY), ("referrer-policy", "no-referrer")),
    ),
    "/page/page.js": ("page.js", _JAVASCRIPT, ()),
    "/page/page.css": ("page.css", "text/css; charset=utf-8", ()),
}

_SETTINGS = "/page/config.json"

_BUNDLE: dict[str, str] = {
    "socket.io.js": _JAVASCRIPT,
    "socket.io.min.js": _JAVASCRIPT,
    "socket.io.esm.min.js": _JAVASCRIPT,
    "socket.io.js.map": _JSON,
    "socket.io.min.js.map": _JSON,
    "socket.io.esm.min.js.map": _JSON,
}

_PATH_HINT = "there is /healthz, /stats and, for Socket.IO clients, /socket.io/"
_PAGE_HINT = "the demo page is off: start with --page, or run `tokenwire demo`"
_NAMESPACE_HINT = (
    "/ai is a Socket.IO namespace, not a page: connect a client with io('http://HOST:PORT/ai')"
)
_BUNDLE_HINT = (
    "this tokenwire was built without npm, so the browser's Socket.IO client is not in it: in a "
    "checkout run `npm ci --prefix tests/interop && pip install .`, or load socket.io-client 4.8 "
    "from your own bundle"
)
_STATS_HINT = (
    "statistics are for this machine only; set STATS_ACCESS=open to answer them to everybody"
)
