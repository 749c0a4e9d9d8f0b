"""Heads of requests and answers: read and written, and as h11 has them."""

import h11
import pytest
from tokenwire.config import Config
from tokenwire.errors import RemoteProtocolError
from tokenwire.http import guards
from tokenwire.http.head import RequestHead, options, read_request, write_answer
from tokenwire.types import Headers

GOOD = {
    "a GET": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no fields": b"GET / HTTP/1.0\r\n\r\n",
    "a query": b"GET /a?b=c HTTP/1.1\r\nhost: x\r\n\r\n",
    "space around a value": b"GET / HTTP/1.1\r\nHOST:\t x \t\r\n\r\n",
    "space in a value": b"GET / HTTP/1.1\r\nHost: x\r\na: b \tc\r\n\r\n",
    "empty values": b"GET / HTTP/1.1\r\nHost:\r\na: \r\n\r\n",
    "colons": b"GET / HTTP/1.1\r\nHost: x:1\r\na::b:\r\n\r\n",
    "a field twice": b"GET / HTTP/1.1\r\nHost: x\r\na: 1\r\nA: 2\r\n\r\n",
    "bytes beyond ASCII": b"GET / HTTP/1.1\r\nHost: x\r\na: \x80\x85\xa0\xff\r\n\r\n",
    "all of a token": b"!#$%&'*+-.^_`|~09AZaz / HTTP/1.0\r\n!#$%&'*+-.^_`|~09AZaz: \r\n\r\n",
}

BAD = {
    "nothing": b"\r\n\r\n",
    "no version": b"GET /\r\nHost: x\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tab": b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space at the end": b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
    "a target with a space": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target beyond ASCII": b"GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method that is no token": b"G(T / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: x\r\n\r\n",
    "a version of letters": b"GET / HTTP/a.b\r\nHost: x\r\n\r\n",
    "a long version": b"GET / HTTP/1.10\r\nHost: x\r\n\r\n",
    "another protocol": b"GET / http/1.1\r\nHost: x\r\n\r\n",
    "digits of others": b"GET / HTTP/1.\xb2\r\nHost: x\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: x\r\nabc\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\nHost: x\r\n: abc\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost: x\r\nabc : d\r\n\r\n",
    "a space before the name": b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    "a name beyond ASCII": b"GET / HTTP/1.1\r\nHost: x\r\n\xe9: d\r\n\r\n",
    "a name with a control character": b"GET / HTTP/1.1\r\nHost: x\r\na\x0b: d\r\n\r\n",
}


def read_by_h11(head: bytes) -> RequestHead:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    method, target, version = (
        part.decode("latin-1") for part in (event.method, event.target, event.http_version)
    )
    headers = tuple(
        (key.decode("latin-1"), value.decode("latin-1")) for key, value in event.headers
    )
    return RequestHead(method, target, version, headers)


@pytest.mark.parametrize("name", GOOD)
def test_a_head_is_read_as_h11_reads_it(name: str) -> None:
    assert read_request(GOOD[name]) == read_by_h11(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_head_to_h11_is_none(name: str) -> None:
    with pytest.raises(h11.RemoteProtocolError):
        read_by_h11(BAD[name])
    with pytest.raises(RemoteProtocolError):
        read_request(BAD[name])


def test_with_any_byte_changed_a_head_is_read_as_h11_reads_it() -> None:
    good = GOOD["a field twice"]
    for at in range(len(good)):
        for byte in range(256):
            check_as_h11(good[:at] + bytes((byte,)) + good[at + 1 :])


def check_as_h11(head: bytes) -> None:
    try:
        if guards.find_head(bytearray(head), 0, Config()) != len(head):
            return
        guards.check_head(head, Config())
    except RemoteProtocolError:
        return
    try:
        read = read_request(head)
    except RemoteProtocolError:
        with pytest.raises(h11.RemoteProtocolError):
            read_by_h11(head)
        return
    if [name for name, _ in read.headers].count("host") == 1:  # else a guard refuses it, as h11
        assert read == read_by_h11(head)


def test_options_of_a_field() -> None:
    headers: Headers = (("connection", "Close, x"), ("a", "b"), ("connection", "\tUpgrade"))
    assert options(headers, "connection") == ["close", "x", "upgrade"]
    assert options(headers, "expect") == []


@pytest.mark.parametrize("status", [101, 200, 404])
def test_the_head_of_an_answer_is_that_of_h11(status: int) -> None:
    headers: Headers = (("upgrade", "websocket"), ("a", "b\xe9"), ("content-length", "0"))
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
    connection.next_event()
    fields = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    made = h11.InformationalResponse if status < 200 else h11.Response
    wanted = connection.send(made(status_code=status, headers=fields))
    assert write_answer(status, headers) == wanted
