"""Cases of BraTS as released from 2018 to 2024, or in nnU-Net's layout."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fuse4seg.datasets.images import NIFTI
from fuse4seg.errors import EmptyFolderError, FaultyCasesError, FolderNotFoundError, MissingModalityError

MODALITIES = ("T1", "T1ce", "T2", "FLAIR")
#: How the releases end a file's name.
RELEASED = {"t1": "T1", "t1n": "T1", "t1ce": "T1ce", "t1c": "T1ce", "t2": "T2", "t2w": "T2", "flair": "FLAIR", "t2f": "FLAIR",
            "seg": "seg", "0000": "T1", "0001": "T1ce", "0002": "T2", "0003": "FLAIR"}
NAME = re.compile(rf"(?P<case>.+)[_-](?P<kind>{'|'.join(sorted(RELEASED, key=len, reverse=True))})", re.IGNORECASE)
LABEL_FOLDERS = ("labels", "labelsTr", "labelsTs")


@dataclass(frozen=True)
class BratsCase:
    """One patient.

    Attributes:
        name: As in its files.
        images: A file for each of MODALITIES.
        label: Its segmentation, None where there is none.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None


def find_brats_cases(folder: Path) -> list[BratsCase]:
    """All cases below a folder, in the order of their names.

    Releases name files CASE_t1, _t1ce, _t2, _flair, _seg (2018 to 2021) or CASE-t1n, -t1c, -t2w, -t2f, -seg (from 2023);
    nnU-Net CASE_0000 to CASE_0003, with CASE in a folder labels, labelsTr or labelsTs.

    Raises:
        FolderNotFoundError, EmptyFolderError: There is no such folder, or no file of these names.
        FaultyCasesError: Cases lack modalities; one line each.
    """
    if not folder.is_dir():
        raise FolderNotFoundError(folder)
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*.nii*")):
        ending = next((ending for ending in sorted(NIFTI, key=len, reverse=True) if path.name.endswith(ending)), None)
        if ending is None or path.name.startswith(".") or not path.is_file():
            continue
        name = path.name.removesuffix(ending)
        matched = NAME.fullmatch(name)
        if name.lower().endswith("_segm"):
            # One case of 2020 keeps the name that its annotators gave it.
            found.setdefault(path.parent.name, {})["seg"] = path
        elif path.parent.name in LABEL_FOLDERS:
            found.setdefault(name, {})["seg"] = path
        elif matched:
            found.setdefault(matched["case"], {})[RELEASED[matched["kind"].lower()]] = path
    cases = {name: files for name, files in found.items() if files.keys() - {"seg"}}
    if not cases:
        raise EmptyFolderError(folder, ".nii.gz", mend="Give the folder of a BraTS release, or of CASE_0000 to CASE_0003 files.")
    faults = [str(MissingModalityError(name, modality, next(iter(files.values())).parent, "Add it, or remove the case."))
              for name, files in sorted(cases.items()) for modality in MODALITIES if modality not in files]
    if faults:
        raise FaultyCasesError(faults)
    return [BratsCase(name, tuple(files[modality] for modality in MODALITIES), files.get("seg"))
            for name, files in sorted(cases.items())]


def enhancing_is_three(labels: np.ndarray) -> np.ndarray:
    """Labels with enhancing tumour as 3, which releases before 2023 call 4; beside a 3, 4 is something else, and stays."""
    return labels if (labels == 3).any() else np.where(labels == 4, 3, labels).astype(labels.dtype)
