"""What this tool wrote into a folder, by a record there: the only files that it replaces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fuse4seg.errors import OptionError, UnreadableRecordError
from fuse4seg.files import read_json, write_json

#: In a folder of outputs: names of the files that were, or were about to be, written there.
RECORD = "f4s_outputs.json"
#: Where a raw dataset has its images and labels.
OF_RAW_DATASETS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
MEND = "Choose another folder, or write there all the same with --overwrite."


@dataclass(frozen=True)
class OwnOutputs:
    """Files that a run may write; from :func:`claim_outputs`.

    Attributes:
        folder: Of the outputs; need not be there yet.
        names: Of the files, relative to it.
    """

    folder: Path
    names: frozenset[str]

    def note(self) -> None:
        """Write into the folder, which exists, that these files are ours. To be done before the first is written.

        Raises:
            UnwritableFolderError: The operating system refused to write.
            UnreadableRecordError: The record there is damaged.
        """
        known = _known(self.folder)
        if not self.names <= known:
            write_json(sorted(self.names | known), self.folder / RECORD)


def claim_outputs(folder: Path, names: Iterable[str], *, overwrite: bool = False) -> OwnOutputs:
    """Make sure, before anything is written, that only files of this tool will be replaced.

    Args:
        folder: Of the outputs; need not be there.
        names: Of the files and sub-folders that may be written, relative to it.
        overwrite: Replace other people's files as well.

    Raises:
        OptionError: One of them is there, and this tool did not write it.
        UnreadableRecordError: The record there is damaged.
    """
    claimed = OwnOutputs(folder, frozenset(names))
    # Looked for before the record is read: another part of the same run may write both in between, the record first.
    there = {name for name in claimed.names if (folder / name).exists() or (folder / name).is_symlink()}
    foreign = sorted(there - _known(folder)) if there and not overwrite else []
    if foreign:
        others = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise OptionError("-o", f"{folder / foreign[0]}{others} would be replaced, and this tool did not write it there. {MEND}")
    return claimed


def require_apart(folder: Path, inputs: Iterable[Path], *, overwrite: bool = False) -> None:
    """Make sure that outputs do not go among inputs or into a raw dataset.

    Args:
        folder: Of the outputs; need not be there.
        inputs: Folders that are read.
        overwrite: Allow it.

    Raises:
        OptionError: They do.
    """
    place = folder.resolve()
    if overwrite:
        return
    if any(place == path.resolve() for path in inputs):
        raise OptionError("-o", f"{folder} holds the input. {MEND}")
    dataset = place.parent if place.name in OF_RAW_DATASETS else place
    if (dataset / "imagesTr").is_dir() or (dataset / "dataset.json").is_file() and (
            place != dataset or any((dataset / name).is_dir() for name in OF_RAW_DATASETS)):
        raise OptionError("-o", f"{folder} belongs to the raw dataset {dataset.name}. {MEND}")


def _known(folder: Path) -> set[str]:
    path = folder / RECORD
    if not path.is_file():
        return set()
    damaged = partial(UnreadableRecordError, mend="Remove it, and write with --overwrite.")
    names = read_json(path, damaged)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise damaged(path, "is no record of outputs")
    return set(names)
