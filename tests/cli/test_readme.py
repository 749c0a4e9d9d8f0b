"""What the README says of the settings is what the program has."""

from pathlib import Path

import pytest
from tokenwire_cli.settings import SETTINGS, Setting

README = (Path(__file__).parents[2] / "README.md").read_text()


def default_text(value: object) -> str:
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if isinstance(value, tuple):
        value = ",".join(value)
    return f"`{value}`" if value != "" else "empty"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.variable)
def test_the_readme_has_every_setting(setting: Setting) -> None:
    row = f"| `{setting.variable}` | `{setting.flag}` | {default_text(setting.default)} | "
    assert row in README
