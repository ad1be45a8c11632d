"""What a folder of fused images was made from: checksums, so that stale ones are found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fuse4seg import __version__
from fuse4seg.errors import UnreadableRecordError
from fuse4seg.files import checksum, read_json, write_json

#: In a folder of fused images.
RECORD = "fused.json"


@dataclass(frozen=True)
class FusedRecord:
    """How the images of a folder were fused.

    Attributes:
        method: Rule or model, in plain data.
        sources: Names of the modalities.
        checksums: SHA-256 of each case's sources, in their order.
    """

    method: Mapping[str, Any]
    sources: tuple[str, ...]
    checksums: Mapping[str, tuple[str, ...]]

    def changed_source(self, case: str, images: Sequence[Path]) -> Path | None:
        """The first source of a case that is not what it was; None where nothing changed or nothing is known."""
        known = self.checksums.get(case)
        if known is None:
            return None
        # The folders may be given in another order than to f4s_fuse.
        return next((path for path in images if checksum(path) not in known), None)

    def write(self, folder: Path) -> None:
        """Write it into a folder of fused images.

        Raises:
            UnwritableFolderError: The operating system refused to write.
        """
        write_json({"fuse4seg": __version__, "method": self.method, "sources": list(self.sources),
                    "checksums": {case: list(sums) for case, sums in self.checksums.items()}}, folder / RECORD)


def read_record(folder: Path) -> FusedRecord | None:
    """Record of a folder of fused images; None where it has none, as those of other tools.

    Raises:
        UnreadableRecordError: It cannot be read.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    damaged = partial(UnreadableRecordError, mend="Fuse again, or remove it: the sources are then not compared.")
    content = read_json(path, damaged)
    try:
        return FusedRecord(content["method"], tuple(content["sources"]),
                           {case: tuple(sums) for case, sums in content["checksums"].items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(path, "is no record of fused images") from error
