"""How soon the model's connection is closed once nobody wants its text any more.

Rules of this file: from the moment that a client writes its `ai:cancel` (or is reset, or that a
limit is over) to the moment that the model server reads the end of its connection. Client, server
and model are threads of one process: what they make one another wait is in the figures.

    cd tests && ../.venv/bin/python -m runtimes.cancels --count 1000
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from runtimes.raw_client import RawClient, dial
from runtimes.scripted_ollama import (
    Gate,
    Head,
    Recorded,
    ScriptedOllama,
    Send,
    Step,
    running_ollama,
    token,
)
from runtimes.server_thread import LIMIT, RUNTIMES, Control, running_server
from tokenwire import Config

TARGET = 0.050
"""Seconds within which 99 of 100 are to be closed."""
CONFIG = Config(stream_starts_per_minute=1_000_000, messages_per_second=1_000_000)
"""No limit stands in the way."""
_SPAN = 500  # ms: of each limit that is waited for
_SMALL_BUFFER = 4 * 1024  # of a client's socket, so that a slow reader is felt soon
_FLOOD = tuple(Send(token(f"{number} ") * 8) for number in range(2_000))
_HEAVY = tuple(Send(token("x" * 1_000)) for _ in range(4_000))
_STILL = 0.1  # seconds in which a paused model has written nothing
_AT_ONCE = 10  # clients that wait for a limit together


# -- cancels ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """Where a stream is when it is cancelled."""

    script: Callable[[Gate], Sequence[Step]]
    reached: Callable[[RawClient, Gate, Recorded], None]
    receive_buffer: int | None = None


def _at_the_gate(client: RawClient, gate: Gate, request: Recorded) -> None:
    assert gate.reached.wait(LIMIT)


def _after_some_tokens(client: RawClient, gate: Gate, request: Recorded) -> None:
    for _ in range(20):
        client.expect("ai:token")


def _paused(client: RawClient, gate: Gate, request: Recorded) -> None:
    request.wait_held_up(_STILL)


STATES = {
    "before the headers": State(lambda gate: [gate], _at_the_gate),
    "before the first token": State(lambda gate: [Head(), gate], _at_the_gate),
    "in a line": State(lambda gate: [Send(token("a") + token("b")[:30]), gate], _at_the_gate),
    "streaming fast": State(lambda gate: _FLOOD, _after_some_tokens),
    "paused": State(lambda gate: _HEAVY, _paused, _SMALL_BUFFER),
}


def cancels(server: Control, ollama: ScriptedOllama, state: State, count: int) -> list[float]:
    """Cancel streams one after the other. Return the seconds that each took."""
    spans = []
    with RawClient(server.host, server.port, receive_buffer=state.receive_buffer) as client:
        for number in range(count):
            gate = Gate()
            ollama.default = state.script(gate)
            name = f"s{number}"
            client.stream("cancel me", streamId=name)
            request = ollama.request()
            state.reached(client, gate, request)
            began = time.monotonic()
            client.emit("ai:cancel", {"streamId": name})
            spans.append(_closed(request) - began)
            while client.expect("ai:stream:cancelled") != {"streamId": name}:
                pass
            client.log.clear()
    return spans


def _closed(request: Recorded) -> float:
    request.wait_closed()
    assert request.closed_at is not None
    return request.closed_at


# -- other ends ------------------------------------------------------------------------------------


@contextmanager
def _stalled(
    server: Control, ollama: ScriptedOllama, count: int
) -> Iterator[list[tuple[RawClient, Recorded, float]]]:
    """Clients with a stream each that has stalled, and when it was asked for."""
    with ExitStack() as stack:
        waiting = []
        for _ in range(count):
            gate = Gate()
            ollama.default = [Send(token("a")), gate]
            client = stack.enter_context(RawClient(server.host, server.port))
            asked = time.monotonic()
            client.stream("stall")
            assert gate.reached.wait(LIMIT)
            waiting.append((client, ollama.request(), asked))
        yield waiting


def client_gone(ollama: ScriptedOllama, runtime: str, count: int) -> list[float]:
    """Lose clients. Return the seconds beyond the time that they had to come back."""
    config = Config(reconnect_timeout=_SPAN)
    with (
        running_server(ollama.url, config, runtime=runtime) as server,
        _stalled(server, ollama, count) as waiting,
    ):
        lost = []
        for client, _, _ in waiting:
            lost.append(time.monotonic())
            client.reset()
        return [
            _closed(request) - at - _SPAN / 1000
            for (_, request, _), at in zip(waiting, lost, strict=True)
        ]


def timeout(ollama: ScriptedOllama, runtime: str, count: int) -> list[float]:
    """Let streams run out of time. Return the seconds beyond it."""
    config = Config(stream_timeout=_SPAN)
    with (
        running_server(ollama.url, config, runtime=runtime) as server,
        _stalled(server, ollama, count) as waiting,
    ):
        return [_closed(request) - asked - _SPAN / 1000 for _, request, asked in waiting]


def shutdown(ollama: ScriptedOllama, runtime: str, count: int) -> list[float]:
    """Shut down under running streams. Return the seconds beyond the time that they had to end."""
    config = Config(shutdown_timeout=_SPAN)
    with (
        running_server(ollama.url, config, runtime=runtime) as server,
        _stalled(server, ollama, count) as waiting,
    ):
        began = time.monotonic()
        server.shut_down()
        return [_closed(request) - began - _SPAN / 1000 for _, request, _ in waiting]


ENDS = {"client gone": client_gone, "timeout": timeout, "shutdown": shutdown}


def control(ollama: ScriptedOllama, count: int) -> list[float]:
    """Ask the model oneself, and close: what the machine, and not the server, takes."""
    spans = []
    for _ in range(count):
        gate = Gate()
        ollama.default = [gate]
        with dial(ollama.host, ollama.port) as asking:
            asking.sendall(b"POST /api/chat HTTP/1.1\r\n\r\n")
            assert gate.reached.wait(LIMIT)
            began = time.monotonic()
        spans.append(_closed(ollama.request()) - began)
    return spans


# -- the long run ----------------------------------------------------------------------------------


def p99(spans: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return sorted(spans)[max(0, -(-len(spans) * 99 // 100) - 1)]


def _row(name: str, spans: Sequence[float]) -> str:
    figures = (statistics.median(spans), p99(spans), max(spans))
    return f"| {name} | {len(spans)} | " + " | ".join(f"{1000 * x:.1f}" for x in figures) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how soon cancels reach the model.")
    parser.add_argument("--count", type=int, default=1_000, help="cancels with each runtime")
    count: int = parser.parse_args().count
    quick = True
    print("| runtime, state | times | median ms | p99 ms | worst ms |\n|---|---|---|---|---|")
    for runtime in RUNTIMES:
        whole: list[float] = []
        with running_ollama() as ollama:
            print(_row("closed by the client itself", control(ollama, count // len(STATES))))
            with running_server(ollama.url, CONFIG, runtime=runtime) as server:
                for name, state in STATES.items():
                    spans = cancels(server, ollama, state, count // len(STATES))
                    print(_row(f"{runtime}, {name}", spans), flush=True)
                    whole += spans
            print(_row(f"**{runtime}, all cancels**", whole), flush=True)
            quick = quick and p99(whole) <= TARGET
            for name, end in ENDS.items():
                spans = [x for _ in range(count // 100) for x in end(ollama, runtime, _AT_ONCE)]
                print(_row(f"{runtime}, {name}", spans), flush=True)
    return 0 if quick else 1


if __name__ == "__main__":
    sys.exit(main())
