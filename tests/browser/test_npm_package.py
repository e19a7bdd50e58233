"""clients/js: its own tests pass, and `npm pack` makes a package that an empty project can use."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from emostream import __version__
from testkit.settings import PROJECT_DIR

PACKAGE = PROJECT_DIR / "clients" / "js"


def npm(directory: Path, *arguments: str) -> str:
    """What a command of npm prints. It asks no registry."""
    done = subprocess.run(
        ["npm", "--offline", "--no-update-notifier", *arguments], cwd=directory, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tests_of_the_package_pass() -> None:
    shown = npm(PACKAGE, "test", "--", "--test-reporter=tap")
    assert "# fail 0\n" in shown
    assert "# tests 0\n" not in shown


def test_an_empty_project_can_install_and_import_what_npm_packs(tmp_path: Path) -> None:
    [packed] = json.loads(npm(PACKAGE, "pack", "--json", "--pack-destination", str(tmp_path)))
    assert packed["version"] == __version__
    names = {file["path"] for file in packed["files"]}
    assert names == {"README.md", "emo-reactions.d.ts", "emo-reactions.js", "package.json"}
    project = tmp_path / "project"
    project.mkdir()
    (project / "package.json").write_text('{"type": "module"}')
    npm(project, "install", "--no-audit", "--no-fund", str(tmp_path / packed["filename"]))
    script = 'import { EmoReactions, share } from "emo-reactions"; console.log(EmoReactions.name, share([], 9).length)'
    command = ["node", "--input-type=module", "--eval", script]
    assert subprocess.check_output(command, cwd=project, timeout=60) == b"EmoReactions 0\n"
    installed = project / "node_modules" / "emo-reactions"
    served = PROJECT_DIR / "emostream" / "web" / "emo-reactions.js"
    assert (installed / "emo-reactions.js").read_bytes() == served.read_bytes()
