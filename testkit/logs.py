"""What a block of code logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from emostream.process import key_values


class Lines(logging.Handler):
    """Keeps the lines that are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(key_values(record.msg) if isinstance(record.msg, dict) else record.getMessage())


@contextmanager
def logged() -> Iterator[list[str]]:
    """The lines that are logged within the block."""
    lines, logger = Lines(), logging.getLogger("emostream")
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        yield lines.found
    finally:
        logger.setLevel(level)
        logger.removeHandler(lines)
