"""DICOM files below a folder as studies of series, by their headers alone."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from fuse4seg.datasets.dicom_files import dicom_files
from fuse4seg.errors import (
    EmptyFolderError,
    FaultyImageError,
    FolderNotFoundError,
    Fuse4SegError,
    UnreadableImageError,
    first_line,
)
from fuse4seg.progress import progress

log = logging.getLogger(__name__)

#: What is an image that could be a channel; segmentations, screenshots, reports, directories and such are passed over.
IMAGES = {CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage,
          MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage,
          PositronEmissionTomographyImageStorage, EnhancedPETImageStorage, LegacyConvertedEnhancedPETImageStorage}
#: Names of the pulse sequence; what every image has; and with both what is read of a header to tell series apart.
SEQUENCE = ("SequenceName", "PulseSequenceName", "ScanningSequence")
OWN = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
TAGS = ("SpecificCharacterSet", "SOPClassUID", *OWN, "PatientID", "StudyDate", "SeriesNumber", "SeriesDescription",
        "ProtocolName", *SEQUENCE, "Modality", "ContrastBolusAgent", "ContrastBolusAgentSequence", "ImageType",
        "SamplesPerPixel")
#: Values of ImageType, and of the name of a contrast agent, that say that there is nothing of use.
LOCALIZER, NO_AGENT = "LOCALIZER", ("", "NO", "NONE", "N", "0")
#: Longest name of a case that is made from a patient's id, so that file names hold it beside a channel's.
LONGEST_NAME = 100


@dataclass(frozen=True)
class Series:
    """Images that were taken together.

    Attributes:
        uid: SeriesInstanceUID.
        number: SeriesNumber, None where there is none.
        description: SeriesDescription and ProtocolName, with `` | `` between them where they differ.
        sequence: Names of the pulse sequence.
        modality: MR, CT or PT.
        contrast: Whether the header names a contrast agent.
        files: In the order of their names; of one image or several each.
    """

    uid: str
    number: int | None
    description: str
    sequence: str
    modality: str
    contrast: bool
    files: tuple[Path, ...]

    def __str__(self) -> str:
        number = "without number" if self.number is None else f"{self.number}"
        return f"series {number} {self.description!r} ({len(self.files)} file(s) in {self.files[0].parent})"


@dataclass(frozen=True)
class Study:
    """An examination of a patient: one case.

    Attributes:
        name: The case's: patient's id and date, or a hash where there is no id; safe as a file name.
        uid: StudyInstanceUID.
        series: By number.
    """

    name: str
    uid: str
    series: tuple[Series, ...]

    @property
    def files(self) -> list[Path]:
        """Of all series."""
        return [path for series in self.series for path in series.files]


@dataclass
class Found:
    """What lies below a folder: studies by the names of their cases, and what is wrong with others or with files."""

    studies: dict[str, Study]
    faults: dict[str, Fuse4SegError] = field(default_factory=dict)


def find_studies(folder: Path) -> Found:
    """All studies below a folder, whatever the files are called; copies of an image count once.

    Args:
        folder: Holds DICOM files, in sub-folders or not, with a DICOMDIR or not.

    Returns:
        The studies that hold an image, and a fault for each file that cannot be read: it may be a slice of the studies
        that have files beside it, so these are faulty.

    Raises:
        FolderNotFoundError, EmptyFolderError: There is no such folder, or no DICOM image.
    """
    if not folder.is_dir():
        raise FolderNotFoundError(folder)
    headers: dict[Path, Dataset] = {}
    damaged: dict[Path, Fuse4SegError] = {}
    for path in progress(list(dicom_files(folder)), "reading DICOM headers", unit="file"):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
            if _is_image(header):
                headers[path] = header
        # What pydicom raises on damaged files has no common base.
        except Exception as error:
            damaged[path] = UnreadableImageError(path, first_line(error))
            log.debug("%s", path, exc_info=error)
    studies = _studies(_once_each(headers))
    if not studies and not damaged:
        raise EmptyFolderError(folder, ".dcm", mend="Give a folder of DICOM images of MR, CT or PET.")
    faults = _faults(studies, damaged)
    return Found({study.name: study for study in studies if study.name not in faults}, faults)


def _faults(studies: Sequence[Study], damaged: Mapping[Path, Fuse4SegError]) -> dict[str, Fuse4SegError]:
    """Why studies with files beside damaged ones are faulty, by name; and damaged files that lie alone, by theirs."""
    faults: dict[str, Fuse4SegError] = {}
    for path, error in damaged.items():
        beside = [study for study in studies if any(path.parent == other.parent for other in study.files)]
        faults.update({study.name: FaultyImageError(study.name, str(error)) for study in beside} or {str(path): error})
    return faults


def _is_image(header: Dataset) -> bool:
    """Whether a file may be part of a channel.

    Raises:
        ValueError: It ends before it says what it is; pydicom reads what is cut off there as an empty dataset.
    """
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    if kind is not None and kind not in IMAGES:
        return False
    if kind is None or not all(header.get(name) for name in OWN):
        raise ValueError("it does not say which image of which series it is")
    return header.get("SamplesPerPixel", 1) == 1 and LOCALIZER not in (header.get("ImageType") or ())


def _once_each(headers: dict[Path, Dataset]) -> dict[Path, Dataset]:
    """Files without the copies of others."""
    known: dict[str, Path] = {}
    for path, header in headers.items():
        known.setdefault(str(header.SOPInstanceUID), path)
    if copies := len(headers) - len(known):
        log.info("%d file(s) hold an image that another file holds, too, and are left out", copies)
    return {path: headers[path] for path in known.values()}


def _studies(headers: dict[Path, Dataset]) -> list[Study]:
    """Studies in the order of their names."""
    grouped: dict[tuple[str, str], dict[str, list[Path]]] = {}
    for path, header in headers.items():
        key = str(header.get("StudyInstanceUID", "")), str(header.get("PatientID") or "")
        grouped.setdefault(key, {}).setdefault(str(header.get("SeriesInstanceUID", "")), []).append(path)
    named: dict[str, list[tuple[str, str]]] = {}
    for key, series in grouped.items():
        first = headers[next(iter(series.values()))[0]]
        named.setdefault(_name(key, str(first.get("StudyDate") or "")), []).append(key)
    # Names that differ in capitals alone would be one file on some disks.
    crowded = [name.casefold() for name, keys in named.items() for _ in keys]
    studies = []
    for name, keys in named.items():
        for key in keys:
            unique = name if crowded.count(name.casefold()) == 1 else f"{name}_{_hash(key)}"
            series = [_series(uid, files, headers[files[0]]) for uid, files in grouped[key].items()]
            studies.append(Study(unique, key[0], tuple(sorted(series, key=lambda one: (one.number or 0, one.uid)))))
    return sorted(studies, key=lambda study: study.name)


def _name(key: tuple[str, str], date: str) -> str:
    """PATIENT_DATE in letters, digits, hyphens and dots; a hash where there is no patient's id."""
    patient = re.sub(r"[^A-Za-z0-9.]+", "-", key[1]).strip("-.")[:LONGEST_NAME]
    return "_".join(filter(None, [patient or f"study-{_hash(key)}", re.sub(r"\D", "", date)]))


def _hash(key: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(key).encode()).hexdigest()[:8]


def _series(uid: str, files: Sequence[Path], header: Dataset) -> Series:
    texts = [str(header.get(tag) or "").strip() for tag in ("SeriesDescription", "ProtocolName")]
    number = header.get("SeriesNumber")
    agent = str(header.get("ContrastBolusAgent") or "").strip().upper()
    return Series(uid, number=None if number is None else int(number),
                  description=" | ".join(dict.fromkeys(filter(None, texts))),
                  sequence=" ".join(_words(header.get(tag)) for tag in SEQUENCE).strip(),
                  modality=str(header.get("Modality") or ""),
                  contrast=agent not in NO_AGENT or bool(header.get("ContrastBolusAgentSequence")),
                  files=tuple(sorted(files)))


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value or "")
