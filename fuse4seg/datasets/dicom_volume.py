"""A DICOM series as a volume: slices in the order of their places, which must be a grid without gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import SimpleITK as sitk
from highdicom.spatial import get_volume_positions
from pydicom.dataset import Dataset
from pydicom.pixels import apply_rescale, get_decoder
from pydicom.uid import UID

from fuse4seg.datasets.dicom_series import Series
from fuse4seg.errors import FaultyImageError, Fuse4SegError, UnreadableImageError, first_line

#: Direction cosines, and parts of a spacing, that slices of one stack may differ by: rounding.
SAME_DIRECTION, SAME_SPACING = 1e-3, 1e-3
#: Millimetres between slices that are at the same place.
SAME_PLACE = 1e-3


@dataclass(frozen=True)
class Stack:
    """Slices of a series in the order of their places, along the normal of their planes.

    Attributes:
        datasets: Headers: one per slice in that order, or the one of a multi-frame image.
        paths: Of their files.
        frames: For each slice the index of its dataset, or of its frame in a multi-frame image.
        origin: Place of the first voxel, mm, (x, y, z) to the patient's left, back and head.
        direction: Columns are the directions of rows' pixels, of columns' pixels, and of slices; shape (3, 3).
        spacing: Millimetres in these three directions.
    """

    datasets: tuple[Dataset, ...]
    paths: tuple[Path, ...]
    frames: tuple[int, ...]
    origin: np.ndarray
    direction: np.ndarray
    spacing: np.ndarray

    @property
    def is_multi_frame(self) -> bool:
        """Whether all slices are in one file."""
        return is_multi_frame(self.datasets[0])


@dataclass(frozen=True)
class _Planes:
    """Of slices as stored: places (N, 3), row and column directions (N, 6), pixel spacing (N, 2), and size (N, 2)."""

    positions: np.ndarray
    orientations: np.ndarray
    spacings: np.ndarray
    sizes: np.ndarray


def stack_series(series: Series, case: str) -> Stack:
    """Order the slices of a series, of which the headers alone are read.

    Args:
        series: Of files of one slice each, or of one multi-frame file.
        case: For messages.

    Raises:
        FaultyImageError: It is no volume: slices are missing, doubled, alone, turned, of different sizes, or sheared.
        UnreadableImageError: A header is damaged.
    """
    datasets = [_header(path) for path in series.files]
    if len(datasets) > 1 and any(map(is_multi_frame, datasets)):
        raise FaultyImageError(case, f"{series} holds several volumes. Leave the file of one of them.")
    try:
        planes = _frame_planes(datasets[0]) if is_multi_frame(datasets[0]) else _slice_planes(datasets)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        problem = f"does not say where its slices lie ({first_line(error)}). Export it anew."
        raise FaultyImageError(case, f"{series} {problem}") from error
    if problem := _problem(planes):
        raise FaultyImageError(case, f"{series} {problem}")
    spacing, order = get_volume_positions(planes.positions, planes.orientations[0], index_convention="RD")
    if spacing is None:
        raise FaultyImageError(case, f"{series} {_irregular(planes)}")
    return _stacked(datasets, series.files, planes, spacing=spacing, order=order)


def read_stack(stack: Stack) -> sitk.Image:
    """Intensities of a stack, rescaled as its headers say, in its place in space.

    Returns:
        float32; voxels of the array are in the order (slice, row, column).

    Raises:
        UnreadableImageError: Pixels are damaged, or compressed in a way that is not known here.
    """
    voxels = _frames(stack) if stack.is_multi_frame else np.stack([_slice(path) for path in stack.paths])
    image = sitk.GetImageFromArray(voxels)
    image.SetOrigin(stack.origin.tolist())
    image.SetDirection(stack.direction.ravel().tolist())
    image.SetSpacing(stack.spacing.tolist())
    return image


def is_multi_frame(dataset: Dataset) -> bool:
    """Whether a dataset holds frames with functional groups, as enhanced MR, CT and PET do."""
    return "PerFrameFunctionalGroupsSequence" in dataset


def _header(path: Path) -> Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    # What pydicom raises on damaged files has no common base.
    except Exception as error:
        raise UnreadableImageError(path, first_line(error, kind=True)) from error


def _slice_planes(datasets: Sequence[Dataset]) -> _Planes:
    return _Planes(*(np.array([[float(number) for number in values(dataset)] for dataset in datasets]) for values in (
        lambda one: one.ImagePositionPatient, lambda one: one.ImageOrientationPatient, lambda one: one.PixelSpacing,
        lambda one: (one.Rows, one.Columns))))


def _frame_planes(dataset: Dataset) -> _Planes:
    shared = dataset.SharedFunctionalGroupsSequence[0]

    def of_frames(group: str, entry: str) -> np.ndarray:
        items = (frame if group in frame else shared for frame in dataset.PerFrameFunctionalGroupsSequence)
        return np.array([[float(number) for number in item[group].value[0][entry].value] for item in items])

    positions = of_frames("PlanePositionSequence", "ImagePositionPatient")
    return _Planes(positions, of_frames("PlaneOrientationSequence", "ImageOrientationPatient"),
                   of_frames("PixelMeasuresSequence", "PixelSpacing"),
                   np.tile([float(dataset.Rows), float(dataset.Columns)], (len(positions), 1)))


def _problem(planes: _Planes) -> str | None:
    """What keeps slices from being parallel planes of one kind, each at a place of its own; None if nothing does."""
    count = len(planes.positions)
    if count < 2:
        return "holds one slice, which is no volume. Leave it out, or give the whole series."
    if not np.allclose(planes.orientations, planes.orientations[0], rtol=0, atol=SAME_DIRECTION):
        return "holds slices of several orientations, as localizers do. Leave it out, or split it."
    alike = np.allclose(planes.spacings, planes.spacings[0], rtol=SAME_SPACING)
    if not alike or (planes.sizes != planes.sizes[0]).any():
        return "holds slices of several sizes or pixel spacings. Split it."
    steps = np.diff(np.sort(planes.positions @ _normal(planes)))
    if (doubled := np.count_nonzero(steps < SAME_PLACE)) > 0:
        return (f"holds {doubled} slice(s) at places that others have, as series over time or of several echoes do. "
                "Split it into volumes.")
    return None


def _stacked(datasets: Sequence[Dataset], paths: Sequence[Path], planes: _Planes, *, spacing: float,
             order: Sequence[int]) -> Stack:
    frames = np.argsort(order).tolist()
    row, column = planes.orientations[0].reshape(2, 3)
    down, right = planes.spacings[0]
    place = {"origin": planes.positions[frames[0]], "direction": np.stack([row, column, _normal(planes)], axis=1),
             "spacing": np.array([right, down, spacing])}
    if is_multi_frame(datasets[0]):
        return Stack(tuple(datasets), tuple(paths), tuple(frames), **place)
    return Stack(tuple(datasets[index] for index in frames), tuple(paths[index] for index in frames),
                 tuple(range(len(frames))), **place)


def _irregular(planes: _Planes) -> str:
    """Why planes that are parallel are not evenly spaced along their normal."""
    steps = np.diff(np.sort(planes.positions @ _normal(planes)))
    usual = float(np.median(steps))
    if steps.max() > 1.5 * usual:
        missing = sum(round(step / usual) - 1 for step in steps if step > 1.5 * usual)
        return (f"lacks {missing} slice(s): two neighbours are {steps.max():.3g} mm apart, and others {usual:.3g} mm. "
                "Export it anew.")
    if np.ptp(steps) > 0.01 * usual:
        return f"has slices that are {steps.min():.3g} to {steps.max():.3g} mm apart. Resample it evenly."
    return "is sheared, as a tilted gantry makes it. Straighten it, as dcm2niix does, and predict its NIfTI files."


def _normal(planes: _Planes) -> np.ndarray:
    row, column = planes.orientations[0].reshape(2, 3)
    normal = np.cross(row, column)
    return normal / np.linalg.norm(normal)


def _slice(path: Path) -> np.ndarray:
    """Rescaled pixels of a file of one slice, float32; by ITK where pydicom has no decoder, as for lossless JPEG."""
    try:
        dataset = pydicom.dcmread(path)
        if _is_decoded_by_pydicom(dataset):
            return np.asarray(apply_rescale(dataset.pixel_array, dataset), dtype=np.float32)
    # What pydicom and its decoders raise on damaged files has no common base.
    except Exception as error:
        raise UnreadableImageError(path, first_line(error, kind=True)) from error
    try:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat32))[0]
    except RuntimeError as error:
        raise _undecodable(path, dataset) from error


def _frames(stack: Stack) -> np.ndarray:
    """Rescaled frames of a multi-frame file in the stack's order, float32."""
    path = stack.paths[0]
    if not _is_decoded_by_pydicom(stack.datasets[0]):
        raise _undecodable(path, stack.datasets[0])
    try:
        return highdicom.imread(path).get_frames([index + 1 for index in stack.frames], dtype=np.float32,
                                                 apply_real_world_transform=False, apply_presentation_lut=False)
    # The same.
    except Exception as error:
        raise UnreadableImageError(path, first_line(error, kind=True)) from error


def _is_decoded_by_pydicom(dataset: Dataset) -> bool:
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    try:
        return not syntax.is_compressed or get_decoder(syntax).is_available
    # The first of what is no transfer syntax, the second of one that pydicom does not know.
    except (ValueError, NotImplementedError):
        return False


def _undecodable(path: Path, dataset: Dataset) -> Fuse4SegError:
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    return UnreadableImageError(path, f"its transfer syntax, {syntax.name}, is not known here",
                                mend="Decompress it, for example with: gdcmconv --raw IN OUT")
