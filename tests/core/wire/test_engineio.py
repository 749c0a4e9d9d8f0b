"""Engine.IO packets and payloads: what is joined comes apart again, what is broken is refused."""

import pytest
from tokenwire.errors import RemoteProtocolError
from tokenwire.wire import Binary, engineio


@pytest.mark.parametrize(
    ("packets", "body"),
    [
        ([b"4hello"], b"4hello"),
        ([b"4a", b"2", b"4b"], b"4a\x1e2\x1e4b"),
        ([Binary(b"\x01\x02\x03\x04")], b"bAQIDBA=="),
        ([b"4\xe2\x82\xac", Binary(b""), b"1"], b"4\xe2\x82\xac\x1eb\x1e1"),
    ],
)
def test_a_payload_joins_packets_and_comes_apart(packets: list[bytes], body: bytes) -> None:
    assert engineio.encode_payload(packets) == body
    decoded = engineio.decode_payload(body, max_packets=3)
    assert decoded == packets
    assert [type(packet) for packet in decoded] == [type(packet) for packet in packets]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x1e",
        b"4a\x1e",
        b"\x1e4a",
        b"4a\x1e\x1e4b",
        b"4\xff",
        b"b=",
        b"bAQID BA==",
        b"bAQIDBA",
        b"bAQIDBA=",
        b"bAQID=",
        b"bAQIDBA===",
        b"bAQIDBB==",
        b"b\xc3\xa9",
        b"bAQ==AQ==",
        b"4a\x1e4b\x1e4c\x1e4d",
    ],
)
def test_a_broken_payload_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        engineio.decode_payload(body, max_packets=3)
