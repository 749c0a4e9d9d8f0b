"""Nobody takes over the session of another, and of two at once one alone gets it.

Rules of this file: this is the short run of `make attack`. What that says when something is wrong
is looked at, too.
"""

import pytest
from properties import races, takeover
from properties.takeover import Broken, Robbery, Thief


def test_5_000_attempts_to_take_over_a_session_get_nothing() -> None:
    robbery = Robbery(1)
    for _ in range(5_000 // takeover.ROUND):
        robbery.round(takeover.ROUND)
    robbery.finish()
    assert sum(robbery.tried.values()) == 5_000
    assert min(robbery.tried.values()) > 20


def test_the_seed_decides_what_is_tried() -> None:
    def tried(seed: int) -> dict[str, int]:
        robbery = Robbery(seed)
        robbery.round(100)
        return robbery.tried

    assert tried(1) == tried(1) != tried(2)


def test_a_true_secret_is_seen() -> None:
    robbery = Robbery(1)
    robbery.round(100)
    with pytest.raises(Broken, match="a thief has got"):
        Thief(robbery.world).join({"pid": robbery.secrets[0].pid})
    with pytest.raises(Broken, match="has got"):
        Thief(robbery.world).join({"pid": robbery.secrets[0].pid, "offset": "x"})


def test_a_disturbed_owner_is_seen() -> None:
    robbery = Robbery(1)
    thief = Thief(robbery.world)
    thief.join({"recovery": False})
    for secrets in robbery.secrets:
        thief.put(f'2/ai,["ai:reconnect",{{"previousClientId":"{secrets.client_id}"}}]')
    thief.exchange()
    with pytest.raises(Broken, match="shows"):
        robbery.round(0)


@pytest.mark.parametrize("number", range(300))
def test_of_two_with_one_secret_one_alone_has_the_session(number: int) -> None:
    races.play(1, number)
