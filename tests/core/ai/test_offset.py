"""Offsets of the AI namespace: read strictly where they are the session's own."""

import pytest
from tokenwire.ai.offset import NOTHING, Offset, parse


@pytest.mark.parametrize(
    ("value", "offset"),
    [
        ("n.3.0", Offset(3, 0, {})),
        ("n.3.2.1.45.7", Offset(3, 2, {1: (45, 7)})),
        ("n.3.2.1.45.7.2.0.0", Offset(3, 2, {1: (45, 7), 2: (0, 0)})),
        (None, NOTHING),
        (5, NOTHING),
        ("", NOTHING),
        ("m.3.0", NOTHING),
        ("n", None),
        ("n.", None),
        ("n.3", None),
        ("n.3.0.1", None),
        ("n.3.0.1.2", None),
        ("n.-3.0", None),
        ("n.3.0 ", None),
        ("n.\u0663.0", None),
        ("n." + "1" * 16 + ".0", None),
        ("n.3.0" + ".1.1.1" * 2_100, None),
    ],
)
def test_an_offset_is_read(value: object, offset: Offset | None) -> None:
    assert parse(value, "n") == offset


def test_who_was_there_and_is_not_named_is_over() -> None:
    offset = Offset(3, 2, {2: (4, 1)})
    assert offset.position(1) is None
    assert offset.position(2) == (4, 1)
    assert offset.position(3) == (0, 0)
