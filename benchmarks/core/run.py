"""What the core's parts take, in time: each codec, and one token through all of it.

Rules of this file: pyperf measures, in processes of their own; a figure is the mean of theirs, with
its standard deviation. What is measured is what the token path, or a request, really has; state
that grows (a stream's log) is as the product bounds it.

    PYTHONPATH=tests .venv/bin/python benchmarks/core/run.py --inherit-environ PYTHONPATH --fast

`-o FILE` keeps the figures, for `pyperf compare_to`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pyperf
from cost.shapes import LINE, SHAPES, Flow
from tokenwire.ai import ollama
from tokenwire.ai.log import TokenLog
from tokenwire.http import frames
from tokenwire.http.chunks import ChunkedBody
from tokenwire.http.websocket import WebSocket
from tokenwire.testing.world import masked_frame
from tokenwire.wire import Binary, engineio, json, ndjson, socketio

EVENT = (
    b'2/ai,["ai:token",{"streamId":"s0","data":" token","agent":"Assistant","tokenCount":200,'
    b'"seq":200,"metadata":{"model":"codellama"}},"2g8-eVCR.1.1.1.200.1"]'
)
ASKED = (
    b'["ai:stream",{"prompt":"Explain this code","streamId":"s0",'
    b'"agentContext":{"activeFile":"App.js","openFiles":["App.js","main.js"]}}]'
)
KEY = b"\x01\x02\x03\x04"
MESSAGE = engineio.MESSAGE + EVENT
REQUEST = b"2/ai," + ASKED
LIMIT = 1_000_000
_TOKENS = 1_000  # in a log


class Operation(NamedTuple):
    """One row of the table."""

    name: str
    call: Callable[[], object]
    inner: int = 1
    """How many operations one call is."""


def codecs() -> list[Operation]:
    """Return the operations of each codec."""
    splitter = ndjson.LineSplitter(LIMIT)
    server = WebSocket(max_message=LIMIT, max_fragments=16)
    client = WebSocket(max_message=LIMIT, max_fragments=16, new_mask=lambda: KEY)
    guard = frames.SizeGuard(max_message=LIMIT, max_fragments=16)
    limits = socketio.Limits()
    packet = socketio.decode(REQUEST, limits)
    incoming = masked_frame(engineio.MESSAGE + REQUEST)
    hundred = [MESSAGE] * 100
    payload = engineio.encode_payload(hundred)
    binary = engineio.encode_payload([Binary(MESSAGE)])
    chunked = bytearray(b"%x\r\n%b\r\n0\r\n\r\n" % (len(MESSAGE), MESSAGE))
    line = LINE.rstrip()
    decode = partial(json.decode, ASKED, depth=32, containers=10_000)

    def grow() -> None:
        log = TokenLog()
        for _ in range(_TOKENS):
            log.append(b" token")

    full = TokenLog()
    for _ in range(_TOKENS):
        full.append(b" token")

    return [
        Operation("wire/ndjson: a line", partial(splitter.feed, LINE)),
        Operation("wire/ndjson: of 100 lines", partial(splitter.feed, LINE * 100), 100),
        Operation("ai/ollama: decode a line", partial(ollama.decode_line, line)),
        Operation("ai/log: append a token", grow, _TOKENS),
        Operation("ai/log: read a token", partial(full.text, 500, 500)),
        Operation("wire/json: encode a text", partial(json.encode, " token")),
        Operation("wire/json: encode a request", partial(json.encode, packet.data)),
        Operation("wire/json: decode a request", decode),
        Operation("wire/json: the same, lenient", partial(decode, lenient=True)),
        Operation("wire/socketio: encode a packet", partial(socketio.encode, packet)),
        Operation("wire/socketio: decode a packet", partial(socketio.decode, REQUEST, limits)),
        Operation("wire/engineio: encode, of 100", partial(engineio.encode_payload, hundred), 100),
        Operation(
            "wire/engineio: decode, of 100",
            partial(engineio.decode_payload, payload, max_packets=100),
            100,
        ),
        Operation(
            "wire/engineio: decode base64",
            partial(engineio.decode_payload, binary, max_packets=100),
        ),
        Operation("http/frames: a header", partial(frames.header, frames.TEXT, len(MESSAGE))),
        Operation("http/frames: masked", partial(frames.masked, frames.TEXT, MESSAGE, KEY)),
        Operation("http/frames: follow a frame", partial(guard.feed, incoming)),
        Operation("http/websocket: encode", partial(server.encode, [MESSAGE])),
        Operation("http/websocket: encode, of 100", partial(server.encode, hundred), 100),
        Operation("http/websocket: encode, masked", partial(client.encode, [MESSAGE])),
        Operation("http/websocket: receive", lambda: list(server.receive(incoming))),
        Operation("http/chunks: a body", lambda: ChunkedBody(LIMIT).feed(chunked, bytearray())),
    ]


def run(runner: pyperf.Runner) -> list[tuple[str, pyperf.Benchmark]]:
    """Measure all. Return what this process was told of it: a worker has one row."""
    measured = [
        (one.name, runner.bench_func(one.name, one.call, inner_loops=one.inner)) for one in codecs()
    ]
    for name, shape in SHAPES.items():
        title = f"a token: {name}"
        # A world is made where it is measured alone: each process comes by here for each row.
        flow = Lazy(partial(Flow, shape))
        measured.append((title, runner.bench_func(title, flow.write, inner_loops=shape.batch)))
    return [(name, result) for name, result in measured if result is not None]


class Lazy:
    """A Flow that is made when it is first used."""

    def __init__(self, new: Callable[[], Flow]) -> None:
        self._new = new
        self._flow: Flow | None = None

    def write(self) -> object:
        if self._flow is None:
            self._flow = self._new()
        return self._flow.write()


def main() -> None:
    runner = pyperf.Runner()
    measured = run(runner)
    if runner.args.worker or not measured:
        return
    wide = max(len(name) for name, _ in measured)
    print(f"\n{'operation':<{wide}}  {'ns':>9}  {'+-':>7}  {'least':>9}")
    for name, result in measured:
        mean, least = result.mean() * 1e9, min(result.get_values()) * 1e9
        spread = result.stdev() * 1e9 if result.get_nvalue() > 1 else 0.0
        print(f"{name:<{wide}}  {mean:9,.0f}  {spread:7,.0f}  {least:9,.0f}")


if __name__ == "__main__":
    main()
