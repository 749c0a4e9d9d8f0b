"""`tokenwire serve` as a process: the start, health, the ways to stop, the ways to fail."""

import json
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from cli.program import Process, environment, line, rest, running, taken_port
from tokenwire_cli.serve import start_error, with_page_origins
from tokenwire_cli.settings import Settings

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@contextmanager
def serving(*flags: str, environ: dict[str, str] | None = None) -> Iterator[tuple[Process, int]]:
    """`tokenwire serve` on a free port, with a model server that is down."""
    with taken_port(listening=False) as closed:
        down = f"http://127.0.0.1:{closed}"
        arguments = ("-m", "tokenwire_cli", "serve", "--port=0", f"--ollama-base-url={down}")
        with running((*arguments, *flags), environ) as process:
            first = line(process)
            match = re.fullmatch(r"AI Streaming WebSocket: ws://localhost:(\d+)/ai", first)
            assert match, (first, rest(process))
            assert line(process) == f"Model server: {down} (default model codellama)"
            yield process, int(match[1])


def fetch(port: int, path: str) -> tuple[int, bytes]:
    """GET from the server."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_starts_with_the_model_server_down() -> None:
    with serving() as (process, port):
        status, body = fetch(port, "/healthz")
        assert status == 200
        health = json.loads(body)
        assert health["status"] == "ok"
        assert health["upstream"] in ("unknown", "down")
        status, body = fetch(port, "/stats")
        assert status == 200
        assert json.loads(body)["totalActiveStreams"] == 0
        assert fetch(port, "/")[0] == 404
        process.terminate()
        code, out, err = rest(process)
    assert code == 0
    assert out == ""
    assert "Traceback" not in err
    assert re.search(r"Z warning \w+", err), "the log says that the model server is down"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_it(number: signal.Signals) -> None:
    with serving() as (process, _):
        process.send_signal(number)
        code, _, err = rest(process)
    assert code == 0
    assert "Traceback" not in err
    assert "KeyboardInterrupt" not in err


def test_on_uvloop() -> None:
    with serving("--event-loop=uvloop", "--log-level=debug") as (process, port):
        assert fetch(port, "/healthz")[0] == 200
        assert b"uvloop" in Path(f"/proc/{process.pid}/maps").read_bytes()
        process.terminate()
        code, _, err = rest(process)
    assert code == 0
    assert "Traceback" not in err


def test_uvloop_is_not_installed() -> None:
    missing = (
        "import sys; sys.modules['uvloop'] = None; from tokenwire_cli.main import run; "
        "raise SystemExit(run())"
    )
    with running(("-c", missing, "serve", "--port=0", "--event-loop=uvloop")) as process:
        code, out, err = rest(process)
    assert (code, out) == (1, "")
    assert err == (
        "tokenwire: uvloop is not installed: pip install 'tokenwire[uvloop]', or set EVENT_LOOP or "
        "--event-loop to asyncio\n"
    )


def test_page() -> None:
    with serving("--page", "--public-origin=https://demo.example") as (process, port):
        assert line(process) == f"Page: http://localhost:{port}/"
        status, body = fetch(port, "/")
        assert status == 200
        assert b"<html" in body
        process.terminate()
        assert rest(process)[0] == 0


def test_debug_shows_packets() -> None:
    with serving(environ=environment(DEBUG="websocket:*")) as (process, port):
        status, _ = fetch(port, "/socket.io/?EIO=4&transport=polling")
        assert status == 200
        process.terminate()
        assert re.search(r"Z debug packet", rest(process)[2])


def test_port_in_use() -> None:
    with (
        taken_port(listening=True) as port,
        running(("-m", "tokenwire_cli", "serve", f"--port={port}")) as process,
    ):
        code, out, err = rest(process)
    assert code == 1
    assert out == ""
    assert err == (
        f"tokenwire: port {port} is in use: another program listens on 127.0.0.1:{port}; "
        "stop it, or set WS_PORT or --port\n"
    )


@pytest.mark.parametrize("flags", [(), ("--page",)])
def test_host_that_is_not_ours(flags: tuple[str, ...]) -> None:
    arguments = ("-m", "tokenwire_cli", "serve", "--port=0", "--host=192.0.2.1", *flags)
    with running(arguments) as process:
        code, _, err = rest(process)
    assert code == 1
    assert err == (
        "tokenwire: 192.0.2.1 is not an address of this machine: set WS_HOST or --host\n"
    )


# -- without the runtime -------------------------------------------------------------------------

HANGING = """\
import asyncio
from tokenwire_cli.serve import run_until_signal

async def main(stop):
    print("ready", flush=True)
    await stop.wait()
    print("stopping", flush=True)
    {hang}

raise SystemExit(run_until_signal(main, "{loop}"))
"""
LOOPS = ["asyncio", "uvloop"]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("hang", ["await asyncio.Event().wait()", "while True: pass"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_second_signal_ends_at_once(number: signal.Signals, hang: str, loop: str) -> None:
    with running(("-c", HANGING.format(hang=hang, loop=loop))) as process:
        assert line(process) == "ready"
        process.terminate()
        assert line(process) == "stopping"
        process.send_signal(number)
        assert rest(process) == (128 + number, "", "")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("loop", LOOPS)
def test_what_main_returns_is_the_exit_code(number: signal.Signals, loop: str) -> None:
    with running(("-c", HANGING.format(hang="return 7", loop=loop))) as process:
        assert line(process) == "ready"
        process.send_signal(number)
        assert rest(process) == (7, "stopping\n", "")


def test_page_origins() -> None:
    settings = Settings(public_origin=("https://demo.example",))
    assert with_page_origins(settings, 3000).ws_cors_origin == (
        "http://localhost:5173",
        "http://localhost:3000",
        "http://127.0.0.1:3000",
        "https://demo.example",
    )
    same = msgspec.structs.replace(settings, ws_cors_origin=("http://localhost",))
    assert with_page_origins(same, 80).ws_cors_origin == (
        "http://localhost",
        "http://127.0.0.1",
        "https://demo.example",
    )
    anyone = Settings(ws_cors_origin=("*",), ws_cors_credentials=False)
    assert with_page_origins(anyone, 3000) == anyone


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "set WS_PORT or --port to 1024 or more"),
        (socket.gaierror(-2, "Name or service not known"), "set WS_HOST or --host"),
        (OSError(24, "Too many open files"), "cannot listen on h:1: Too many open files"),
        (OSError("odd"), "cannot listen on h:1: OSError"),
    ],
)
def test_start_error(error: OSError, words: str) -> None:
    assert words in start_error(error, "h", 1)
