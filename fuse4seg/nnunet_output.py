"""nnU-Net prints; our log says what it printed, to those who ask for it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

logger = logging.getLogger(__name__)


class _LoggedLines(io.TextIOBase):
    """Text stream whose lines become debug messages."""

    def __init__(self) -> None:
        self._pending = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._pending = (self._pending + text).split("\n")
        for line in filter(str.strip, lines):
            logger.debug("%s", line.rstrip())
        return len(text)


@contextmanager
def logged_prints() -> Iterator[None]:
    """Within the block, what is printed to stdout becomes debug messages, line by line."""
    stream = _LoggedLines()
    with redirect_stdout(stream):
        yield
    stream.write("\n")
