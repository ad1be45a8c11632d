"""BraTS, as released from 2018 to 2024, as a raw dataset."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from fuse4seg.datasets.brats import MODALITIES, BratsCase, enhancing_is_three, find_brats_cases
from fuse4seg.datasets.images import read_image
from fuse4seg.datasets.raw import NO_LABELS
from fuse4seg.datasets.raw_writer import describe, new_raw_dataset, place
from fuse4seg.progress import progress

log = logging.getLogger(__name__)

LABELS = {"background": 0, "necrotic core": 1, "oedema": 2, "enhancing tumour": 3}
#: Of the releases of treated patients, which have a 3 as well.
CAVITY = {"resection cavity": 4}


def convert_brats(source: Path, dataset_id: int, *, name: str = "BraTS", copy: bool = False, processes: int = 1) -> None:
    """Write a raw dataset of T1, T1ce, T2 and FLAIR; images and labels that need no change are linked.

    Label 4 becomes 3, unless some case has both: then it is the resection cavity and stays. Cases without a segmentation go to
    imagesTs; where no case has one, all become training cases of a dataset without labels.

    Args:
        source: A release, or part of it.
        dataset_id: Of the new dataset.
        name: Its name.
        copy: Copy instead of linking.
        processes: Cases examined at a time.

    Raises:
        FaultyCasesError: Cases lack modalities; one line each.
        FaultyDatasetError: Cases cannot be trained on; one line each.
        As :func:`~fuse4seg.datasets.brats.find_brats_cases` and :func:`~fuse4seg.datasets.raw_writer.new_raw_dataset`.
    """
    cases = find_brats_cases(source)
    labelled = [case for case in cases if case.label]
    training = labelled or cases
    ending = ".nii" if all(path.suffix == ".nii" for case in cases for path in _files(case)) else ".nii.gz"
    with new_raw_dataset(dataset_id, name) as folder:
        for case in progress(cases, "converting images", unit="case"):
            target = folder / ("imagesTr" if case in training else "imagesTs")
            for number, path in enumerate(case.images):
                place(path, target / f"{case.name}_{number:04d}{ending}", copy=copy)
        labels = _convert_labels(labelled, folder / "labelsTr", ending, copy=copy) if labelled else NO_LABELS
        describe(folder, channels=MODALITIES, labels=labels, training=len(training), ending=ending, processes=processes)


def _files(case: BratsCase) -> tuple[Path, ...]:
    return (*case.images, *([case.label] if case.label else []))


def _convert_labels(cases: Sequence[BratsCase], folder: Path, ending: str, *, copy: bool) -> dict[str, int]:
    """Write the labels; returns their names."""
    values = {case.name: set(np.unique(read_image(case.label, SimpleITKIO).voxels).astype(int).tolist())
              for case in progress(cases, "reading labels", unit="case")}
    cavity = any({3, 4} <= found for found in values.values())
    log.info("label 4 is the resection cavity here, and stays" if cavity else "enhancing tumour is label 3")
    for case in progress(cases, "converting labels", unit="case"):
        target = folder / f"{case.name}{ending}"
        if cavity or 4 not in values[case.name]:
            place(case.label, target, copy=copy)
            continue
        stored = sitk.ReadImage(str(case.label))
        changed = sitk.GetImageFromArray(enhancing_is_three(sitk.GetArrayFromImage(stored)).astype(np.uint8))
        changed.CopyInformation(stored)
        target.parent.mkdir(exist_ok=True)
        sitk.WriteImage(changed, str(target), useCompression=True)
    return LABELS | CAVITY if cavity else LABELS
