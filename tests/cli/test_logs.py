"""The log: one line for each record, which nobody can forge."""

import logging
import re
from collections.abc import Iterator
from typing import Literal

import pytest
from tokenwire.outputs import Notice
from tokenwire_cli import logs

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    for name in ("tokenwire", logs.PACKETS):
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what was logged, without the times."""
    out, err = capsys.readouterr()
    assert out == ""
    # Not splitlines(): U+0085 and others would count.
    found = err.split("\n")
    assert found.pop() == ""
    for line in found:
        assert line.isprintable()
        assert re.match(TIME + " ", line), line
    return [line.split(" ", 1)[1] for line in found]


def test_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info")
    logs.notice(Notice("info", "stream_started", (("stream", 7), ("model", "codellama"))))
    assert lines(capsys) == ["info stream_started stream=7 model=codellama"]


def test_a_message_is_a_sentence_and_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info")
    sentence = "the model server has ended, " * 10
    logs.log("warning", "ended", (("code", 1),), message=sentence)
    assert lines(capsys) == [f'warning ended message="{sentence}" code=1']


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "hi"', '"say \\"hi\\""'),
        ('"', '"\\""'),
        ("back\\slash", "back\\\\slash"),
        ('\\"', '"\\\\\\""'),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\r\n2026-01-01T00:00:00.000Z info forged", '"a\\x0d\\x0a2026-01-01T00:00:00.000Z '),
        ("\x00\x7f\x85\x9b", "\\x00\\x7f\\x85\\x9b"),
        ("\u2028\u2029\u202e\ufeff", "\\u2028\\u2029\\u202e\\ufeff"),
        ("a\u00a0b", "a\\xa0b"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
        ("é 中", '"é 中"'),
        ("x" * 64, "x" * 64),
        ("x" * 65, "x" * 64 + "…"),
        ("\n" * 65, "\\x0a" * 64 + "…"),
    ],
)
def test_a_value_cannot_forge_a_line_or_a_field(
    value: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up("info")
    logs.notice(Notice("info", "refused", (("origin", value), ("after", 1))))
    (line,) = lines(capsys)
    assert line.startswith(f"info refused origin={shown}")
    assert line.endswith(" after=1")


def test_names_are_names(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info")
    logs.notice(Notice("info", "a b\n", (("k=1 x", "v"), ("", "v"))))
    assert lines(capsys) == ["info a_b_ k_1_x=v _=v"]


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_level(level: str, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(level)
    for name in ("debug", "info", "warning", "error"):
        logs.log(name, "event")
    assert lines(capsys) == [f"{name} event" for name in shown]


@pytest.mark.parametrize(
    ("level", "debug", "shown"),
    [
        ("info", ("websocket:*",), ["packet_in"]),
        ("error", ("*",), ["packet_in"]),
        ("info", ("app:*",), []),
        ("debug", (), ["probe"]),
        ("debug", ("websocket:*",), ["packet_in", "probe"]),
    ],
)
def test_the_packet_trace_follows_debug_not_the_level(
    level: str, debug: tuple[str, ...], shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up(level, debug)
    logs.notice(Notice("debug", "packet_in", (("packet", "2"),)))
    logs.notice(Notice("debug", "probe"))
    assert [line.split()[1] for line in lines(capsys)] == shown


@pytest.mark.parametrize("level", ["info", "warning"])
def test_only_debug_notices_are_packets(
    level: Literal["info", "warning"], capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up("info")
    logs.notice(Notice(level, "packet_refused"))
    assert lines(capsys) == [f"{level} packet_refused"]


def test_other_libraries_get_the_same_treatment(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("debug")
    other = logging.getLogger("httpx")
    other.info("HTTP Request: %s", "http://models.internal")
    other.warning("bad\nthing %s", "x" * 100)
    assert lines(capsys) == [f'warning httpx message="bad\\x0athing {"x" * 54}…"']


def test_an_exception_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info")
    try:
        raise ValueError("a\nb " + "x" * 100)
    except ValueError:
        logging.getLogger("asyncio").exception("failed")
    (line,) = lines(capsys)
    assert line.startswith(
        f'error asyncio message=failed exception=ValueError text="a\\x0ab {"x" * 60}…" at='
    )
    assert "test_logs.py" in line
    assert line.endswith(":test_an_exception_is_one_line")


def test_setting_up_twice_logs_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("debug", ("*",))
    logs.set_up("info")
    logs.log("info", "event")
    logs.log("debug", "event")
    logs.notice(Notice("debug", "packet"))
    assert lines(capsys) == ["info event"]
