"""The journal of a socket, and its pid."""

import pytest
from tokenwire.socketio.binary import Body
from tokenwire.socketio.recovery import Journal, new_name, new_pid, pid_key, with_last
from tokenwire.testing import SeededIds
from tokenwire.wire import Binary

EVENT = 128  # what an event costs beside its packet


def kept(*sizes: int, room: int = 1_000) -> Journal:
    journal = Journal("name", room)
    for number, size in enumerate(sizes, 1):
        journal.keep([b"%d" % number * size])
    return journal


@pytest.mark.parametrize(
    ("offset", "missed"),
    [
        ("name.0", [b"1", b"2", b"3"]),
        ("name.2", [b"3"]),
        ("name.3", []),
        ("name.4", None),
        ("name.-1", None),
        ("name.01", None),
        ("name.", None),
        ("name", None),
        ("name.3 ", None),
        ("name.\u0663", None),
        ("name." + "9" * 17, None),
        ("other.3", [b"1", b"2", b"3"]),
        ("", [b"1", b"2", b"3"]),
        ("3", [b"1", b"2", b"3"]),
        (3, [b"1", b"2", b"3"]),
        (None, [b"1", b"2", b"3"]),
    ],
)
def test_what_came_after_an_offset(offset: object, missed: list[bytes] | None) -> None:
    journal = kept(1, 1, 1)
    assert journal.last == 3
    assert journal.offset(2) == b"name.2"
    packets = journal.since(offset)
    assert packets == (None if missed is None else [[text] for text in missed])


def test_the_oldest_make_room_for_the_newest() -> None:
    journal = kept(40, 40, 40, room=2 * (40 + EVENT))
    assert journal.since("name.0") is None
    assert journal.since(None) is None
    assert journal.after(1) == [[b"2" * 40], [b"3" * 40]]


def test_an_event_larger_than_the_journal_is_not_kept() -> None:
    journal = kept(1, 1_000, 1)
    assert journal.after(1) is None
    assert journal.after(2) == [[b"3"]]


def test_attachments_are_kept_with_their_packet() -> None:
    journal = kept()
    journal.keep([b"head", Binary(b"\x01")])
    journal.keep([b"x"])
    assert journal.after(0) == [[b"head", b"\x01"], [b"x"]]


def test_an_offset_is_the_last_argument() -> None:
    body = with_last(Body(b'["a",1]', (Binary(b"x"),)), b"n.12")
    assert body == Body(b'["a",1,"n.12"]', (Binary(b"x"),))


def test_a_pid_is_drawn_and_kept_as_a_hash() -> None:
    ids = SeededIds()
    first, second = new_pid(ids), new_pid(ids)
    assert first != second
    assert len(first) >= 22  # 128 bits in base64
    assert first.encode() not in pid_key(first)
    assert pid_key(first) != pid_key(second)
    assert pid_key("\ud800")  # any string of a client's
    assert "." not in new_name(ids)


def test_what_is_kept_is_counted() -> None:
    assert kept().size == 0
    assert kept(40, 40).size == 2 * (40 + EVENT)
    assert kept(40, 40, room=40 + EVENT).size == 40 + EVENT
