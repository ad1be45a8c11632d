"""DICOM studies in; segmentations as DICOM-SEG and fused images as secondary captures out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from fuse4seg.datasets.dicom import LEAVE_OUT, dicom_cases, write_dicom_case
from fuse4seg.datasets.dicom_series import find_studies
from fuse4seg.datasets.dicom_volume import stack_series
from fuse4seg.datasets.series_rules import read_rules
from fuse4seg.inference.dicom_output import Maker, write_dicom
from fuse4seg.inference.export_case import FUSED
from fuse4seg.inference.predict_input import Job

#: Sub-folder of the output.
DICOM = "dicom"


class DicomInput:
    """Studies below a folder, see :class:`~fuse4seg.inference.predict_input.Source`.

    Attributes:
        faults: Why some studies are no cases, by name.
    """

    def __init__(self, folder: Path, job: Job) -> None:
        rules = read_rules(job.rules)
        self._cases, self.faults = dicom_cases(find_studies(folder), job.channels, rules, reference=job.reference,
                                               allow_missing=job.allow_missing,
                                               mend=f"{LEAVE_OUT}, or predict with --allow_missing")
        self._job = job

    @property
    def cases(self) -> Iterable[str]:
        """Names, in order."""
        return self._cases

    @property
    def folders(self) -> set[Path]:
        """Where the images lie."""
        return {path.parent for case in self._cases.values() for series in case.study.series for path in series.files}

    @property
    def outputs(self) -> list[str]:
        """A folder for each case."""
        return [f"{DICOM}/{case}" for case in self._cases]

    def write(self, case: str, folder: Path) -> None:
        """Put a case's volumes into a folder, on the grid of the reference."""
        write_dicom_case(self._cases[case], self._job.channels, folder, self._job.description.file_ending)

    def give_back(self, case: str) -> None:
        """Write a case's segmentation and its fused images, one per set of weights, as DICOM."""
        job, found = self._job, self._cases[case]
        file = f"{case}{job.description.file_ending}"
        labels = _voxels(job.output / file) if job.description.segments else None
        places = [FUSED] if len(job.folds) == 1 else [f"{FUSED}/fold_{fold}" for fold in job.folds]
        fused = {place: _voxels(job.output / place / file) for place in places}
        stack = stack_series(found.series[found.reference], case)
        maker = Maker(job.record.model, job.record.weights, job.description.dataset_json)
        write_dicom(stack, labels, fused, job.output / DICOM / case, maker)

    def finish(self) -> None:
        """Nothing belongs to all cases together."""


def _voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
