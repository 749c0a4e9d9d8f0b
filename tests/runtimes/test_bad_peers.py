"""Bad peers and failing programs, on every runtime.

Rules of this file: those of `served.py`.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenwire_anyio
import tokenwire_asyncio
from runtimes.raw_client import WebSocket, dial, ends, http, read_answer, reset
from runtimes.scripted_ollama import (
    Gate,
    ScriptedOllama,
    Send,
    line,
    say,
    token,
)
from runtimes.served import connect, still_serves
from runtimes.server_thread import LIMIT, Control, SystemIds, running_server
from tokenwire import Config, Server
from tokenwire.types import Request, Response

# -- bad peers -----------------------------------------------------------------------------------


def handshake(server: Control) -> str:
    """Open a polling session and return its sid."""
    status, body = http(server.host, server.port, "GET", "/socket.io/?EIO=4&transport=polling")
    assert status == 200
    sid: str = json.loads(body[1:])["sid"]
    return sid


def reset_before_a_byte(server: Control) -> None:
    reset(dial(server.host, server.port))


def reset_in_the_head(server: Control) -> None:
    dialled = dial(server.host, server.port)
    dialled.sendall(b"GET /socket.io/?EIO=4&transp")
    reset(dialled)


def reset_in_the_body(server: Control) -> None:
    sid = handshake(server)
    dialled = dial(server.host, server.port)
    head = f"POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\n"
    dialled.sendall(f"{head}Content-Length: 100\r\n\r\n42".encode())
    reset(dialled)


def reset_before_the_answer(server: Control) -> None:
    dialled = dial(server.host, server.port)
    dialled.sendall(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n")
    reset(dialled)


def reset_in_a_poll(server: Control) -> None:
    sid = handshake(server)
    dialled = dial(server.host, server.port)
    head = f"GET /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\n\r\n"
    dialled.sendall(head.encode())
    reset(dialled)


def reset_in_an_upgrade(server: Control) -> None:
    sid = handshake(server)
    websocket = WebSocket(server.host, server.port, query=f"&sid={sid}")
    websocket.send_text("2probe")
    assert websocket.read_text() == "3probe"
    reset(websocket.socket)


def reset_in_a_frame(server: Control) -> None:
    client = connect(server)
    client.socket.sendall(b"\x81\xfe\x10\x00\x01\x02")
    reset(client.socket)


def reset_right_after_a_request(server: Control) -> None:
    client = connect(server)
    client.stream("bye")
    reset(client.socket)


def half_close_in_the_head(server: Control) -> None:
    with dial(server.host, server.port) as dialled:
        dialled.sendall(b"GET /socket.io/?EIO=4")
        dialled.shutdown(socket.SHUT_WR)
        assert ends(dialled)


def half_close_a_websocket(server: Control) -> None:
    with connect(server) as client:
        client.socket.shutdown(socket.SHUT_WR)
        assert ends(client.socket)


BREAKS = {
    work.__name__: work
    for work in (
        reset_before_a_byte,
        reset_in_the_head,
        reset_in_the_body,
        reset_before_the_answer,
        reset_in_a_poll,
        reset_in_an_upgrade,
        reset_in_a_frame,
        reset_right_after_a_request,
        half_close_in_the_head,
        half_close_a_websocket,
    )
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_connection_lost_at_an_odd_moment_harms_nobody(
    server: Control, ollama: ScriptedOllama, how: str
) -> None:
    gate = Gate()
    ollama.scripts["long"] = [Send(token("before ")), gate, *say("after")]
    with connect(server) as other:
        other.stream("long")
        other.expect("ai:token")
        for _ in range(3):
            BREAKS[how](server)
        still_serves(server, ollama)
        gate.open()
        assert other.read_stream() == "after"


GARBAGE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "a bad header": b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two lengths": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"
    ),
    "a length and chunks": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n"
    ),
    "a bad chunk": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_gets_400_and_others_go_on(
    server: Control, ollama: ScriptedOllama, case: str
) -> None:
    gate = Gate()
    ollama.scripts["long"] = [Send(token("before ")), gate, *say("after")]
    with connect(server) as other:
        other.stream("long")
        other.expect("ai:token")
        with dial(server.host, server.port) as dialled:
            dialled.sendall(GARBAGE[case])
            status, body = read_answer(dialled)
            assert status == 400
            assert b"Traceback" not in body
            assert ends(dialled)
        gate.open()
        assert other.read_stream() == "after"


# -- the program's own requests ------------------------------------------------------------------


def test_the_program_answers_other_paths(server: Control) -> None:
    status, body = http(server.host, server.port, "GET", "/healthz?full=1")
    assert status == 200
    assert json.loads(body) == {"status": "ok", "method": "GET", "query": "full=1"}
    assert http(server.host, server.port, "GET", "/nowhere") == (404, b"")


def test_the_program_answers_many_requests_on_one_connection(server: Control) -> None:
    with dial(server.host, server.port) as dialled:
        for number in range(3):
            request = f"GET /healthz?{number} HTTP/1.1\r\nHost: x\r\n\r\n"
            dialled.sendall(request.encode())
            status, body = read_answer(dialled)
            assert (status, json.loads(body)["query"]) == (200, str(number))


def fails(output: object) -> None:
    raise KeyError("a fault of the program's")


@pytest.mark.parametrize("bad", [fails, lambda request: Response(7)])
def test_a_program_that_fails_to_answer(
    runtime: str,
    ollama: ScriptedOllama,
    caplog: pytest.LogCaptureFixture,
    bad: Callable[[Request], Response],
) -> None:
    with running_server(ollama.url, runtime=runtime, respond=bad) as server:
        assert http(server.host, server.port, "GET", "/healthz") == (500, b"")
        still_serves(server, ollama)
    assert [record.getMessage() for record in caplog.records] == ["the program's respond raised"]


def test_callbacks_that_raise_harm_nobody(
    runtime: str, ollama: ScriptedOllama, caplog: pytest.LogCaptureFixture
) -> None:
    with running_server(ollama.url, runtime=runtime, handle=fails, notify=fails) as server:
        with WebSocket(server.host, server.port) as client:
            assert client.read_text().startswith("0{")
            client.send_text("40")
            assert client.read_text().startswith("40{")
        still_serves(server, ollama)
    said = {record.getMessage() for record in caplog.records if record.exc_info}
    assert said == {"the program's handle raised", "the program's notify raised"}


@pytest.mark.parametrize("url", ["", "localhost:11434", "ftp://host", "http://", "http://h:port"])
@pytest.mark.parametrize("made", [tokenwire_asyncio.Runtime, tokenwire_anyio.Runtime])
def test_an_address_that_is_none(
    made: type[tokenwire_asyncio.Runtime | tokenwire_anyio.Runtime], url: str
) -> None:
    with pytest.raises(ValueError, match="upstream_url must be"):
        made(Server(Config(), ids=SystemIds()), upstream_url=url)


NO_DESCRIPTORS = """
import resource, anyio
from runtimes.server_thread import SystemIds
from tokenwire import Config, Server
from tokenwire_anyio import Runtime

async def main():
    runtime = Runtime(Server(Config(), ids=SystemIds()))
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(runtime.run, "127.0.0.1", 0)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        print(port, flush=True)
        await anyio.to_thread.run_sync(input)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

anyio.run(main, backend="{backend}")
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio_goes_on_after_it_had_no_descriptors(backend: str) -> None:
    with subprocess.Popen(
        (sys.executable, "-c", NO_DESCRIPTORS.format(backend=backend)),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with dial("127.0.0.1", port) as dialled:
                dialled.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                dialled.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    dialled.recv(1)
                process.stdin.write("\n")
                process.stdin.flush()
                dialled.settimeout(LIMIT)
                assert read_answer(dialled)[0] == 404
        finally:
            process.kill()


def test_a_new_line_of_the_model_is_no_line_of_another(
    server: Control, ollama: ScriptedOllama
) -> None:
    """Many streams at once, each model writing half lines: nothing gets mixed up."""
    gates = [Gate() for _ in range(8)]
    for number, gate in enumerate(gates):
        data = token(f"<{number}>" * 50)
        ollama.scripts[f"half {number}"] = [
            Send(data[:40]),
            gate,
            Send(data[40:] + line(response="", done=True, done_reason="stop")),
        ]
    with connect(server) as client:
        for number, gate in enumerate(gates):
            client.stream(f"half {number}", streamId=f"s{number}")
            assert gate.reached.wait(LIMIT)
        for gate in reversed(gates):
            gate.open()
        texts: dict[str, str] = {}
        while len([name for name, _ in client.log if name == "ai:done"]) < len(gates):
            name, payload = client.read_event()
            if name == "ai:token":
                texts[payload["streamId"]] = texts.get(payload["streamId"], "") + payload["data"]
    assert texts == {f"s{number}": f"<{number}>" * 50 for number in range(8)}
