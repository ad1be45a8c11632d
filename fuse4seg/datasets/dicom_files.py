"""Which files are DICOM, by what they hold: few are called so. Nothing here needs a library that reads them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from fuse4seg.errors import MissingExtraError

#: Where the four letters stand, behind a preamble.
PREAMBLE, MAGIC = 128, b"DICM"


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its name or by what stands at its beginning."""
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC
    except OSError:
        return False


def dicom_files(folder: Path) -> Iterator[Path]:
    """DICOM files below a folder in the order of their names; hidden ones are passed over."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file() and is_dicom(path):
            yield path


def require_dicom() -> None:
    """Make sure that DICOM can be read.

    Raises:
        MissingExtraError: It cannot.
    """
    for package in ("pydicom", "highdicom"):
        if find_spec(package) is None:
            raise MissingExtraError("reading DICOM", package, "dicom")
