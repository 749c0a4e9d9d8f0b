"""The session vectors, played on the core under virtual time.

Rules of this file: what the server says must not depend on how the bytes were cut. Every vector is
played whole, byte by byte (in pieces of 997 bytes where it sends more than 20 kB), and cut once in
a few places; with TOKENWIRE_LONG=1 in the environment, cut once in every place. A file of which
fewer vectors were played than the manifest says fails.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tokenwire.testing.player import Player, VectorFailed
from tokenwire.testing.vectors import Vector, load
from tokenwire.testing.worldnet import WorldNet
from vectors import manifest

_FILES = sorted(name for name in manifest.committed().files if name.startswith(manifest.PLAYED))
_LONG = bool(os.environ.get("TOKENWIRE_LONG"))
_MANY_BYTES = 20_000
_FEW = 5
"""So many places to cut in, in a short run."""
_EDGE = 500
"""A vector that sends more than twice that is cut in every place of so many bytes at each end, and
in a hundred places between them: a player cannot play a megabyte a million times."""


def _whole(vector: Vector) -> int:
    """Play a vector. Return how much it sent."""
    player = Player(WorldNet(vector.server))
    player.play(vector)
    return player.sent


def _in_bytes(vector: Vector) -> None:
    cut = 1 if _whole(vector) <= _MANY_BYTES else 997
    Player(WorldNet(vector.server), cut=cut).play(vector)


def _cut_once(vector: Vector) -> None:
    sent = _whole(vector)
    for at in _places(sent):
        try:
            Player(WorldNet(vector.server), cut_at=at).play(vector)
        except VectorFailed as failed:
            raise VectorFailed(f"{failed} (cut behind byte {at} of {sent})") from None


def _places(sent: int) -> Iterable[int]:
    if not _LONG:
        return range(sent // _FEW or 1, sent, sent // _FEW or 1)
    if sent <= 2 * _EDGE:
        return range(1, sent)
    middle = range(_EDGE, sent - _EDGE, sent // 100)
    return [*range(1, _EDGE), *middle, *range(sent - _EDGE, sent)]


@pytest.mark.parametrize(
    "play", [_whole, _in_bytes, _cut_once], ids=lambda play: play.__name__.strip("_")
)
@pytest.mark.parametrize("name", _FILES, ids=lambda name: Path(name).stem)
def test_the_vectors_of(name: str, play: Callable[[Vector], object]) -> None:
    played: list[str] = []
    failures: list[str] = []
    for vector in load((manifest.VECTORS / name).read_bytes()).vectors:
        played.append(vector.id)
        try:
            play(vector)
        except VectorFailed as failed:
            failures.append(f"{vector.title}: {failed}")
        except Exception as error:
            error.add_note(f"while {vector.id} was played: {vector.title}")
            raise
    assert not failures, "\n".join(["", *failures])
    assert played == list(manifest.committed().files[name].ids)


_POLL = '{"do":"request","link":"a","method":"GET","target":"/socket.io/?EIO=4&transport=polling"}'
_OTHER = '{"do":"request","link":"a","method":"GET","target":"/other"}'
_UPGRADE = '{"do":"upgrade","link":"a","target":"/socket.io/?EIO=4&transport=websocket"}'
_101 = '{"do":"expect","link":"a","response":{"status":101}}'
_OPEN = '{"do":"expect","link":"a","frames":[{"text":"0{\\"sid\\":\\"${sid}\\",\\"upgrades\\":[],'
_OPEN += '\\"pingInterval\\":300,\\"pingTimeout\\":200,\\"maxPayload\\":1000000}"}]}'


@pytest.mark.parametrize(
    ("sent", "expected", "complaint"),
    [
        ([_OTHER], '"response":{"status":200}', "status 200 expected"),
        ([_OTHER], '"response":{"status":404,"body":"found"}', "'found' expected"),
        ([_OTHER], '"response":{"status":404,"body":"[1]"}', "'[1]' expected"),
        ([_OTHER], '"response":{"status":404,"headers":{"x":"y"}}', "header x expected, none came"),
        ([_OTHER], '"response":{"status":404,"headers":{"content-length":"8"}}', "'8' expected"),
        ([_OTHER], '"response":{"status":404,"headers":{"content-length":null}}', "no header"),
        ([_OTHER], '"response":{"status":404,"packets":["not","found"]}', "packets"),
        ([_OTHER], '"nothing":true', "nothing should have come"),
        ([_OTHER], '"response":{"status":404},"end":true', "should have ended"),
        ([], '"response":{"status":404}', "a response should have come"),
        ([_POLL], '"response":{"status":200,"body":"0{}"}', "{} expected"),
        ([_UPGRADE, _101], '"frames":[{"text":"0{\\"sid\\":1}"}]', "expected in"),
        ([_UPGRADE, _101], '"frames":[{"close":1000}]', "expected, ExpectedFrame(text="),
        ([_UPGRADE, _101, _OPEN], '"frames":[{"text":"2"}]', "a frame should have come"),
        (['{"do":"send","link":"a","text":" "}'], '"open":true', "has ended the connection"),
    ],
)
def test_a_player_notices(sent: list[str], expected: str, complaint: str) -> None:
    steps = ['{"do":"connect","link":"a"}', *sent, '{"do":"expect","link":"a",' + expected + "}"]
    text = '{"format":"session-1","vectors":[{"id":"X001","title":"","requirements":[],"steps":['
    (vector,) = load((text + ",".join(steps) + "]}]}").encode()).vectors
    with pytest.raises(VectorFailed) as caught:
        Player(WorldNet(vector.server)).play(vector)
    assert str(caught.value).startswith(f"X001 step {len(steps) - 1}: ")
    assert complaint in str(caught.value)


_JOIN = '{"do":"frame","link":"a","text":"40/ai,"}'
_ASK = r"""{"do":"frame","link":"a","text":"42/ai,[\"ai:stream\",{\"prompt\":\"hi\"}]"}"""


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ([_JOIN, '{"do":"asked","model":"m"}'], "the model should have been asked"),
        ([_JOIN, _ASK, '{"do":"asked","model":"m","nothing":true}'], "should not have been asked"),
        ([_JOIN, _ASK, '{"do":"asked","model":"m","body":{"model":"x"}}'], "'x' expected"),
        ([_JOIN, _ASK, '{"do":"asked","model":"m","body":{"x":1}}'], "field x expected"),
        ([_JOIN, _ASK, '{"do":"asked","model":"m","headers":{"x":"y"}}'], "header x expected"),
        (
            [_JOIN, _ASK, '{"do":"asked","model":"m"}', '{"do":"cancelled","model":"m"}'],
            "connection should have been closed",
        ),
    ],
)
def test_a_player_notices_what_the_model_is_asked(steps: list[str], complaint: str) -> None:
    steps = ['{"do":"connect","link":"a"}', _UPGRADE, *steps]
    text = '{"format":"session-1","vectors":[{"id":"X001","title":"","requirements":[],'
    text += '"server":{"ai":{}},"steps":[' + ",".join(steps) + "]}]}"
    (vector,) = load(text.encode()).vectors
    with pytest.raises(VectorFailed) as caught:
        Player(WorldNet(vector.server)).play(vector)
    assert str(caught.value).startswith(f"X001 step {len(steps) - 1}: ")
    assert complaint in str(caught.value)
