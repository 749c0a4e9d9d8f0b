"""ConnectError: what it says, and what it keeps of the server's word."""

import pytest
from tokenwire.client import ConnectError, ConnectFailed, Left, Refused


@pytest.mark.parametrize(
    ("output", "text", "data"),
    [
        (ConnectFailed("timeout", "no answer"), "cannot connect: timeout, no answer", None),
        (Left("/", "io server disconnect"), "cannot connect: io server disconnect", None),
        (Refused("/", {"message": "no", "data": 1}), "no", {"message": "no", "data": 1}),
        (Refused("/", {"code": 1}), "{'code': 1}", {"code": 1}),
        (Refused("/", "Unable to connect"), "Unable to connect", "Unable to connect"),
    ],
)
def test_what_it_says(output: ConnectFailed | Left | Refused, text: str, data: object) -> None:
    error = ConnectError(output)
    assert str(error) == text
    assert error.data == data
