"""`tokenwire demo`: a small embedded model behind Ollama's API, and the server with its page.

Rules of this file: the model server is a process of its own, so that the demo takes the same path
as production, and a crash of the model is not the server's. Its contract: it prints one line whose
last word is its address when it is ready, or one line on standard error and ends; it ends when its
standard input does.
"""

import asyncio
import contextlib
import re
import sys
from asyncio.subprocess import PIPE, Process

import msgspec

from tokenwire_cli import logs
from tokenwire_cli.serve import Stop, run_until_signal, serve_until
from tokenwire_cli.settings import Settings

START_LIMIT = 30.0
"""Seconds that the model may take to load; it takes one on two cores."""

STOP_LIMIT = 5.0
"""Seconds that the model server may take to end before it is killed."""


def demo(settings: Settings) -> int:
    """Run the demo until SIGINT or SIGTERM, and return the exit code."""
    return run_until_signal(lambda stop: _demo(stop, settings), settings.event_loop)


async def _demo(stop: Stop, settings: Settings) -> int:
    if settings.ollama_base_url != Settings().ollama_base_url:
        logs.log(
            "warning",
            "ollama_base_url_ignored",
            message="the demo has its own model server; for another: tokenwire serve --page",
        )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tokenwire_ollama",
        "--port",
        "0",
        "--exit-with-parent",
        stdin=PIPE,  # held open and never written: it closes when we are gone, however we went
        stdout=PIPE,
        # Its own session: Ctrl-C in a terminal reaches only us, so that running streams end as the
        # server's shutdown wants, not with a dead model.
        start_new_session=True,
    )
    try:
        address = await _address(process, stop)
        if address is None:
            return 0
        settings = msgspec.structs.replace(settings, ollama_base_url=address)
        watch = asyncio.create_task(_watch(process))
        try:
            return await serve_until(
                stop,
                settings,
                page=True,
                last_line="Open {page} in a browser. Ctrl-C stops.",
            )
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
    except _NotStarted as error:
        print(f"tokenwire: {error}", file=sys.stderr)
        return 1
    finally:
        await _end(process)


class _NotStarted(Exception):
    """The model server is not there; the text says why."""


async def _address(process: Process, stop: Stop) -> str | None:
    """Return the address that the model server prints, or None when `stop` came first."""
    assert process.stdout is not None
    line = asyncio.ensure_future(process.stdout.readline())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait(
            (line, stopped), timeout=START_LIMIT, return_when=asyncio.FIRST_COMPLETED
        )
        if stop.is_set():
            return None
        if not line.done():
            raise _NotStarted(f"the model was not ready after {START_LIMIT:.0f} seconds")
        try:
            said = line.result()
        except ValueError:  # longer than the reader's limit
            said = b"?"
        text = said.decode("ascii", "replace").strip()
        if match := re.fullmatch(r"(?:.* )?(http://127\.0\.0\.1:[0-9]{1,5})", text):
            return match[1]
        if said:
            raise _NotStarted("the model server did not print its address")
        # Its output has ended, so it is about to end, if it is not broken altogether.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_LIMIT)
        raise _NotStarted(
            f"the model server ended at once (exit code {process.returncode}): see above"
        )
    finally:
        for task in (line, stopped):
            task.cancel()


async def _watch(process: Process) -> None:
    """Log the end of the model server; the server itself tells the clients."""
    assert process.stdout is not None
    while await process.stdout.read(65_536):  # a full pipe would block it
        pass
    code = await process.wait()
    logs.log(
        "warning",
        "model_server_ended",
        (("code", code),),
        message="the embedded model has ended: requests will fail until the demo is restarted",
    )


async def _end(process: Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_LIMIT)
    except TimeoutError:
        process.kill()
        await process.wait()
