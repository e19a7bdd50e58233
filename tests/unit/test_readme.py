"""The README's table of settings is config/emostream.env."""

from __future__ import annotations

import re

from dotenv import dotenv_values

from emostream.settings import DEFAULTS_FILE, PROJECT_DIR, SETTING_NAMES

README = (PROJECT_DIR / "README.md").read_text()


def test_the_table_of_settings_has_every_setting_with_its_default_in_order() -> None:
    table = re.findall(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`)? ?\|", README, flags=re.MULTILINE)
    assert dict(table) == dotenv_values(DEFAULTS_FILE)
    assert tuple(name for name, _ in table) == SETTING_NAMES


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= 150
