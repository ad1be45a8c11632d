"""Which files belong together as the sources of one fused image."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fuse4seg.datasets.grey_images import ENDINGS, image_files
from fuse4seg.errors import MissingModalityError, OptionError, UnpairedCasesError, first_line

Found = TypeVar("Found")

SHOWN = 5
MOST_FOLDERS = 4


@dataclass(frozen=True)
class Sources:
    """Source images of every case.

    Attributes:
        names: Of the modalities.
        images: For each case, a file per modality.
    """

    names: tuple[str, ...]
    images: dict[str, tuple[Path, ...]]


def find_sources(folders: Sequence[Path]) -> Sources:
    """Sources in one folder of CASE_0000, CASE_0001, ... files, or in two to four folders of images with equal names.

    Raises:
        FolderNotFoundError, EmptyFolderError: A folder is missing or holds no image.
        MissingModalityError: A case of the one folder lacks a file.
        UnpairedCasesError: A name is not in all folders, or the one folder holds no CASE_0000 files.
        OptionError: There are more than four folders, or one is given twice.
    """
    if len(folders) == 1:
        return _numbered(folders[0])
    if len(folders) > MOST_FOLDERS or len({folder.resolve() for folder in folders}) < len(folders):
        raise OptionError("-i", f"takes one folder of CASE_0000, CASE_0001, ... files, or two to {MOST_FOLDERS} different ones.")
    found = [image_files(folder) for folder in folders]
    for folder, files in zip(folders, found, strict=True):
        require_equal_names(folders[0], found[0], folder, files)
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return Sources(tuple(names), {name: tuple(files[name] for files in found) for name in found[0]})


def require_equal_names(folder: Path, names: Iterable[str], other: Path, others: Iterable[str]) -> None:
    """Make sure that two folders hold images of the same names.

    Raises:
        UnpairedCasesError: One lacks some; the first few are named.
    """
    names, others = set(names), set(others)
    for holds, lacks, missing in ((folder, other, names - others), (other, folder, others - names)):
        if missing:
            raise UnpairedCasesError(f"{lacks} lacks {len(missing)} image(s) that {holds} holds: {_first(sorted(missing))}. "
                                     "Add or remove them.")


def read_case_names(path: Path) -> list[str]:
    """Names of cases in a text file, one a line, or in a JSON file, a list; endings of images may stand behind them.

    Raises:
        OptionError: It cannot be read, or holds something else, none, or one twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        names = json.loads(text) if text.lstrip().startswith(("[", "{")) else text.split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError("--cases", f"{path} cannot be read ({first_line(error)}). Give a text file, a name a line, or a "
                                     "JSON list of names.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise OptionError("--cases", f"{path} is no list of names. Give a text file, a name a line, or a JSON list of "
                                     "names.")
    cases = [_without_ending(name.strip()) for name in names if name.strip()]
    if not cases or len(set(cases)) < len(cases):
        twice = next((case for case in cases if cases.count(case) > 1), "")
        raise OptionError("--cases", f"{path} names {f'{twice} twice' if twice else 'no case'}. Correct it.")
    return cases


def _without_ending(name: str) -> str:
    return next((name[:-len(ending)] for ending in ENDINGS if name.lower().endswith(ending)), name)


def only(chosen: Sequence[str] | None, found: Mapping[str, Found], folder: Path) -> dict[str, Found]:
    """What was found of the chosen cases, in their order; all of it where none are chosen.

    Raises:
        UnpairedCasesError: The folder lacks one; the first few are named.
    """
    if chosen is None:
        return dict(found)
    missing = [case for case in chosen if case not in found]
    if missing:
        raise UnpairedCasesError(f"{folder} lacks {len(missing)} of the chosen case(s): {_first(missing)}. Add them, or "
                                 "choose others.")
    return {case: found[case] for case in chosen}


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _numbered(folder: Path) -> Sources:
    cases: dict[str, dict[int, Path]] = {}
    for name, path in image_files(folder).items():
        matched = re.fullmatch(r"(.+)_(\d{4})", name)
        if not matched:
            raise UnpairedCasesError(f"{path} is not named CASE_0000, CASE_0001, ... Rename it, or give one folder per modality.")
        cases.setdefault(matched[1], {})[int(matched[2])] = path
    count = max(max(files) for files in cases.values()) + 1
    if count < 2:
        raise UnpairedCasesError(f"{folder} holds one modality alone. Add CASE_0001, ..., or give one folder per modality.")
    for case, files in cases.items():
        for number in sorted(set(range(count)) - set(files)):
            raise MissingModalityError(case, f"{number:04d}", folder / f"{case}_{number:04d}", "Add it, or remove the case.")
    return Sources(tuple(f"{number:04d}" for number in range(count)),
                   {case: tuple(files[number] for number in range(count)) for case, files in sorted(cases.items())})
