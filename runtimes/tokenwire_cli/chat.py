"""`tokenwire chat`: talk to a server from the terminal.

Rules of this file: the answer goes to standard output, everything else to standard error. Ctrl-C
cancels a running answer; without one, a second time, or without a connection it ends the program.
After a lost connection the answer goes on from the last token that was shown. A terminal gets no
control characters from the model.
"""

import asyncio
import os
import re
import signal
import sys
import threading
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from tokenwire import LocalProtocolError
from tokenwire.client import (
    ConnectError,
    ConnectFailed,
    Event,
    Joined,
    Left,
    Reconnecting,
    Refused,
)
from tokenwire_asyncio.client import ClientSocket, connect

from tokenwire_cli.logs import escaped

_PROMPT = "> "
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 without \t and \n, DEL, C1

T = TypeVar("T")


def chat(url: str, prompt: str | None, request: Mapping[str, object]) -> int:
    """Talk to a server.

    Args:
        url: the server's namespace, `http://localhost:3000/ai`.
        prompt: one question; None: ask for questions until the end of standard input.
        request: further fields of each `ai:stream` (model, temperature ...).

    Returns:
        The exit code: 0; 1 if the server could not be reached or an answer failed; 2 for a prompt
        that cannot be sent; 130 after a
        Ctrl-C that ends the program.
    """
    try:
        return asyncio.run(_chat(url, prompt, request))
    except (ConnectError, ValueError) as error:
        _say(f"tokenwire: {escaped(str(error))} (is the server running? {escaped(url)})")
        return 1
    except LocalProtocolError as error:
        _say(f"tokenwire: the prompt cannot be sent: {escaped(str(error))}")
        return 2
    except BrokenPipeError:  # `| head`: nobody reads the rest; nor is there one to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def harmless(text: str) -> str:
    """Return the text without the characters that could drive a terminal."""
    return _CONTROLS.sub("", text)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def _chat(url: str, prompt: str | None, request: Mapping[str, object]) -> int:
    async with connect(url, reconnect_attempts=None if prompt is None else 10) as socket:
        conversation = _Conversation(socket, dict(request))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, conversation.interrupt)
        if prompt is not None:
            await conversation.unless_ended(conversation.ask(prompt))
            return conversation.exit_code
        lines: asyncio.Queue[str | None] = asyncio.Queue()
        threading.Thread(target=_read_lines, args=(loop, lines), daemon=True).start()
        while not conversation.over:
            print(_PROMPT, end="", file=sys.stderr, flush=True)
            line = await conversation.unless_ended(lines.get())
            if line is None:
                break
            if line.strip():
                await conversation.unless_ended(conversation.ask(line.strip()))
        return conversation.exit_code


def _read_lines(loop: asyncio.AbstractEventLoop, lines: "asyncio.Queue[str | None]") -> None:
    """Hand on standard input. A thread of its own: a terminal cannot be waited for otherwise."""
    with suppress(RuntimeError):  # the loop has ended
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, None)


class _Conversation:
    """One connection to a server, one answer at a time."""

    def __init__(self, socket: ClientSocket, request: dict[str, object]) -> None:
        self.exit_code = 0
        self.over = False
        self._socket = socket
        self._request = request
        self._client_id: str | None = None
        self._stream: str | None = None
        self._epoch: str | None = None
        self._seq = 0
        self._running = False
        self._cancelling = False
        self._interrupted = asyncio.Event()
        self._terminal = sys.stdout.isatty()

    def interrupt(self) -> None:
        """Ctrl-C."""
        answering = self._running and self._stream is not None and self._socket.sid is not None
        if answering and not self._cancelling:
            self._cancelling = True
            self._socket.emit("ai:cancel", {"streamId": self._stream})
            _say("\n[cancelling; Ctrl-C again ends the program]")
        else:
            self.over = True
            self.exit_code = 130
            self._interrupted.set()

    async def unless_ended(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what `work` returns; None after a Ctrl-C that ends the program."""
        working = asyncio.ensure_future(work)
        ended = asyncio.ensure_future(self._interrupted.wait())
        done, waiting = await asyncio.wait((working, ended), return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return working.result() if working in done else None

    async def ask(self, prompt: str) -> None:
        """Send a prompt and show the answer as it comes."""
        self._running, self._cancelling = True, False
        self._stream, self._epoch, self._seq = None, None, 0
        self._socket.emit("ai:stream", {**self._request, "prompt": prompt})
        async for event in self._socket:
            match event:
                case Event():
                    self._take(event)
                case Joined():
                    _say("[connected again]")
                case Left():
                    _say(f"\n[connection lost: {escaped(event.reason)}]")
                    if event.reason == "io server disconnect":
                        self.over, self.exit_code = True, 1
                        return
                case Reconnecting():
                    _say(f"[attempt {event.attempt} in {event.delay / 1000:.1f} s]")
                case ConnectFailed() | Refused():
                    self.exit_code = 1
            if not self._running:
                return
        _say("[the server cannot be reached any more]")
        self.over, self.exit_code = True, 1

    def _take(self, event: Event) -> None:
        data = event.args[0] if event.args else None
        if not isinstance(data, dict):
            return
        match event.name:
            case "ai:connected":
                self._hello(data)
            case "ai:stream:start":
                self._stream, self._epoch = str(data.get("streamId")), data.get("epoch")
            case "ai:token":
                self._token(data)
            case "ai:done":
                print(flush=True)
                self._running = False
            case "ai:stream:cancelled":
                _say("\n[cancelled]")
                self._running = False
            case "ai:error" | "ai:stream:error":
                _say(f"\n[{escaped(str(data.get('code')))}: {escaped(str(data.get('error')))}]")
                # A server that shuts down says so without a streamId, and lets the answer finish.
                lost = data.get("code") == "reconnect_failed"
                if lost or self._stream is None or data.get("streamId") == self._stream:
                    self.exit_code = 1
                    self._running = False
            case "ai:backpressure":
                _say("\n[this terminal is slower than the model]")
            case _:
                pass

    def _hello(self, data: dict[str, object]) -> None:
        previous, self._client_id = self._client_id, str(data.get("clientId"))
        if previous is not None and not data.get("recovered"):
            streams = {}
            if self._stream is not None:
                streams[self._stream] = {"seq": self._seq, "epoch": self._epoch}
            self._socket.emit("ai:reconnect", {"previousClientId": previous, "streams": streams})

    def _token(self, data: dict[str, object]) -> None:
        seq = data.get("seq")
        if data.get("streamId") != self._stream or not isinstance(seq, int) or seq <= self._seq:
            return
        self._seq = seq
        text = str(data.get("data"))
        print(harmless(text) if self._terminal else text, end="", flush=True)
