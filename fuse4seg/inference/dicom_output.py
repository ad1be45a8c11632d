"""A prediction as DICOM: segmentation as DICOM-SEG, fused image as secondary captures, both of the original study.

Values and identifiers depend on sources, model and result alone, so a prediction repeated gives the same objects.
Patients' names and ids are those of the sources: nothing is de-identified.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from highdicom.sc import SCImage
from highdicom.seg import SegmentDescription
from highdicom.spatial import get_closest_patient_orientation
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.valuerep import format_number_as_ds

from fuse4seg import __version__
from fuse4seg.datasets.dataset_json import foreground_classes
from fuse4seg.datasets.dicom_volume import Stack
from fuse4seg.files import make_writable_folder, written_whole

SEGMENTATION, FUSED, ENDING = "segmentation.dcm", "fused", ".dcm"
MANUFACTURER = "Fuse4Seg"
#: Of series in the study; those of scanners are seldom so high.
FIRST_NUMBER = 9000
#: What a label's name may hold, in small letters, and what that means; other names become codes of our own scheme.
MEANINGS = {"necro": codes.SCT.Necrosis, "oedema": codes.SCT.Edema, "edema": codes.SCT.Edema,
            "tumo": codes.SCT.Neoplasm}
SCHEME = "99FUSE4SEG"
CATEGORY = codes.SCT.MorphologicallyAbnormalStructure
#: What an object takes of its study as it stands there.
OF_STUDY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
            "StudyTime", "ReferringPhysicianName")
#: Longest text of a label or a code's meaning, and value of a code, by the standard (LO, SH).
LONGEST_TEXT, LONGEST_CODE = 64, 16
#: What cannot stand in such texts.
FORBIDDEN = re.compile(r"[\\\x00-\x1f]")


@dataclass(frozen=True)
class Maker:
    """What made a prediction.

    Attributes:
        model: Name of its folder.
        weights: Checksums of its weights.
        dataset_json: Which labels it knows.
    """

    model: str
    weights: Sequence[str]
    dataset_json: Mapping[str, Any]


def write_dicom(stack: Stack, labels: np.ndarray | None, fused: Mapping[str, np.ndarray], folder: Path,
                maker: Maker) -> list[Path]:
    """Write segmentation.dcm and, for each fused image, a file per slice.

    Args:
        stack: The series on whose grid it was predicted.
        labels: Label values, shape (Z, Y, X), slices in the stack's order; None of a model without labels.
        fused: By the sub-folder that each goes to, uint8, shape (Z, Y, X) or in colour (Z, Y, X, 3).
        folder: Is made. Surplus files of an earlier prediction of the same case are removed.
        maker: What made it.

    Returns:
        The files.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    make_writable_folder(folder)
    written = [] if labels is None else [folder / SEGMENTATION]
    if labels is not None:
        _save(_segmentation(stack, labels, maker), written[0])
    for number, (place, levels) in enumerate(fused.items()):
        make_writable_folder(folder / place)
        slices = []
        for index, image in enumerate(_captures(stack, levels, place, FIRST_NUMBER + 1 + number, maker)):
            slices.append(folder / place / f"{index + 1:04d}{ENDING}")
            _save(image, slices[-1])
        for path in set((folder / place).glob(f"[0-9][0-9][0-9][0-9]{ENDING}")) - set(slices):
            path.unlink()
        written += slices
    return written


def identifier(*parts: object) -> str:
    """A UID that depends on ``parts`` alone: a UUID by name, as the standard allows them (PS3.5, B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, chr(10).join(map(str, parts))).int}"


def _segmentation(stack: Stack, labels: np.ndarray, maker: Maker) -> highdicom.seg.Segmentation:
    classes = foreground_classes(maker.dataset_json)
    masks = np.stack([np.isin(labels, values) for values in classes.values()], axis=-1).astype(np.uint8)
    key = _key(stack, labels, maker)
    algorithm = highdicom.AlgorithmIdentificationSequence(MANUFACTURER, codes.DCM.ArtificialIntelligence, __version__)
    descriptions = [SegmentDescription(number, _text(name), CATEGORY, _meaning(name), "AUTOMATIC", algorithm)
                    for number, name in enumerate(classes, start=1)]
    made = highdicom.seg.Segmentation(
        source_images=[_without_patient(dataset) for dataset in stack.datasets], pixel_array=masks[np.argsort(stack.frames)],
        segmentation_type="BINARY", segment_descriptions=descriptions,
        series_instance_uid=identifier("segmentation series", *key), series_number=FIRST_NUMBER,
        sop_instance_uid=identifier("segmentation", *key), instance_number=1, content_label="FUSE4SEG",
        content_description=_text(f"Segmentation by {maker.model}"), series_description="Fuse4Seg segmentation",
        **_equipment(maker))
    # Of random numbers otherwise.
    organization = identifier("dimensions", *key)
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    return _of_study(made, stack)


def _captures(stack: Stack, levels: np.ndarray, place: str, number: int, maker: Maker) -> Iterator[SCImage]:
    """A secondary capture per slice, with its place in space and the slice that it lies on."""
    first, key = stack.datasets[0], _key(stack, levels, maker)
    axes = np.eye(4)
    axes[:3, :3] = stack.direction[:, [1, 0, 2]]
    orientation = get_closest_patient_orientation(axes)
    for index, pixels in enumerate(levels):
        image = SCImage(
            np.ascontiguousarray(pixels), "RGB" if pixels.ndim == 3 else "MONOCHROME2", bits_allocated=8,
            coordinate_system="PATIENT", patient_orientation=(orientation[1], orientation[0]),
            study_instance_uid=first.StudyInstanceUID, series_instance_uid=identifier("fused series", place, *key),
            series_number=number, sop_instance_uid=identifier("fused", place, index, *key), instance_number=index + 1,
            pixel_spacing=stack.spacing[[1, 0]].tolist(), series_description=_text(f"Fuse4Seg {place}"),
            **_equipment(maker))
        image.Laterality = ""  # the standard wants the entry, and a head has no side
        _place(image, stack, index)
        yield _of_study(image, stack)


def _place(image: Dataset, stack: Stack, index: int) -> None:
    """Say where a slice lies, and which image of the study lies there."""
    position = stack.origin + index * stack.spacing[2] * stack.direction[:, 2]
    image.ImagePositionPatient = [format_number_as_ds(float(value)) for value in position]
    image.ImageOrientationPatient = [format_number_as_ds(float(value)) for value in stack.direction[:, :2].T.ravel()]
    image.SliceThickness = image.SpacingBetweenSlices = format_number_as_ds(float(stack.spacing[2]))
    source, item = stack.datasets[0 if stack.is_multi_frame else index], Dataset()
    if "FrameOfReferenceUID" in source:
        image.FrameOfReferenceUID = source.FrameOfReferenceUID
        image.PositionReferenceIndicator = source.get("PositionReferenceIndicator") or ""
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if stack.is_multi_frame:
        item.ReferencedFrameNumber = stack.frames[index] + 1
    image.SourceImageSequence = Items([item])
    series = Dataset()
    series.SeriesInstanceUID, series.ReferencedInstanceSequence = source.SeriesInstanceUID, Items([Dataset(item)])
    image.ReferencedSeriesSequence = Items([series])


def _key(stack: Stack, voxels: np.ndarray, maker: Maker) -> tuple[str, ...]:
    """What identifiers depend on: the images that were predicted from, the weights, and the result."""
    return (*(str(dataset.SOPInstanceUID) for dataset in stack.datasets), *maker.weights,
            hashlib.sha256(np.ascontiguousarray(voxels).tobytes()).hexdigest())


def _equipment(maker: Maker) -> dict[str, Any]:
    serial = hashlib.sha256("".join(maker.weights).encode()).hexdigest()[:LONGEST_CODE]
    return {"manufacturer": MANUFACTURER, "manufacturer_model_name": _text(maker.model),
            "software_versions": __version__, "device_serial_number": serial}


def _without_patient(source: Dataset) -> Dataset:
    """A header that highdicom takes: it refuses entries that archives hold, such as a sex of another spelling."""
    plain = deepcopy(source)
    for keyword in OF_STUDY:
        setattr(plain, keyword, "")
    return plain


def _of_study(image: Any, stack: Stack) -> Any:
    """Give an object the study's patient as it stands there, and its date: by today's it would differ from its repetition."""
    source = stack.datasets[0]
    for keyword in OF_STUDY:
        setattr(image, keyword, str(source.get(keyword) or ""))
    day, time = (str(source.get(f"Content{what}") or source.get(f"Study{what}") or nothing)
                 for what, nothing in (("Date", "19000101"), ("Time", "000000")))
    for keyword in ("ContentDate", "InstanceCreationDate", "DateOfSecondaryCapture", "SeriesDate"):
        if keyword in image:
            setattr(image, keyword, day)
    for keyword in ("ContentTime", "InstanceCreationTime", "TimeOfSecondaryCapture", "SeriesTime"):
        if keyword in image:
            setattr(image, keyword, time)
    for equipment in image.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = f"{day}{time}"
    return image


def _meaning(name: str) -> Code:
    plain = name.casefold()
    known = next((code for part, code in MEANINGS.items() if part in plain), None)
    value = re.sub(r"[^A-Za-z0-9]", "_", name)[:LONGEST_CODE]
    return known or Code(value, SCHEME, _text(name))


def _text(words: str) -> str:
    return FORBIDDEN.sub(" ", words)[:LONGEST_TEXT]


def _save(image: Dataset, path: Path) -> None:
    with written_whole(path) as temporary:
        image.save_as(temporary, enforce_file_format=True)
