"""Log files → one stream of their lines as they come, each behind the name of its process in colour. For a terminal.

usage: python -m emostream.operate.logs FILE...
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

SHOWN_LINES = 20
COLOURS = (36, 32, 35, 33, 34, 31)  # the six of ECMA-48 that can be read on black and on white
_header = re.compile(r"==> (.+) <==")


def with_names(lines: Iterable[str], paths: Sequence[Path]) -> Iterator[str]:
    """What `tail -v` says of these files, where a line names the file of those after it → each with its own name."""
    width = max(len(path.stem) for path in paths)
    colour_of = dict(zip((path.stem for path in paths), cycle(COLOURS), strict=False))
    name, empty = "", False

    def named(line: str) -> str:
        return f"\033[{colour_of.get(name, COLOURS[0])}m{name:<{width}}\033[0m {line}"

    for line in lines:
        if header := _header.fullmatch(line):
            name, empty = Path(header[1]).stem, False  # an empty line before a header is tail's
            continue
        if empty:
            yield named("")
        empty = not line
        if line:
            yield named(line)


def main() -> int:
    """Entry point of the command in the module's docstring."""
    paths = [Path(argument) for argument in sys.argv[1:]]
    if not paths:
        print(__doc__)
        return 2
    command = ["tail", "-v", "-n", str(SHOWN_LINES), "-F", *map(str, paths)]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as tail:
            assert tail.stdout  # noqa: S101 - it is a pipe
            for line in with_names((line.rstrip("\n") for line in tail.stdout), paths):
                print(line, flush=True)
            return tail.wait()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
