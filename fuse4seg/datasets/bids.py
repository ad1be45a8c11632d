"""BIDS datasets as cases: which image of a subject's session is which channel.

Source: Brain Imaging Data Structure 1.10, "Magnetic Resonance Imaging", https://bids-specification.readthedocs.io.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from fuse4seg.datasets.images import require_whole
from fuse4seg.datasets.modalities import modality_of
from fuse4seg.datasets.nifti import NIFTI, give_header_back, header_of, readable_by_itk
from fuse4seg.datasets.one_grid import index_of_grid, write_on_grid
from fuse4seg.datasets.raw import PREDICT_ANYWAY
from fuse4seg.errors import (
    AmbiguousImagesError,
    EmptyFolderError,
    Fuse4SegError,
    MissingModalityError,
    OptionError,
    UnreadableImageError,
    UnsuitableImageError,
)

DESCRIPTION = "dataset_description.json"
#: Suffix, and whether a contrast agent is named, by modality; None where that is left open.
SUFFIXES = {"T1": ("T1w", False), "T1ce": ("T1w", True), "T2": ("T2w", None), "FLAIR": ("FLAIR", None)}
ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)")
#: Parts of a complex image that are none to segment.
NO_MAGNITUDE = ("phase", "real", "imag")


@dataclass(frozen=True)
class BidsImage:
    """An image in a folder ``anat``: its file, entities in their order, and suffix."""

    path: Path
    entities: dict[str, str]
    suffix: str

    def is_modality(self, modality: str) -> bool:
        """Whether it is of one of the keys of SUFFIXES."""
        suffix, enhanced = SUFFIXES[modality]
        magnitude = self.entities.get("part") not in NO_MAGNITUDE
        return magnitude and self.suffix == suffix and enhanced in (None, "ce" in self.entities)


@dataclass(frozen=True)
class BidsCase:
    """A subject's session, or a subject where there are no sessions.

    Attributes:
        name: sub-LABEL or sub-LABEL_ses-LABEL.
        folder: ``anat``.
        images: For each channel its image, None where there is none.
        reference: Index of the channel whose grid all get, which is there.
    """

    name: str
    folder: Path
    images: tuple[BidsImage | None, ...]
    reference: int


def is_bids(folder: Path) -> bool:
    """Whether a folder is the root of a BIDS dataset: dataset_description.json beside subjects."""
    return (folder / DESCRIPTION).is_file() and any(path.is_dir() for path in folder.glob("sub-*"))


def bids_cases(root: Path, channels: Sequence[str], *, reference: int = 0,
               allow_missing: bool = False) -> tuple[dict[str, BidsCase], dict[str, Fuse4SegError]]:
    """Cases of all subjects and sessions; derivatives, sourcedata and code are passed over.

    Args:
        root: Of the dataset.
        channels: That are wanted, in order.
        reference: Index of the channel whose grid is wanted; where it is not there, the first that is takes its place.
        allow_missing: Also take cases that lack channels.

    Returns:
        The cases by name, and why others are none, by name.

    Raises:
        OptionError: BIDS has no suffix for a channel.
        EmptyFolderError: No subject has a folder anat with NIfTI files.
    """
    modalities = [modality_of(channel) or "" for channel in channels]
    for channel, modality in zip(channels, modalities, strict=True):
        if modality not in SUFFIXES:
            raise OptionError("-i", f"{root} is a BIDS dataset, of which T1w, T1w with ce-, T2w and FLAIR are read, "
                                    f"and not the model's channel {channel}. Give a folder of CASE_0000, ... files.")
    cases, faults, seen = {}, {}, False
    for name, folder in _sessions(root):
        images = list(_images(folder))
        seen = seen or bool(images)
        try:
            found = [_one(name, channel, [image for image in images if image.is_modality(modality)])
                     for channel, modality in zip(channels, modalities, strict=True)]
            if not any(found) or not all(found) and not allow_missing:
                absent = next(channel for channel, image in zip(channels, found, strict=True) if image is None)
                raise MissingModalityError(name, absent, folder, PREDICT_ANYWAY)
            cases[name] = BidsCase(name, folder, tuple(found), index_of_grid(found, reference))
        except Fuse4SegError as error:
            faults[name] = error
    if not seen:
        raise EmptyFolderError(root, ".nii.gz", mend="Give a BIDS dataset with images in sub-LABEL/anat or "
                                                     "sub-LABEL/ses-LABEL/anat.")
    return cases, faults


def write_bids_case(case: BidsCase, channels: Sequence[str], folder: Path, ending: str) -> None:
    """Put CASE_0000, CASE_0001, ... into a folder: links to what is on the reference's grid, others written on that.

    Args:
        case: Of :func:`bids_cases`.
        channels: Their names, in order.
        folder: Exists.
        ending: Of a format of volumes with a place in space.

    Raises:
        UnreadableImageError, UnsuitableImageError: An image cannot be read, or is no volume.
    """
    reference = case.images[case.reference].path
    grid = _read(reference)
    for index, image in enumerate(case.images):
        if image is None:
            continue
        path, voxels = folder / f"{case.name}_{index:04d}{ending}", _read(image.path)
        if image.path.name.endswith(ending) and _place(voxels) == _place(grid):
            path.symlink_to(image.path.resolve())
            continue
        write_on_grid(voxels, grid, path, case.name, channels[index])
        if ending in NIFTI:
            give_header_back(path, header_of(reference))


def _sessions(root: Path) -> Iterator[tuple[str, Path]]:
    """Names of cases and their folders anat, there or not."""
    for subject in sorted(path for path in root.glob("sub-*") if path.is_dir()):
        sessions = sorted(path for path in subject.glob("ses-*") if path.is_dir())
        for place in sessions or [subject]:
            yield "_".join(place.relative_to(root).parts), place / "anat"


def _images(folder: Path) -> Iterator[BidsImage]:
    for path in sorted(folder.glob("sub-*.nii*")):
        ending = next((ending for ending in NIFTI if path.name.endswith(ending)), None)
        if ending is not None and path.is_file():
            *words, suffix = path.name.removesuffix(ending).split("_")
            entities = dict(matched.groups() for word in words if (matched := ENTITY.fullmatch(word)))
            yield BidsImage(path, entities, suffix)


def _one(case: str, channel: str, images: Sequence[BidsImage]) -> BidsImage | None:
    if len(images) > 1:
        names = [image.path.name for image in images]
        raise AmbiguousImagesError(case, channel, names, mend=f"Leave one of them in {images[0].path.parent}, or give "
                                                              "a BIDS dataset of links to those that you mean.")
    return images[0] if images else None


def _read(path: Path) -> sitk.Image:
    try:
        require_whole(path)
        with readable_by_itk([path]) as (file,):
            image = sitk.ReadImage(str(file), sitk.sitkFloat32)
    except (OSError, RuntimeError) as error:
        raise UnreadableImageError(path, str(error).strip().splitlines()[-1][:160]) from error
    if image.GetDimension() != 3:
        raise UnsuitableImageError(path, f"has {image.GetDimension()} dimensions. Give a volume.")
    return image


def _place(image: sitk.Image) -> tuple[object, ...]:
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()
