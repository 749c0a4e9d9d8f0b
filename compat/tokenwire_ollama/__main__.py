"""`python -m tokenwire_ollama`: the embedded model behind Ollama's API.

Rules of this file: stdout carries one line, when the server is ready, and its last word is the
address; everything else goes to stderr. Exit status 0 after SIGINT, SIGTERM or the parent's end,
1 with one line on stderr where it cannot start.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

from tokenwire_ollama.api import MODEL_NAME
from tokenwire_ollama.model import EmbeddedModel, ModelUnavailable, load
from tokenwire_ollama.server import OllamaServer

_STOPPING = (signal.SIGINT, signal.SIGTERM)


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: None: the process's own.

    Returns:
        The exit status.
    """
    chosen = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # The engine installs handlers of its own while it loads. Signals wait until ours are back;
    # its threads inherit the mask, so that they never get one.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        model = load(parallel=chosen.parallel)
    except ModelUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    try:
        asyncio.run(_serve(model, chosen))
    except OSError as error:
        print(f"cannot listen: {error.strerror}", file=sys.stderr)
        return 1
    return 0


async def _serve(model: EmbeddedModel, chosen: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in _STOPPING:
        loop.add_signal_handler(number, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    server = OllamaServer(model, fallback=chosen.fallback)
    try:
        address = await server.start(chosen.host, chosen.port)
        print(f"{MODEL_NAME} behind Ollama's API: {address}", flush=True)
        if chosen.exit_with_parent:
            _when_stdin_ends(lambda: loop.call_soon_threadsafe(stop.set))
        await stop.wait()
    finally:
        await server.close()
        await model.close()


def _when_stdin_ends(act: Callable[[], object]) -> None:
    """Call `act` from a thread when stdin ends: the parent holds its other end."""

    def wait() -> None:
        # Not sys.stdin, whose lock a thread that still reads would hold at exit.
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        act()

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tokenwire_ollama",
        description=f"Serve {MODEL_NAME} from this process behind Ollama's HTTP API.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    parser.add_argument(
        "--port", type=_port, default=11435, help="port; 0 picks a free one (%(default)s)"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        choices=range(1, 9),
        default=4,
        help="generations that run side by side, more wait (%(default)s)",
    )
    parser.add_argument(
        "--no-fallback",
        dest="fallback",
        action="store_false",
        help="answer 404 to other models' names instead of answering for them",
    )
    parser.add_argument("--exit-with-parent", action="store_true", help="exit when stdin ends")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise ValueError(port)
    return port


if __name__ == "__main__":
    sys.exit(main())
