"""Identifiers as text."""

import re

from tokenwire.wire import ids


def test_an_id_is_base64url_without_padding() -> None:
    assert ids.text(b"\xff\xfe\xfd\xfc") == "__79_A"
    assert re.fullmatch("[A-Za-z0-9_-]{20}", ids.text(bytes(range(15))))
