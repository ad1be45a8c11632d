"""Cases shared out among processes that need not meet: each leaves a file when its part is done, and the first gathers them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fuse4seg.errors import UnreadableRecordError
from fuse4seg.files import read_json, write_json

Item = TypeVar("Item")
#: Seconds between looks.
LOOK_EVERY = 0.5


class CaseShare(NamedTuple):
    """One of equal parts of the cases.

    Attributes:
        number: From 0; the first gathers.
        of: How many there are.

    Example:
        >>> CaseShare(1, 3).take(["a", "b", "c", "d", "e"])
        ['b', 'e']
    """

    number: int = 0
    of: int = 1

    def take(self, cases: Sequence[Item]) -> list[Item]:
        """Every ``of``-th case."""
        return list(cases[self.number::self.of])

    def forget(self, folder: Path) -> None:
        """Remove what an earlier run left; by the first, before any other begins."""
        for path in folder.glob(self._file("*")):
            path.unlink()

    def gather(self, folder: Path, found: dict[str, Any]) -> dict[str, Any] | None:
        """What all parts found, by case, once all are done: however long that takes, whoever started them sees a death.

        Args:
            folder: That all see.
            found: Of this part's cases, as JSON holds it.

        Returns:
            None but to the first.
        """
        if self.number:
            write_json(found, folder / self._file(self.number))
            return None
        for number in range(1, self.of):
            path = folder / self._file(number)
            while not path.exists():
                time.sleep(LOOK_EVERY)
            found = {**found, **read_json(path, UnreadableRecordError)}
            path.unlink()
        return found

    def _file(self, number: int | str) -> str:
        return f".part_{number}_of_{'*' if number == '*' else self.of}.json"


#: All cases.
WHOLE = CaseShare()
