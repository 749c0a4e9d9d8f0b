"""`tokenwire chat` as a process, against `tokenwire serve` and a scripted model."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cli.program import Process, line, rest, running, taken_port
from runtimes.scripted_ollama import Gate, ScriptedOllama, Send, say, token
from tokenwire_cli.chat import harmless


@contextmanager
def serving(ollama: ScriptedOllama) -> Iterator[tuple[Process, str]]:
    """`tokenwire serve` and the URL to talk to."""
    arguments = ("-m", "tokenwire_cli", "serve", "--port=0", f"--ollama-base-url={ollama.url}")
    with running(arguments) as process:
        match = re.search(r"ws://localhost:(\d+)/ai", line(process))
        assert match
        yield process, f"http://127.0.0.1:{match[1]}/ai"


@contextmanager
def chatting(url: str, *arguments: str) -> Iterator[Process]:
    whole = ("-m", "tokenwire_cli", "chat", f"--url={url}", "--direct", *arguments)
    with running(whole, stdin=subprocess.PIPE) as process:
        yield process


@pytest.fixture
def url(ollama: ScriptedOllama) -> Iterator[str]:
    with serving(ollama) as (_, address):
        yield address


def said(process: Process, words: str) -> None:
    """Wait until a line of standard error has the words."""
    assert process.stderr is not None
    for text in process.stderr:
        if words in text:
            return
    raise AssertionError(f"{words!r} was not said")


def begins(process: Process, text: str) -> None:
    """Wait until the answer begins with this text."""
    assert process.stdout is not None
    assert process.stdout.read(len(text)) == text


def stalling() -> list[Send | Gate]:
    return [Send(token("half an answer")), Gate()]


def test_one_prompt(url: str) -> None:
    with chatting(url, "hello") as chat:
        assert rest(chat) == (0, "Hello, world\n", "")


def test_piped_prompts(url: str, ollama: ScriptedOllama) -> None:
    ollama.scripts["two"] = say("second\x1b[2J")
    with chatting(url) as chat:
        assert chat.stdin is not None
        chat.stdin.write("one\n\ntwo\n")
        code, out, err = rest(chat)
    assert (code, out) == (0, "Hello, world\nsecond\x1b[2J\n"), "a pipe gets the text as it is"
    assert err == "> > > > "


def test_the_server_is_down() -> None:
    with taken_port(listening=False) as port, chatting(f"http://127.0.0.1:{port}/ai", "x") as chat:
        code, out, err = rest(chat)
    assert (code, out) == (1, "")
    assert err.startswith("tokenwire: cannot connect")
    assert err.count("\n") == 1


def test_ctrl_c_cancels_an_answer(url: str, ollama: ScriptedOllama) -> None:
    ollama.default = stalling()
    with chatting(url) as chat:
        assert chat.stdin is not None
        chat.stdin.write("one\n")
        chat.stdin.flush()
        begins(chat, "half an answer")
        chat.send_signal(signal.SIGINT)
        said(chat, "[cancelled]")
        ollama.request().wait_closed()
        ollama.scripts["two"] = say("second")
        chat.stdin.write("two\n")
        code, out, err = rest(chat)
    assert (code, out) == (0, "second\n")
    assert "Traceback" not in err


def test_ctrl_c_without_an_answer_ends(url: str) -> None:
    with chatting(url) as chat:
        assert chat.stdin is not None
        chat.stdin.write("one\n")
        chat.stdin.flush()
        begins(chat, "Hello, world\n")
        chat.send_signal(signal.SIGINT)
        code, _, err = rest(chat)
    assert code == 130
    assert err == "> > "


def test_a_second_ctrl_c_ends(ollama: ScriptedOllama) -> None:
    ollama.default = stalling()
    with serving(ollama) as (server, url), chatting(url, "one") as chat:
        begins(chat, "half an answer")
        server.send_signal(signal.SIGSTOP)  # it does not answer
        chat.send_signal(signal.SIGINT)
        said(chat, "[cancelling")
        chat.send_signal(signal.SIGINT)
        assert rest(chat) == (130, "", "")


def test_ctrl_c_without_a_connection_ends(ollama: ScriptedOllama) -> None:
    ollama.default = stalling()
    with serving(ollama) as (server, url), chatting(url, "one") as chat:
        begins(chat, "half an answer")
        server.kill()
        said(chat, "[connection lost")
        chat.send_signal(signal.SIGINT)
        code, out, err = rest(chat)
    assert (code, out) == (130, "")
    assert "Traceback" not in err


def test_what_a_terminal_gets() -> None:
    assert harmless("a\x1b[31mb\x07\r\x9b2J\x7f\x00") == "a[31mb2J"
    assert harmless("tab\tline\né 👩\u200d💻") == "tab\tline\né 👩\u200d💻"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("chat --direct --url {url} say | head -c 1", 1, ""),
        (r"chat --url {url} $'hi \xff'", 2, "the prompt cannot be sent"),
    ],
)
def test_the_shell_gets_no_traceback(
    url: str, ollama: ScriptedOllama, command: str, code: int, words: str
) -> None:
    ollama.scripts["say"] = [Send(token("x" * 9)) for _ in range(2_000)]
    program = f"{sys.executable} -m tokenwire_cli {command.format(url=url)}"
    ended = subprocess.run(
        ["bash", "-c", f"{program}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert words.encode() in ended.stderr
    assert b"Traceback" not in ended.stderr
