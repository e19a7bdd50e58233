"""What the viewer's page and the overlay load is understood by Chromium 75, the browser in OBS 27."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import esprima
import pytest

from emostream.web.pages import WEB_DIR

# What came after Chromium 75, as it is written, with the version that has it. Syntax needs no list: the parser knows
# only that of 2017 and object spread.
NEWER_APIS = {
    r"AbortSignal\.(timeout|any|abort)\b": 103,
    r"\breportError\(": 95,
    r"\bstructuredClone\(": 98,
    r"\.at\(-?\d": 92,
    r"\.replaceChildren\(": 86,
    r"\.replaceAll\(": 85,
    r"\.(findLast|findLastIndex|toSorted|toReversed|with|groupBy)\(": 97,
    r"\bObject\.(hasOwn|groupBy)\(": 93,
    r"\bPromise\.(any|allSettled|withResolvers|try)\(": 76,
    r"\bcrypto\.randomUUID\(": 92,
    r"\bWeakRef\b|\bFinalizationRegistry\b": 84,
    r"\bSegmenter\b": 87,
    r"\bnavigator\.(locks|clipboard\.write|userAgentData)\b": 76,
    r"\bdocument\.(getAnimations|startViewTransition)\(": 84,
    r"\.(getAnimations|commitStyles|checkVisibility|showPopover)\(": 84,
    r"\bURLSearchParams\(.*\)\.size\b|\bURL\.canParse\(": 113,
    r"\bResizeObserverEntry\b|\bscheduler\.": 84,
    r"\b(dateStyle|timeStyle|notation): ": 76,
    r"\bkeepalive: true": 81,  # together with a JSON body
    r"\.animate\(\[[^\]]*\{\}": 84,  # a keyframe without the property that another has
}
# A browser drops a declaration or a whole rule that it does not understand.
NEWER_STYLES = {
    r"\binset:": 87,
    r"\b(margin|padding|border|inset)-(inline|block):": 87,
    r"\baspect-ratio:": 88,
    r"\b(translate|rotate|scale):": 104,
    r":(is|where|has)\(": 88,
    r"@(layer|container|property|scope)\b": 99,
    r"\bcolor-mix\(|\boklch\(|\blight-dark\(": 111,
    r"^\s+&": 112,
}
MAY_BE_MISSING = {r"\b\d+dvh\b": 108, r"\bclamp\(": 79, r"\bmax\(": 79, r"\bsubgrid\b": 117}


def loaded(page: str) -> Iterator[Path]:
    """The files that a page names, and those that their modules import."""
    found = re.findall(r'(?:src|href)="\{\{ files \}\}/([^"]+)"', (WEB_DIR / page / f"{page}.html").read_text())
    for name in found:  # which grows
        yield WEB_DIR / name
        if name.endswith(".js"):
            imported = [urljoin(name, path) for path in re.findall(r'from "(\.[^"]+)"', (WEB_DIR / name).read_text())]
            found += [path for path in imported if path not in found]


FILES = sorted({path for page in ("viewer", "overlay") for path in loaded(page)})
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
STYLES = [path for path in FILES if path.suffix == ".css"]


def name(path: Path) -> str:
    return path.name


def test_all_files_of_both_pages_are_checked() -> None:
    assert {path.name for path in FILES} >= {
        "viewer.js",
        "last_minute.js",
        "emo-reactions.js",
        "overlay.js",
        "viewer.css",
        "page.css",
    }


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_a_script_has_no_newer_syntax(path: Path) -> None:
    esprima.parseModule(path.read_text())


@pytest.mark.parametrize(
    "newer",
    [
        "class A { #x() {} }", "class A { x = 1 }", "a ?? b", "a?.b", "a ??= b", "1_000", "10n", "await x",
        "class A { static {} }", "import.meta.url", "/(?<n>a)/u", "try {} catch {}", "for await (const x of y) {}",
    ],
)  # fmt: skip
def test_the_parser_refuses_newer_syntax(newer: str) -> None:
    with pytest.raises(esprima.Error):
        esprima.parseModule(newer)


def newer(text: str, since: dict[str, int]) -> list[str]:
    uncommented = re.sub(r"/\*.*?\*/|^\s*//.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = [(re.search(pattern, uncommented, re.MULTILINE), version) for pattern, version in since.items()]
    return [f"{match[0]!r} is in Chromium from {version} on" for match, version in found if match]


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_a_script_calls_nothing_newer(path: Path) -> None:
    assert newer(path.read_text(), NEWER_APIS) == []


@pytest.mark.parametrize("path", [*STYLES, WEB_DIR / "emo-reactions.js"], ids=name)
def test_a_style_needs_nothing_newer(path: Path) -> None:
    assert newer(path.read_text(), NEWER_STYLES) == []


@pytest.mark.parametrize("path", STYLES, ids=name)
def test_what_may_be_missing_has_another_value_before_it(path: Path) -> None:
    for pattern in MAY_BE_MISSING:
        for match in re.finditer(rf"([\w-]+): [^;{{}}]*{pattern}", path.read_text()):
            rule = path.read_text()[: match.start()].rsplit("{", 1)[1]
            assert re.search(rf"\b{match[1]}: |\b{match[1].split('-')[0]}: ", rule), match[0]
