"""`tokenwire serve`: the core, its asyncio runtime and the site, until a signal.

Rules of this file: what the operator has to read at the start goes to standard output, flushed;
everything later goes to the log. A server that cannot start says why in one line, exit code 1.
"""

import asyncio
import errno
import gc
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from types import FrameType

import msgspec

from tokenwire_cli import logs
from tokenwire_cli.ids import SystemIds
from tokenwire_cli.settings import EventLoop, Settings

Stop = asyncio.Event
"""Set by the first SIGINT or SIGTERM."""


def serve(settings: Settings, page: bool) -> int:
    """Serve until SIGINT or SIGTERM, and return the exit code.

    Args:
        settings: all settings.
        page: whether to serve the demo page at `/`, whose origins are then allowed.
    """
    return run_until_signal(
        lambda stop: serve_until(stop, settings, page=page), settings.event_loop
    )


def run_until_signal(
    main: Callable[[Stop], Awaitable[int]], event_loop: EventLoop = "asyncio"
) -> int:
    """Run `main` in an event loop and return what it returns; 1 if there is no such loop.

    The first SIGINT or SIGTERM sets the event that `main` gets; a second one ends the process at
    once, with 130 or 143.
    """

    async def with_signals() -> int:
        stop = Stop()
        loop = asyncio.get_running_loop()

        def first() -> None:
            stop.set()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
                # Not through the loop: what hangs may be the loop.
                signal.signal(number, _exit_at_once)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, first)
        return await main(stop)

    try:
        factory = _loop_factory(event_loop)
    except ModuleNotFoundError:
        how = f"pip install 'tokenwire[{event_loop}]'"
        print(
            f"tokenwire: {event_loop} is not installed: {how}, or set EVENT_LOOP or --event-loop "
            "to asyncio",
            file=sys.stderr,
        )
        return 1
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(with_signals())


def _loop_factory(event_loop: EventLoop) -> Callable[[], asyncio.AbstractEventLoop]:
    if event_loop == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def serve_until(
    stop: Stop, settings: Settings, *, page: bool, last_line: str | None = None
) -> int:
    """Serve until `stop` is set, and return the exit code.

    Args:
        stop: ends the server.
        settings: all settings.
        page: whether to serve the demo page.
        last_line: printed at the end of the banner instead of the page's address; `{page}` in it
            is that address.
    """
    # Here, not above: they take longer to import than everything else together.
    from tokenwire import Server
    from tokenwire_asyncio import Runtime

    from tokenwire_cli.site import Site

    host, port = settings.ws_host, settings.ws_port
    if page:
        try:
            # The core wants the page's origins before the runtime knows the port.
            port = port or _free_port(host)
        except OSError as error:
            return _not_started(error, host, port)
        settings = with_page_origins(settings, port)
    server = Server(settings.config(), ids=SystemIds())
    site = Site(
        server,
        page=page,
        stats_open=settings.stats_access == "open",
        default_model=settings.ollama_default_model,
    )
    runtime = Runtime(
        server,
        upstream_url=settings.ollama_base_url,
        upstream_client=settings.upstream_client,
        respond=site.respond,
        notify=logs.notice,
    )
    try:
        await runtime.start(host, port)
    except OSError as error:
        return _not_started(error, host, port)
    _set_the_start_aside()
    try:
        _print_banner(settings, runtime.port, page=page, last_line=last_line)
        await stop.wait()
        if running := server.stats().total_active_streams:
            seconds = server.config.shutdown_timeout // 1000
            sentence = f"running streams have {seconds} s to finish; Ctrl-C again ends at once"
            logs.log("info", "shutting_down", (("streams", running),), message=sentence)
    finally:
        await runtime.shut_down()
    return 0


def with_page_origins(settings: Settings, port: int) -> Settings:
    """Return the settings with the page's own origins allowed, too.

    These are fixed names and what PUBLIC_ORIGIN says, never a request's Host header: a name that an
    attacker points at this machine (DNS rebinding) must stay a foreign origin.
    """
    allowed = settings.ws_cors_origin
    if "*" in allowed:
        return settings
    own = (_origin("localhost", port), _origin("127.0.0.1", port), *settings.public_origin)
    new = tuple(dict.fromkeys((*allowed, *own)))
    return msgspec.structs.replace(settings, ws_cors_origin=new)


def start_error(error: OSError, host: str, port: int) -> str:
    """Return in one line why the server cannot listen, and what to change."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} is in use: another program listens on {host}:{port}; "
            "stop it, or set WS_PORT or --port"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} is not allowed to this user: set WS_PORT or --port to 1024 or more"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine: set WS_HOST or --host"
    return f"cannot listen on {host}:{port}: {error.strerror or type(error).__name__}"


def _not_started(error: OSError, host: str, port: int) -> int:
    print(f"tokenwire: {start_error(error, host, port)}", file=sys.stderr)
    return 1


def _set_the_start_aside() -> None:
    """Let Python's collector look only at what comes from now on.

    It looks through everything when that has grown by a quarter. What the start has made would be
    most of it, and what ended connections leave (asyncio's transports know themselves) would wait
    for megabytes of it.
    """
    gc.freeze()
    gc.collect()  # counts anew what there is


def _print_banner(settings: Settings, port: int, *, page: bool, last_line: str | None) -> None:
    name = _browser_host(settings.ws_host)
    print(f"AI Streaming WebSocket: ws://{name}:{port}/ai")
    print(
        f"Model server: {settings.ollama_base_url} (default model {settings.ollama_default_model})"
    )
    if page:
        address = f"http://{name}:{port}/"
        print((last_line or "Page: {page}").format(page=address))
        if not {"*", _origin(name, port)} & set(settings.ws_cors_origin):
            logs.log(
                "warning",
                "page_origin_not_allowed",
                (("origin", _origin(name, port)),),
                message="the page will be refused at this address: name it in PUBLIC_ORIGIN",
            )
    sys.stdout.flush()


def _browser_host(host: str) -> str:
    """Return the name by which a browser on this machine reaches what listens on `host`."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified or host in ("127.0.0.1", "::1"):
        return "localhost"
    return f"[{host}]" if address.version == 6 else host


def _origin(name: str, port: int) -> str:
    # A browser leaves the scheme's own port out (RFC 6454 6.1).
    return f"http://{name}" if port == 80 else f"http://{name}:{port}"


def _free_port(host: str) -> int:
    # Another program could take it in between: then the start fails with "in use", as it should.
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.bind(address)
        port: int = probe.getsockname()[1]
        return port


def _exit_at_once(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
