"""`tokenwire demo` with scripted model servers: it starts, it does not, it dies.

Rules of this file: a model server is a module `tokenwire_ollama` in a folder that comes first on
the path; it does what a line of Python says.
"""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli.program import LIMIT, Process, environment, line, rest, running

READY = "print('tiny model: http://127.0.0.1:9', flush=True)"  # port 9: nobody answers
FOREVER = "while sys.stdin.readline(): pass"


@contextmanager
def demo(folder: Path, script: str, *flags: str) -> Iterator[Process]:
    """Run the demo with a model server that runs `script`, and writes its process id to a file."""
    package = folder / "tokenwire_ollama"
    package.mkdir()
    package.joinpath("__init__.py").touch()
    package.joinpath("__main__.py").write_text(
        "import os, pathlib, signal, sys, time\n"
        f"pathlib.Path({str(folder)!r}, 'pid').write_text(str(os.getpid()))\n"
        f"pathlib.Path({str(folder)!r}, 'argv').write_text(' '.join(sys.argv[1:]))\n" + script
    )
    arguments = ("-m", "tokenwire_cli", "demo", "--port=0", *flags)
    with running(arguments, environment(folder)) as process:
        yield process


def wait_for(path: Path) -> str:
    """Return the text of a file once it is there."""
    limit = time.monotonic() + LIMIT
    while not (path.exists() and (text := path.read_text())):
        assert time.monotonic() < limit
        time.sleep(0.01)
    return text


def is_gone(folder: Path) -> bool:
    """Tell whether the model server has ended."""
    try:
        os.kill(int(folder.joinpath("pid").read_text()), 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (
            "sys.exit('tokenwire_ollama: no model')",
            "tokenwire_ollama: no model\n"
            "tokenwire: the model server ended at once (exit code 1): see above\n",
        ),
        (
            "print('hello', flush=True)\n" + FOREVER,
            "tokenwire: the model server did not print its address\n",
        ),
        (
            "print(flush=True)\n" + FOREVER,
            "tokenwire: the model server did not print its address\n",
        ),
        (
            "print('http://192.0.2.1:80', flush=True)\n" + FOREVER,
            "tokenwire: the model server did not print its address\n",
        ),
        (
            "print('x' * 200_000, flush=True)\n" + FOREVER,
            "tokenwire: the model server did not print its address\n",
        ),
    ],
)
def test_a_model_server_that_does_not_start(script: str, error: str, tmp_path: Path) -> None:
    with demo(tmp_path, script) as process:
        assert rest(process) == (1, "", error)
    assert is_gone(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_model_loads(number: signal.Signals, tmp_path: Path) -> None:
    with demo(tmp_path, FOREVER) as process:
        wait_for(tmp_path / "argv")
        process.send_signal(number)
        assert rest(process) == (0, "", "")
    assert is_gone(tmp_path)


def test_it_asks_for_a_free_port_and_for_the_end_with_its_parent(tmp_path: Path) -> None:
    with demo(tmp_path, "sys.exit(3)") as process:
        assert rest(process)[0] == 1
    assert tmp_path.joinpath("argv").read_text() == "--port 0 --exit-with-parent"


def test_its_input_closes_when_we_are_killed(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    with demo(tmp_path, f"{FOREVER}\npathlib.Path({str(ended)!r}).write_text('yes')") as process:
        wait_for(tmp_path / "argv")
        process.kill()
        process.wait()
        assert wait_for(ended) == "yes"


# -- with the runtime ----------------------------------------------------------------------------


def started(process: Process, model: str = "smollm2:135m") -> None:
    """Read the banner."""
    first = line(process)
    match = re.fullmatch(r"AI Streaming WebSocket: ws://localhost:(\d+)/ai", first)
    assert match, (first, rest(process))
    assert line(process) == f"Model server: http://127.0.0.1:9 (default model {model})"
    assert line(process) == f"Open http://localhost:{match[1]}/ in a browser. Ctrl-C stops."


def test_the_banner_and_a_proper_stop(tmp_path: Path) -> None:
    with demo(tmp_path, f"{READY}\n{FOREVER}", "--ollama-default-model=tiny") as process:
        started(process, "tiny")
        process.send_signal(signal.SIGINT)
        code, out, err = rest(process)
    assert (code, out) == (0, "")
    assert "Traceback" not in err
    assert "model_server_ended" not in err
    assert is_gone(tmp_path)


def test_a_model_server_that_dies_later(tmp_path: Path) -> None:
    with demo(tmp_path, f"{READY}; sys.exit(5)") as process:
        started(process)
        assert process.stderr is not None
        for found in process.stderr:
            if " warning model_server_ended " in found:
                assert found.endswith(" code=5\n")
                break
        assert process.poll() is None
        process.terminate()
        assert rest(process)[0] == 0


def test_an_address_of_ones_own_is_ignored_aloud(tmp_path: Path) -> None:
    flag = "--ollama-base-url=http://127.0.0.1:1"
    with demo(tmp_path, "sys.exit(3)", flag) as process:
        assert " warning ollama_base_url_ignored " in rest(process)[2]
