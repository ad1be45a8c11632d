"""Volumes as DICOM series, of single frames or of one multi-frame file, for tests."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

CLASSES = {"MR": MRImageStorage, "CT": CTImageStorage, "PT": PositronEmissionTomographyImageStorage}


def uid(*names: object) -> str:
    """The same for the same names."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(map(str, names))).int}"


@dataclass
class SeriesWriter:
    """Writes volumes into a folder as series of a study.

    Attributes:
        folder: Gets a sub-folder per series.
        patient: PatientID.
        study: Makes StudyInstanceUID.
        date: StudyDate.
        space: Makes FrameOfReferenceUID.
    """

    folder: Path
    patient: str = "P1"
    study: str = "study"
    date: str = "20200131"
    space: str = "space"
    written: int = field(default=0)

    def write(self, image: sitk.Image, description: str, *, modality: str = "MR", multi_frame: bool = False,
              slope: float = 1.0, intercept: float = 0.0, order: Sequence[int] | None = None,
              change: Callable[[int, Dataset], None] | None = None, **header: Any) -> list[Path]:
        """Write int16 voxels.

        Args:
            image: Volume of whole numbers, which are stored as they are and mean slope * stored + intercept.
            description: SeriesDescription.
            modality: MR, CT or PT.
            multi_frame: As one enhanced MR file.
            slope: RescaleSlope.
            intercept: RescaleIntercept.
            order: Indices of slices in the order in which they are stored and numbered; all of them by default.
            change: Is given the number in that order and the dataset of a slice, before it is written.
            header: Further entries.
        """
        self.written += 1
        place = self.folder / f"{self.study}_{self.written}"
        place.mkdir(parents=True)
        order = list(range(image.GetSize()[2])) if order is None else list(order)
        common = self._common(description, modality, image, **header)
        if multi_frame:
            paths = [place / "enhanced"]
            dataset = self._enhanced(image, common, order, slope, intercept)
            if change is not None:
                change(0, dataset)
            _save(dataset, paths[0], EnhancedMRImageStorage)
            return paths
        paths = []
        for number, index in enumerate(order):
            dataset = Dataset()
            dataset.update(common)
            dataset.SOPInstanceUID = uid(self.study, description, self.written, index)
            dataset.InstanceNumber = number + 1
            dataset.ImagePositionPatient = _numbers(image.TransformIndexToPhysicalPoint((0, 0, index)))
            dataset.ImageOrientationPatient = _orientation(image)
            dataset.PixelSpacing = _numbers(image.GetSpacing()[1::-1])
            dataset.SliceThickness = _number(image.GetSpacing()[2])
            dataset.RescaleSlope, dataset.RescaleIntercept = _number(slope), _number(intercept)
            dataset.PixelData = _stored(image)[index].tobytes()
            if change is not None:
                change(number, dataset)
            paths.append(place / f"IM{number:04d}")
            _save(dataset, paths[-1], CLASSES[modality])
        return paths

    def _common(self, description: str, modality: str, image: sitk.Image, **header: Any) -> Dataset:
        dataset = Dataset()
        entries = {"PatientID": self.patient, "PatientName": "Phantom^Head", "PatientBirthDate": "", "PatientSex": "O",
                   "StudyInstanceUID": uid(self.study), "StudyDate": self.date, "StudyTime": "101112", "StudyID": "1",
                   "AccessionNumber": "", "ReferringPhysicianName": "",
                   "SeriesInstanceUID": uid(self.study, self.written), "SeriesNumber": self.written,
                   "SeriesDescription": description, "Modality": modality,
                   "Manufacturer": "Phantoms", "FrameOfReferenceUID": uid(self.space), "PositionReferenceIndicator": "",
                   "ImageType": ["ORIGINAL", "PRIMARY"], "SamplesPerPixel": 1,
                   "PhotometricInterpretation": "MONOCHROME2", "Rows": image.GetSize()[1], "Columns": image.GetSize()[0],
                   "BitsAllocated": 16, "BitsStored": 16,
                   "HighBit": 15, "PixelRepresentation": 1, "ContentDate": self.date, "ContentTime": "101112", **header}
        for name, value in entries.items():
            setattr(dataset, name, value)
        return dataset

    def _enhanced(self, image: sitk.Image, common: Dataset, order: Sequence[int], slope: float,
                  intercept: float) -> Dataset:
        dataset = Dataset()
        dataset.update(common)
        dataset.SOPInstanceUID, dataset.InstanceNumber = uid(self.study, self.written, "enhanced"), 1
        dataset.NumberOfFrames = len(order)
        organization = uid(self.study, self.written, "dimensions")
        dataset.DimensionOrganizationSequence = Items([_item(DimensionOrganizationUID=organization)])
        dataset.DimensionIndexSequence = Items([_item(DimensionOrganizationUID=organization,
                                                      DimensionIndexPointer=0x00200032,
                                                      FunctionalGroupPointer=0x00209113)])
        measures = _item(PixelSpacing=_numbers(image.GetSpacing()[1::-1]),
                         SliceThickness=_number(image.GetSpacing()[2]))
        dataset.SharedFunctionalGroupsSequence = Items([_item(
            PixelMeasuresSequence=Items([measures]),
            PlaneOrientationSequence=Items([_item(ImageOrientationPatient=_orientation(image))]),
            PixelValueTransformationSequence=Items([_item(
                RescaleSlope=_number(slope), RescaleIntercept=_number(intercept), RescaleType="US")]))])
        places = [_numbers(image.TransformIndexToPhysicalPoint((0, 0, index))) for index in order]
        dataset.PerFrameFunctionalGroupsSequence = Items([_item(
            PlanePositionSequence=Items([_item(ImagePositionPatient=place)]),
            FrameContentSequence=Items([_item(DimensionIndexValues=[number])]))
            for number, place in enumerate(places, start=1)])
        dataset.PixelData = _stored(image)[list(order)].tobytes()
        return dataset


def _stored(image: sitk.Image) -> np.ndarray:
    voxels = sitk.GetArrayFromImage(image)
    assert (voxels == np.rint(voxels)).all()
    return voxels.astype(np.int16)


def _item(**entries: Any) -> Dataset:
    item = Dataset()
    for name, value in entries.items():
        setattr(item, name, value)
    return item


def _number(value: float) -> str:
    return pydicom.valuerep.format_number_as_ds(float(value))


def _numbers(values: Sequence[float]) -> list[str]:
    return [_number(value) for value in values]


def _orientation(image: sitk.Image) -> list[str]:
    direction = np.reshape(image.GetDirection(), (3, 3))
    return _numbers([*direction[:, 0], *direction[:, 1]])


def _save(dataset: Dataset, path: Path, kind: str) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = getattr(dataset, "syntax", ExplicitVRLittleEndian)
    dataset.SOPClassUID = kind
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    file.update(dataset)
    file.save_as(path, enforce_file_format=True)
