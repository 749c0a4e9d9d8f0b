"""clientIds: what is issued is known again, and nothing else is.

Rules of this file: a forged id is made from a real one, by one change.
"""

import ast
import re
from pathlib import Path

import pytest
from tokenwire.ai import capability
from tokenwire.ai.capability import Capabilities
from tokenwire.testing import SeededIds


def test_an_id_has_a_public_and_a_secret_part_of_128_bits_each() -> None:
    capabilities = Capabilities(SeededIds())
    client_id = capabilities.client_id(capabilities.issue())
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{22}", client_id)


def test_an_id_that_was_issued_is_known_by_its_public_part() -> None:
    capabilities = Capabilities(SeededIds())
    public = capabilities.issue()
    assert capabilities.check(capabilities.client_id(public)) == public


def test_each_id_is_another() -> None:
    capabilities = Capabilities(SeededIds())
    issued = [capabilities.client_id(capabilities.issue()) for _ in range(100)]
    assert len({part for client_id in issued for part in client_id.split(".")}) == 200


@pytest.mark.parametrize(
    "forge",
    [
        lambda public, secret, other: "",
        lambda public, secret, other: ".",
        lambda public, secret, other: public,
        lambda public, secret, other: f"{public}.",
        lambda public, secret, other: f".{secret}",
        lambda public, secret, other: f"{public}.{secret}.",
        lambda public, secret, other: f"{public}.{secret}=",
        lambda public, secret, other: f"{public}.{secret[:-1]}",
        lambda public, secret, other: f"{public}.{other}",
        lambda public, secret, other: f"{public}.{secret.swapcase()}",
        lambda public, secret, other: f" {public}.{secret}",
        lambda public, secret, other: f"{public}.é",
        lambda public, secret, other: "x" * 100_000,
    ],
)
def test_an_id_that_was_not_issued_is_unknown(forge: object) -> None:
    capabilities = Capabilities(SeededIds())
    public, secret = capabilities.client_id(capabilities.issue()).split(".")
    other = capabilities.client_id(capabilities.issue()).split(".")[1]
    assert callable(forge)
    assert capabilities.check(forge(public, secret, other)) is None


def test_an_id_of_another_server_is_unknown() -> None:
    one, other = Capabilities(SeededIds(1)), Capabilities(SeededIds(2))
    assert other.check(one.client_id(one.issue())) is None


def test_the_time_of_a_check_says_nothing_about_the_secret() -> None:
    """It is made by the one function that is meant for that, on the whole of both."""
    source = Path(capability.__file__).with_name("capability.py").read_text()
    (check,) = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "check"
    ]
    names = {node.attr for node in ast.walk(check) if isinstance(node, ast.Attribute)}
    assert "compare_digest" in names
    assert not {"startswith", "find", "index"} & names
    assert not any(isinstance(node, ast.Eq | ast.NotEq) for node in ast.walk(check))
