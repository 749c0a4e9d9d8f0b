"""Engine.IO v4 packets and polling payloads.

A packet over WebSocket is one text frame (type digit, data) or one binary frame (data alone). A
polling payload joins packets with U+001E; a binary one is `b` and base64, without a type digit.
"""

import binascii

from tokenwire.errors import RemoteProtocolError
from tokenwire.wire import Binary

OPEN = b"0"
CLOSE = b"1"
PING = b"2"
PONG = b"3"
MESSAGE = b"4"
UPGRADE = b"5"
NOOP = b"6"
PING_PROBE = b"2probe"
PONG_PROBE = b"3probe"

SEPARATOR = b"\x1e"


def encode_payload(packets: list[bytes]) -> bytes:
    """Join packets into the body of an answer to a poll."""
    return SEPARATOR.join(
        [
            b"b" + binascii.b2a_base64(packet, newline=False) if type(packet) is Binary else packet
            for packet in packets
        ]
    )


def decode_payload(body: bytes, *, max_packets: int) -> list[bytes]:
    """Return the packets of the body of a POST.

    Raises:
        RemoteProtocolError: not UTF-8, too many packets, bad base64, an empty packet.
    """
    if body.count(SEPARATOR) >= max_packets:
        raise RemoteProtocolError(f"a payload holds at most {max_packets} packets")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("the payload is not UTF-8") from error
    packets: list[bytes] = []
    for packet in body.split(SEPARATOR):
        if not packet:
            raise RemoteProtocolError("an empty packet")
        if packet[:1] == b"b":
            packet = _decode_base64(packet[1:])
        packets.append(packet)
    return packets


def _decode_base64(text: bytes) -> Binary:
    try:
        data = Binary(binascii.a2b_base64(text, strict_mode=True))
    except binascii.Error as error:
        raise RemoteProtocolError("a binary packet is not base64") from error
    if binascii.b2a_base64(data, newline=False) != text:  # too much padding, stray bits
        raise RemoteProtocolError("a binary packet is not base64 as it is written")
    return data
