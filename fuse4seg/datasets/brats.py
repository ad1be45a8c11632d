"""BraTS, as released from 2018 to 2024 or in nnU-Net's layout: its cases, and all of them as a raw dataset."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from fuse4seg.datasets.dataset_json import NO_LABELS, read_dataset_json
from fuse4seg.datasets.images import read_image
from fuse4seg.datasets.nifti import NIFTI, give_header_back, header_of, readable_by_itk
from fuse4seg.datasets.raw_writer import describe, new_raw_dataset, place
from fuse4seg.errors import (
    DatasetJsonError,
    EmptyFolderError,
    FaultyCasesError,
    FolderNotFoundError,
    MissingModalityError,
    OptionError,
)
from fuse4seg.progress import progress

log = logging.getLogger(__name__)

MODALITIES = ("T1", "T1ce", "T2", "FLAIR")
#: How the releases end a file's name.
RELEASED = {"t1": "T1", "t1n": "T1", "t1ce": "T1ce", "t1c": "T1ce", "t2": "T2", "t2w": "T2", "flair": "FLAIR", "t2f": "FLAIR",
            "seg": "seg", "0000": "T1", "0001": "T1ce", "0002": "T2", "0003": "FLAIR"}
NAME = re.compile(rf"(?P<case>.+)[_-](?P<kind>{'|'.join(sorted(RELEASED, key=len, reverse=True))})", re.IGNORECASE)
LABEL_FOLDERS = ("labels", "labelsTr", "labelsTs")
LABELS = {"background": 0, "necrotic core": 1, "oedema": 2, "enhancing tumour": 3}
#: What a label's values mean, by release. 2018 stands for 2017 to 2021 (arXiv:2107.02314), 2023 for all its tasks and for MEN,
#: MET and SSA of 2024; treated gliomas of 2024 add the cavity (arXiv:2405.18368), children's tumours have values of their own
#: (arXiv:2404.15009).
CONVENTIONS = {
    "2018": {"background": 0, "necrotic core": 1, "oedema": 2, "enhancing tumour": 4},
    "2023": LABELS,
    "2024-GLI": {**LABELS, "resection cavity": 4},
    "2024-PED": {"background": 0, "enhancing tumour": 1, "non-enhancing tumour": 2, "cystic component": 3, "oedema": 4},
}
#: Files before 2023, and cases from then on.
OLD = re.compile(r"_t1ce\.nii", re.IGNORECASE)
TASK = re.compile(r"BraTS-(?P<task>[A-Z]+)-", re.IGNORECASE)


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
        ending = next((ending for ending in NIFTI if path.name.endswith(ending)), None)
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
        raise FaultyCasesError(faults, nothing_written=True)
    return [BratsCase(name, tuple(files[modality] for modality in MODALITIES), files.get("seg"))
            for name, files in sorted(cases.items())]


def with_three(labels: np.ndarray, release: str) -> np.ndarray:
    """Label values of a release, enhancing tumour as 3, which releases before 2023 call 4."""
    return np.where(labels == 4, 3, labels).astype(labels.dtype) if release == "2018" else labels


def meaning_of(release: str) -> dict[str, int]:
    """What the values of :func:`with_three` mean."""
    return LABELS if release == "2018" else CONVENTIONS[release]


def label_values_of(case: BratsCase) -> set[int]:
    """Values that a case's label holds; none of a case without one.

    Raises:
        UnreadableImageError, UnsuitableImageError: It cannot be read.
    """
    return set(np.unique(read_image(case.label, SimpleITKIO).voxels).astype(int).tolist()) if case.label else set()


def find_release(cases: Sequence[BratsCase], values: set[int]) -> str:
    """Key in CONVENTIONS of the release that cases belong to: by what f4s_convert_dataset wrote, else by names and labels.

    Args:
        cases: At least one.
        values: That their labels hold, all together.

    Raises:
        OptionError: They do not tell.
    """
    described = {}
    with suppress(DatasetJsonError):  # a release has none, or one of its own
        described = read_dataset_json(cases[0].images[0].parent.parent)["labels"]
    if known := [release for release, meaning in CONVENTIONS.items() if meaning == described]:
        return known[0]
    tasks = {matched["task"].upper() if (matched := TASK.match(case.name)) else "" for case in cases}
    if tasks <= {"GLI", "MEN", "MET", "SSA"}:
        return "2024-GLI" if 4 in values and "GLI" in tasks else "2023"
    if tasks == {"PED"} and 4 in values:
        return "2024-PED"
    if tasks == {""} and 4 not in values:
        return "2023"
    if tasks == {""} and 3 not in values and all(OLD.search(case.images[1].name) for case in cases):
        return "2018"
    raise OptionError("--release", f"names and label values {sorted(values)} do not tell the release, so nor their meaning. "
                                   f"Give f4s_convert_dataset brats one of {', '.join(CONVENTIONS)}, and use what it writes.")


def convert_brats(source: Path, dataset_id: int, *, name: str = "BraTS", copy: bool = False, processes: int = 1,
                  release: str = "") -> None:
    """Write a raw dataset of T1, T1ce, T2 and FLAIR; images and labels that need no change are linked.

    Values keep their release's meaning; the 4 of those before 2023 becomes 3. Cases without a segmentation go to
    imagesTs; where no case has one, all become training cases of a dataset without labels.

    Args:
        source: A release, or part of it.
        dataset_id: Of the new dataset.
        name: Its name.
        copy: Copy instead of linking.
        processes: Cases examined at a time.
        release: Key in CONVENTIONS; without one, what the cases tell.

    Raises:
        OptionError: There is no such release, or the cases do not tell theirs.
        FaultyCasesError: Cases lack modalities; one line each.
        FaultyDatasetError: Cases cannot be trained on; one line each.
        As :func:`~fuse4seg.datasets.brats.find_brats_cases` and :func:`~fuse4seg.datasets.raw_writer.new_raw_dataset`.
    """
    if release and release not in CONVENTIONS:
        raise OptionError("--release", f"{release} is none of {', '.join(CONVENTIONS)}. Give one of them.")
    cases = find_brats_cases(source)
    labelled = [case for case in cases if case.label]
    training = labelled or cases
    ending = ".nii" if all(path.suffix == ".nii" for case in cases for path in _files(case)) else ".nii.gz"
    with new_raw_dataset(dataset_id, name) as folder:
        for case in progress(cases, "converting images", unit="case"):
            target = folder / ("imagesTr" if case in training else "imagesTs")
            for number, path in enumerate(case.images):
                place(path, target / f"{case.name}_{number:04d}{ending}", copy=copy)
        labels = _convert_labels(labelled, folder / "labelsTr", ending, copy=copy, release=release) if labelled else NO_LABELS
        describe(folder, channels=MODALITIES, labels=labels, training=len(training), ending=ending, processes=processes)


def _files(case: BratsCase) -> tuple[Path, ...]:
    return (*case.images, *([case.label] if case.label else []))


def _convert_labels(cases: Sequence[BratsCase], folder: Path, ending: str, *, copy: bool, release: str) -> dict[str, int]:
    """Write the labels; returns their names."""
    values = {case.name: label_values_of(case) for case in progress(cases, "reading labels", unit="case")}
    release = release or find_release(cases, set().union(*values.values()))
    log.info("labels mean %s", CONVENTIONS[release])
    for case in progress(cases, "converting labels", unit="case"):
        target = folder / f"{case.name}{ending}"
        if release != "2018" or 4 not in values[case.name]:
            place(case.label, target, copy=copy)
            continue
        target.parent.mkdir(exist_ok=True)
        _write_with_three(case.label, target, release)
    return meaning_of(release)


def _write_with_three(label: Path, target: Path, release: str) -> None:
    """The label image that :func:`with_three` gives, in the place of the other."""
    with readable_by_itk([label]) as (file,):
        stored = sitk.ReadImage(str(file))
    changed = sitk.GetImageFromArray(with_three(sitk.GetArrayFromImage(stored), release).astype(np.uint8))
    changed.CopyInformation(stored)
    sitk.WriteImage(changed, str(target), useCompression=True)
    give_header_back(target, header_of(label))
