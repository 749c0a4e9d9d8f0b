"""Socket.IO packets: the documented form, in both directions, and every malformed one."""

import msgspec
import pytest
from tokenwire.errors import RemoteProtocolError
from tokenwire.wire.socketio import Limits, Packet, PacketType, decode, encode, event_head

LIMITS = Limits()
T = PacketType

SAMPLES = [
    (b"0", Packet(T.CONNECT)),
    (b'0{"token":1}', Packet(T.CONNECT, data={"token": 1})),
    (b"0/ai,", Packet(T.CONNECT, "/ai")),
    (b'0/ai?a=1,{"a":1}', Packet(T.CONNECT, "/ai?a=1", data={"a": 1})),
    (b"1", Packet(T.DISCONNECT)),
    (b"1/ai,", Packet(T.DISCONNECT, "/ai")),
    (b'2["a"]', Packet(T.EVENT, data=["a"])),
    (b'2/ai,12["a",{"b":[1]}]', Packet(T.EVENT, "/ai", 12, ["a", {"b": [1]}])),
    (b"2[5]", Packet(T.EVENT, data=[5])),
    (b"30[]", Packet(T.ACK, id=0, data=[])),
    (b'3/ai,7["x"]', Packet(T.ACK, "/ai", 7, ["x"])),
    (b'4/x,{"message":"no"}', Packet(T.CONNECT_ERROR, "/x", data={"message": "no"})),
    (b'4"no"', Packet(T.CONNECT_ERROR, data="no")),
    (
        b'51-["a",{"_placeholder":true,"num":0}]',
        Packet(T.BINARY_EVENT, data=["a", {"_placeholder": True, "num": 0}], attachments=1),
    ),
    (
        b'610-/ai,9[{"_placeholder":true,"num":0}]',
        Packet(T.BINARY_ACK, "/ai", 9, [{"_placeholder": True, "num": 0}], 10),
    ),
]


@pytest.mark.parametrize(("text", "packet"), SAMPLES)
def test_a_packet_is_read_and_written(text: bytes, packet: Packet) -> None:
    assert decode(text, LIMITS) == packet
    assert encode(packet) == text


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        (b"0/ai", Packet(T.CONNECT, "/ai")),
        (b"1/ai", Packet(T.DISCONNECT, "/ai")),
        (b"0/,", Packet(T.CONNECT)),
        (b'2 [ "a" ]', Packet(T.EVENT, data=["a"])),
        (b'29007199254740991["a"]', Packet(T.EVENT, id=2**53 - 1, data=["a"])),
    ],
)
def test_input_may_differ_from_what_we_write(text: bytes, packet: Packet) -> None:
    assert decode(text, LIMITS) == packet


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"7",
        b"9",
        b"/",
        b":",
        b'a["b"]',
        b"\xff",
        b"2",
        b"2[]",
        b"2{}",
        b'2"a"',
        b"2[null]",
        b"2[true]",
        b'2[["a"]]',
        b'2[{"toString":"x"}]',
        b'2["a"',
        b'2["a"]x',
        b'2/ai["a"]',
        b'2/\xff,["a"]',
        b'2["\xff"]',
        b'2-1["a"]',
        b'212345678901234567["a"]',
        b"3[]",
        b'3{"a":1}',
        b"31",
        b"0[]",
        b"0null",
        b'0"x"',
        b"0/ai,[]",
        b"1{}",
        b"1[]",
        b'1"x"',
        b"4",
        b"4[]",
        b"41",
        b'5["a"]',
        b'5-["a"]',
        b'50-["a"]',
        b'501-["a"]',
        b'51e1-["a"]',
        b'5 5-["a"]',
        b'5+1-["a"]',
        b'511-["a"]',
        b'5999-["a"]',
        b'59999-["a"]',
        b"51-",
        b"51-[]",
        b"51-{}",
        b"61-[]",
        *(
            b'2["%s"]' % name
            for name in (
                b"connect",
                b"connect_error",
                b"disconnect",
                b"disconnecting",
                b"newListener",
                b"removeListener",
            )
        ),
        b'51-["connect"]',
        b"2[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
    ],
)
def test_a_malformed_packet_is_refused(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(text, LIMITS)


def test_more_attachments_are_a_matter_of_the_limit() -> None:
    assert decode(b'512-["a"]', Limits(max_attachments=12)).attachments == 12


def test_the_head_of_an_event_names_its_namespace() -> None:
    assert event_head("/") + b'["a"]' == encode(Packet(T.EVENT, data=["a"]))
    assert event_head("/ai") + b'["a"]' == encode(Packet(T.EVENT, "/ai", data=["a"]))


def test_a_payload_that_is_left_out_is_not_null() -> None:
    assert decode(b"0", LIMITS).data is msgspec.UNSET
