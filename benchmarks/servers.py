"""The servers that are measured: how each is started, and its versions.

Rules of this file: each is started as its users start it, from its released package, with default
settings; each prints the same line when it listens. One that is not installed says how to get it.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from msgspec import Struct

from benchmarks.children import HERE, PROGRAMS

PEERS = HERE / "peers"
READY = r"AI Streaming WebSocket: ws://localhost:(\d+)/ai"
"""What a server prints when it listens; the group is its port."""
MODEL = "bench"
"""The name of the scripted model."""

_COMPILED = HERE.parent / ".venv" / "compiled"
_BUN = PEERS / "node_modules" / ".bin" / "bun"
_PYTHON = PEERS / ".venv" / "bin" / "python"


class Server(Struct, frozen=True):
    """One server."""

    name: str
    title: str
    command: Callable[[str], list[str]]
    """From the model server's address to the arguments that start it."""
    versions: Callable[[], dict[str, str]]
    program: Path
    """What has to be there."""
    polling: bool = True

    def is_installed(self) -> bool:
        return self.program.exists()


def _tokenwire() -> Path:
    return Path(sys.executable).with_name("tokenwire")


def _serve(model: str, *settings: str) -> list[str]:
    options = ["--port", "0", "--ollama-base-url", model, "--ollama-default-model", MODEL]
    # An installed package has its bytecode; this one, run from its sources, is to write it.
    environment = ["env", "-u", "PYTHONDONTWRITEBYTECODE", *settings]
    return [*environment, str(_tokenwire()), "serve", *options]


def _serve_fast(model: str) -> list[str]:
    return _serve(model, f"PYTHONPATH={_COMPILED}", "EVENT_LOOP=uvloop")


def _our_versions(*more: str) -> dict[str, str]:
    packages = ("tokenwire", "httpx", "h11", "wsproto", "msgspec", *more)
    return {"python": sys.version.split()[0], **{name: version(name) for name in packages}}


def _javascript(program: str | Path, script: str) -> Callable[[str], list[str]]:
    return lambda model: [str(program), str(PEERS / script), model]


def _bun(script: str) -> Callable[[str], list[str]]:
    # Its fetch has 256 connections at once: 1,000 streams would wait for each other.
    more = "BUN_CONFIG_MAX_HTTP_REQUESTS=65336"
    return lambda model: ["env", more, str(_BUN), str(PEERS / script), model]


def _javascript_versions(program: str | Path, *packages: str) -> Callable[[], dict[str, str]]:
    def read() -> dict[str, str]:
        found = {Path(program).name: _output(str(program), "--version").lstrip("v")}
        for package in packages:
            about = PEERS / "node_modules" / package / "package.json"
            found[package] = json.loads(about.read_text())["version"]
        return found

    return read


def _python(script: str) -> Callable[[str], list[str]]:
    return lambda model: [str(_PYTHON), str(PEERS / script), model]


def _python_versions(*packages: str) -> Callable[[], dict[str, str]]:
    def read() -> dict[str, str]:
        code = (
            "import sys; from importlib.metadata import version as v; print(*map(v, sys.argv[1:]))"
        )
        found = _output(str(_PYTHON), "-c", code, *packages).split()
        python = _output(str(_PYTHON), "-c", "import platform; print(platform.python_version())")
        return {"python": python, **dict(zip(packages, found, strict=True))}

    return read


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


_NODE = Path(shutil.which("node") or "node")
_SOCKET_IO = PEERS / "node_modules" / "socket.io"

SERVERS = {
    server.name: server
    for server in (
        Server("tokenwire", "tokenwire serve", _serve, _our_versions, _tokenwire()),
        Server(
            "tokenwire-fast",
            "tokenwire serve, the core compiled, on uvloop",
            _serve_fast,
            lambda: _our_versions("uvloop", "mypy"),
            _COMPILED / ".ready",
        ),
        Server(
            "node",
            "socket.io on Node",
            _javascript(_NODE, "socketio.mjs"),
            _javascript_versions(_NODE, "socket.io"),
            _SOCKET_IO,
        ),
        Server(
            "bun",
            "socket.io on Bun's engine",
            _bun("bun_engine.mjs"),
            _javascript_versions(_BUN, "socket.io", "@socket.io/bun-engine"),
            _BUN,
        ),
        Server(
            "bun-stock",
            "socket.io on Bun",
            _bun("socketio.mjs"),
            _javascript_versions(_BUN, "socket.io"),
            _BUN,
        ),
        Server(
            "uvicorn",
            "python-socketio on uvicorn",
            _python("on_uvicorn.py"),
            _python_versions("python-socketio", "uvicorn", "uvloop", "websockets", "httpx"),
            _PYTHON,
        ),
        Server(
            "aiohttp",
            "python-socketio on aiohttp",
            _python("on_aiohttp.py"),
            _python_versions("python-socketio", "aiohttp"),
            _PYTHON,
        ),
        Server(
            "forward",
            "a forwarder in C",
            lambda model: [str(PROGRAMS / "forward"), "--model", model],
            dict,
            PROGRAMS / "forward",
            polling=False,
        ),
    )
}
OURS = ("tokenwire", "tokenwire-fast")
"""As it is installed, and as fast as it gets."""
