"""Attachments: out of a payload and back into it, each exactly once."""

import pytest
from tokenwire.errors import LocalProtocolError, RemoteProtocolError
from tokenwire.socketio.binary import (
    Assembler,
    Body,
    PacketReader,
    encode_ack,
    encode_body,
    encode_event,
    take_out,
)
from tokenwire.wire import Binary
from tokenwire.wire.socketio import Limits, Packet, PacketType


def hole(number: object) -> dict[str, object]:
    return {"_placeholder": True, "num": number}


def body(*args: object) -> Body:
    return encode_body(list(args), 10)


def assembled(data: object, *attachments: bytes, max_bytes: int = 100) -> object:
    packet = Packet(PacketType.BINARY_EVENT, data=data, attachments=len(attachments))
    assembler = Assembler(packet, max_bytes)
    done = [assembler.add(attachment) for attachment in attachments]
    assert done == [False] * (len(done) - 1) + [True]
    return assembler.data()


@pytest.mark.parametrize(
    ("data", "text", "attachments"),
    [
        (["a", 1, None, {"b": [True]}], ["a", 1, None, {"b": [True]}], []),
        (["a", b"x"], ["a", hole(0)], [b"x"]),
        (["a", {"b": [b"x", {"c": b"y"}]}, b""], ["a", {"b": [hole(0), {"c": hole(1)}]}, hole(2)],
         [b"x", b"y", b""]),
        ([bytearray(b"x"), memoryview(b"y"), (b"z",)], [hole(0), hole(1), [hole(2)]],
         [b"x", b"y", b"z"]),
    ],
)  # fmt: skip
def test_bytes_are_taken_out(data: object, text: object, attachments: list[bytes]) -> None:
    taken: list[Binary] = []
    assert take_out(data, taken) == text
    assert taken == attachments
    assert all(type(attachment) is Binary for attachment in taken)


@pytest.mark.parametrize(
    ("data", "attachments", "expected"),
    [
        (["a", hole(0)], [b"x"], ["a", b"x"]),
        (["a", hole(1), {"b": [hole(0)]}], [b"x", b"y"], ["a", b"y", {"b": [b"x"]}]),
        (["a", hole(0), {"_placeholder": False, "num": 7}], [b"x"],
         ["a", b"x", {"_placeholder": False, "num": 7}]),
        (["a", {**hole(0), "more": 1}], [b"x"], ["a", b"x"]),
    ],
)  # fmt: skip
def test_bytes_are_put_back(data: object, attachments: list[bytes], expected: object) -> None:
    assert assembled(data, *attachments) == expected


@pytest.mark.parametrize(
    "number", ["splice", "0", -1, 1, 1_000_000_000, 0.5, 0.0, True, False, None, [], {}]
)
def test_a_placeholder_that_is_no_index_is_refused(number: object) -> None:
    with pytest.raises(RemoteProtocolError):
        assembled(["a", hole(number)], b"x")


@pytest.mark.parametrize(
    "data", [["a"], ["a", hole(0), hole(0)], ["a", {"_placeholder": True}], ["a", hole(0), hole(1)]]
)
def test_each_attachment_is_used_once(data: object) -> None:
    with pytest.raises(RemoteProtocolError):
        assembled(data, b"x")
    with pytest.raises(RemoteProtocolError):
        assembled(["a", hole(0)], b"x", b"y")


def test_attachments_share_one_limit() -> None:
    assert assembled([hole(0), hole(1)], b"x" * 60, b"y" * 40)
    with pytest.raises(RemoteProtocolError) as caught:
        assembled([hole(0), hole(1)], b"x" * 60, b"y" * 41)
    assert caught.value.close_code == 1009


def test_events_and_acks_are_their_packet_and_their_attachments() -> None:
    assert encode_event("/", body("a", 1)) == [b'2["a",1]']
    assert encode_event("/x", body("a", b"1", [b"2"]), 7) == [
        b'52-/x,7["a",{"_placeholder":true,"num":0},[{"_placeholder":true,"num":1}]]',
        b"1",
        b"2",
    ]
    assert encode_ack("/", body(), 3) == [b"33[]"]
    assert encode_ack("/x", body(b"1"), 3) == [b'61-/x,3[{"_placeholder":true,"num":0}]', b"1"]


def test_a_packet_is_whole_with_its_last_attachment() -> None:
    reader = PacketReader(Limits(), 100)
    assert reader.read(b'2["a"]') == Packet(PacketType.EVENT, data=["a"])
    for _ in range(2):  # the reader is ready for another
        head, *attachments = encode_event("/x", body("a", b"1", b"2"), 1)
        assert reader.read(head) is None
        assert reader.unfinished.namespace == "/x"
        assert reader.read(attachments[0]) is None
        packet = reader.read(attachments[1])
        assert packet == Packet(PacketType.BINARY_EVENT, "/x", 1, ["a", b"1", b"2"], 2)


def test_what_comes_out_of_turn_is_refused() -> None:
    reader = PacketReader(Limits(), 100)
    with pytest.raises(RemoteProtocolError, match="without its packet"):
        reader.read(Binary(b"1"))
    assert reader.read(encode_event("/", body("a", b"1"))[0]) is None
    with pytest.raises(RemoteProtocolError, match="between"):
        reader.read(b'2["a"]')
    reader.reset()
    assert reader.read(b'2["a"]') is not None


def test_a_body_is_encoded_once_with_its_attachments() -> None:
    assert body("a", b"x") == Body(b'["a",{"_placeholder":true,"num":0}]', (Binary(b"x"),))


@pytest.mark.parametrize("value", [object(), "\ud800", {1: object()}])
def test_what_cannot_be_sent_is_the_programs_fault(value: object) -> None:
    with pytest.raises(LocalProtocolError, match="cannot be sent"):
        body(value)


def test_more_attachments_than_a_stock_client_takes_are_refused() -> None:
    assert len(body(*[b"x"] * 10).attachments) == 10
    with pytest.raises(LocalProtocolError, match="more than 10"):
        body(*[b"x"] * 11)


@pytest.mark.parametrize("nested", [False, True])
def test_a_placeholder_of_somebody_elses_goes_out_only_without_bytes(nested: bool) -> None:
    hostile: object = hole(7)
    if nested:
        hostile = [{"a": (hostile,)}]
    assert body("a", hostile).attachments == ()
    with pytest.raises(LocalProtocolError, match="_placeholder"):
        body("a", hostile, b"x")
    assert body("a", {"_placeholder": False}, b"x").attachments == (Binary(b"x"),)
