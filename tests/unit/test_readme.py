"""What the documentation says stays true: settings and defaults, the folders of the package, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from emostream.settings import DEFAULTS_FILE, SETTING_NAMES

PROJECT_DIR = Path(__file__).resolve().parents[2]
README = (PROJECT_DIR / "README.md").read_text()
ARCHITECTURE = (PROJECT_DIR / "docs" / "architecture.md").read_text()
SETTINGS = (PROJECT_DIR / "docs" / "settings.md").read_text()
DECISIONS = PROJECT_DIR / "docs" / "decisions"
PAGES = sorted([*PROJECT_DIR.glob("*.md"), *PROJECT_DIR.glob("docs/*.md"), *DECISIONS.glob("0*.md")])


def rooms() -> list[str]:
    """The folders and files of the package, as `ls emostream` shows them."""
    found = (path for path in (PROJECT_DIR / "emostream").iterdir() if not path.name.startswith(("_", ".")))
    return sorted(f"{path.name}/" if path.is_dir() else path.name for path in found if path.suffix in ("", ".py"))


def test_the_page_of_settings_has_every_setting_with_its_default_in_order() -> None:
    table = re.findall(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`)? ?\|", SETTINGS, flags=re.MULTILINE)
    assert dict(table) == dotenv_values(DEFAULTS_FILE)
    assert tuple(name for name, _ in table) == SETTING_NAMES


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("room", rooms())
def test_the_architecture_names_every_room_of_the_package(room: str) -> None:
    assert f"| `{room}` |" in ARCHITECTURE


def test_the_index_of_decisions_has_every_page() -> None:
    index = (DECISIONS / "README.md").read_text()
    assert not [page.name for page in DECISIONS.glob("0*.md") if f"]({page.name})" not in index]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT_DIR)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
