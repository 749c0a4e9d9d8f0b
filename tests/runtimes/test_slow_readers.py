"""Readers that are slower than the model, on every runtime.

Rules of this file: those of `served.py`.
"""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from runtimes.raw_client import RawClient, ends
from runtimes.scripted_ollama import (
    ScriptedOllama,
    Send,
    burst,
    done,
)
from runtimes.served import (
    PIECE,
    PIECES,
    SMALL_BUFFER,
    Serve,
    blocked_model,
    connect,
    endless,
)
from runtimes.server_thread import LIMIT, Control
from tokenwire import Config, Server
from tokenwire.types import Millis, StreamId

_BETWEEN_READS = 0.02  # seconds: some 200 KB a second, slowly but steadily

# -- slow readers --------------------------------------------------------------------------------


def test_a_slow_reader_pauses_the_model_and_loses_nothing(
    server: Control, ollama: ScriptedOllama
) -> None:
    ollama.default = [*endless(), Send(done())]
    with connect(server, receive_buffer=SMALL_BUFFER) as client:
        client.stream("more than you can read")
        request = blocked_model(ollama)
        assert request.sent < 4_000_000, "what the server and the kernel hold is bounded"
        assert server.call(server.core.stats).bytes_held < 2_000_000
        text = client.read_stream()
        assert text == "".join(f"{number:05}{PIECE}" for number in range(PIECES))
    assert request.closed.wait(LIMIT)
    assert request.finished
    pressure = [payload for name, payload in client.log if name == "ai:backpressure"]
    assert all(payload["policy"] == "merge" for payload in pressure)
    assert server.call(server.core.stats).paused_ms > 0


def test_a_slow_reader_does_not_slow_others(server: Control, ollama: ScriptedOllama) -> None:
    ollama.scripts["slow"] = endless()
    with (
        connect(server, receive_buffer=SMALL_BUFFER) as slow,
        connect(server) as quick,
    ):
        slow.stream("slow")
        blocked_model(ollama)
        for _ in range(20):
            quick.stream("quick")
            assert quick.read_stream() == "Hello, world"


def test_an_unpaced_model_holds_the_loop_for_moments_only(
    serve: Serve, ollama: ScriptedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(Config(messages_per_second=100_000, message_burst=100_000))
    # In CPU time of the loop's thread: a busy machine stops threads for as long as it likes. What
    # the loop does from one piece of the answer to the next is what another client waits for.
    turns: list[float] = []
    receive = Server.receive_upstream

    def receive_upstream(core: Server, stream: StreamId, data: bytes, now: Millis) -> None:
        turns.append(time.thread_time())
        receive(core, stream, data, now)

    monkeypatch.setattr(Server, "receive_upstream", receive_upstream)
    shortest = b'{"message":{"content":"x"},"done":false}\n'
    ollama.scripts["fast"] = [*[Send(shortest * 1_500)] * 40, Send(done())]

    def read(fast: RawClient) -> None:
        seen = b""
        while b'"ai:done"' not in seen:
            seen = seen[-100:] + fast.socket.recv(65_536)

    def held() -> float:
        """Return for how long the loop was held by 99 of 100 pieces, in seconds."""
        turns.clear()
        acks = 0
        with connect(server) as fast, connect(server) as other, ThreadPoolExecutor() as pool:
            fast.stream("fast")
            reading = pool.submit(read, fast)
            while not reading.done():
                other.emit("ai:heartbeat", {})
                other.expect("ai:heartbeat:ack")
                acks += 1
            reading.result(LIMIT)
        assert acks > 10
        spent = sorted(after - before for before, after in itertools.pairwise(turns))
        assert len(spent) > 100
        return spent[len(spent) * 99 // 100]

    # Other work on the machine slows it down as well: what holds the loop holds it each time.
    assert any(held() < 0.010 for _ in range(3))


def test_a_reader_that_takes_nothing_is_detached_and_one_that_is_slow_is_not(
    serve: Serve, ollama: ScriptedOllama
) -> None:
    server = serve(Config(slow_consumer_timeout=700))
    ollama.default = endless()
    with (
        connect(server, receive_buffer=SMALL_BUFFER) as stuck,
        connect(server, receive_buffer=SMALL_BUFFER) as slow,
    ):
        stuck.stream("stuck")
        slow.stream("slow")
        until = time.monotonic() + LIMIT
        while not server.call(lambda: server.core.stats().detaches):
            assert time.monotonic() < until
            assert slow.socket.recv(4_096)
            time.sleep(_BETWEEN_READS)
        for _ in range(100):  # for three times as long again
            assert slow.socket.recv(4_096)
            time.sleep(_BETWEEN_READS)
        assert ends(stuck.socket)
        stats = server.call(server.core.stats)
        assert (stats.detaches, stats.total_sessions, stats.total_active_streams) == (1, 1, 2)


def test_cancel_closes_a_paused_models_connection(server: Control, ollama: ScriptedOllama) -> None:
    ollama.default = endless()
    with connect(server, receive_buffer=SMALL_BUFFER) as client:
        client.stream("slow")
        request = blocked_model(ollama)
        client.emit("ai:cancel", {"streamId": "s"})
        request.wait_closed()
        client.expect("ai:stream:cancelled")
        client.emit("ai:heartbeat", {})
        assert client.read_event()[0] == "ai:heartbeat:ack"


def test_a_lost_slow_reader_closes_a_paused_models_connection(
    serve: Serve, ollama: ScriptedOllama
) -> None:
    server = serve(Config(reconnect_timeout=200))
    ollama.default = endless()
    client = connect(server, receive_buffer=SMALL_BUFFER)
    client.stream("slow")
    request = blocked_model(ollama)
    client.reset()
    request.wait_closed()


def test_the_streams_timeout_closes_a_paused_models_connection(
    serve: Serve, ollama: ScriptedOllama
) -> None:
    server = serve(Config(stream_timeout=800))
    ollama.default = endless()
    with connect(server, receive_buffer=SMALL_BUFFER) as client:
        client.stream("slow")
        request = ollama.request()
        request.wait_closed()
        assert client.expect("ai:stream:error")["code"] == "stream_timeout"


def test_the_models_silence_does_not_count_while_it_is_paused(
    serve: Serve, ollama: ScriptedOllama
) -> None:
    server = serve(Config(idle_timeout=1_500))  # the model's thread may wait for the CPU as well
    ollama.default = [*endless(), Send(done())]
    with connect(server, receive_buffer=SMALL_BUFFER) as client:
        client.stream("slow")
        blocked_model(ollama)
        time.sleep(2.0)  # longer than idle_timeout: nothing must happen, and nothing tells so
        assert len(client.read_stream()) == PIECES * (5 + len(PIECE))


def test_a_slow_reader_gets_the_rest_of_an_ended_stream(
    serve: Serve, ollama: ScriptedOllama
) -> None:
    """The grace period of an ended stream is for a client that is away, not for a slow one."""
    server = serve(
        Config(
            reconnect_timeout=200,
            backpressure_threshold=10_000,
            outbox_bytes=64_000_000,
            log_bytes=64_000_000,
        )
    )
    texts = [f"{number:05}{PIECE}" for number in range(3_000)]
    ollama.default = burst(*texts)
    with connect(server, receive_buffer=SMALL_BUFFER) as client:
        client.stream("slow")
        request = ollama.request()
        assert request.closed.wait(LIMIT)
        time.sleep(0.5)  # longer than reconnect_timeout: nothing must happen, and nothing tells so
        assert client.read_stream() == "".join(texts)
