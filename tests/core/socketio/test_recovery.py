"""The journal of a socket, and its pid."""

import msgspec
import pytest
from tokenwire.socketio.binary import Body
from tokenwire.socketio.recovery import Journal, new_pid, pid_key, with_offset
from tokenwire.testing import SeededIds
from tokenwire.wire import Binary


def kept(*sizes: int, room: int = 100) -> Journal:
    journal = Journal(room)
    for number, size in enumerate(sizes, 1):
        journal.keep([b"%d" % number * size])
    return journal


@pytest.mark.parametrize(
    ("offset", "missed"),
    [
        (msgspec.UNSET, [b"1", b"2", b"3"]),
        ("0", [b"1", b"2", b"3"]),
        ("2", [b"3"]),
        ("3", []),
        ("4", None),
        ("-1", None),
        ("01", None),
        ("", None),
        ("3 ", None),
        ("\u0663", None),
        ("9" * 17, None),
        (3, None),
        (None, None),
    ],
)
def test_what_came_after_an_offset(offset: object, missed: list[bytes] | None) -> None:
    journal = kept(1, 1, 1)
    assert journal.offset == 3
    assert journal.since(offset) == missed


def test_the_oldest_make_room_for_the_newest() -> None:
    journal = kept(40, 40, 40)
    assert journal.since("0") is None
    assert journal.since(msgspec.UNSET) is None
    assert journal.since("1") == [b"2" * 40, b"3" * 40]


def test_an_event_larger_than_the_journal_is_not_kept() -> None:
    journal = kept(1, 101, 1)
    assert journal.since("1") is None
    assert journal.since("2") == [b"3"]


def test_attachments_are_kept_with_their_packet() -> None:
    journal = Journal(100)
    journal.keep([b"head", Binary(b"\x01")])
    journal.keep([b"x"])
    assert journal.since("0") == [b"head", b"\x01", b"x"]


def test_an_offset_is_the_last_argument() -> None:
    body = with_offset(Body(b'["a",1]', (Binary(b"x"),)), 12)
    assert body == Body(b'["a",1,"12"]', (Binary(b"x"),))


def test_a_pid_is_drawn_and_kept_as_a_hash() -> None:
    ids = SeededIds()
    first, second = new_pid(ids), new_pid(ids)
    assert first != second
    assert len(first) >= 22  # 128 bits in base64
    assert first.encode() not in pid_key(first)
    assert pid_key(first) != pid_key(second)
    assert pid_key("\ud800")  # any string of a client's
