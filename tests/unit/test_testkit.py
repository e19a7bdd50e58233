"""Who may import whom outside the package: tests and benchmarks stand on testkit, and not on each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from testkit.settings import PROJECT_DIR

FOLDERS = {"testkit", "tests", "benchmarks"}
MAY_IMPORT = {"testkit": {"testkit"}, "benchmarks": {"testkit", "benchmarks"}, "tests": {"testkit", "tests"}}
FILES = [path.relative_to(PROJECT_DIR) for folder in sorted(FOLDERS) for path in (PROJECT_DIR / folder).rglob("*.py")]


def imported_folders(tree: ast.Module) -> set[str]:
    """The folders that a file imports from, of those that are not the package."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names} & FOLDERS


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_imports_only_from_its_own_folder_and_testkit(file: Path) -> None:
    allowed = set(MAY_IMPORT[file.parts[0]])
    if file.name == "test_benchmarks.py":
        allowed.add("benchmarks")
    assert imported_folders(ast.parse((PROJECT_DIR / file).read_text())) <= allowed


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_file_touches_the_path_that_modules_are_found_on(file: Path) -> None:
    attributes = [
        node for node in ast.walk(ast.parse((PROJECT_DIR / file).read_text())) if isinstance(node, ast.Attribute)
    ]
    assert not [node for node in attributes if ast.unparse(node) == "sys.path"]
