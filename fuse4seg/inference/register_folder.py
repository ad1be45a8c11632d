"""A folder of cases whose modalities lie apart in, one in which they lie on the reference modality out."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from fuse4seg.background import results_of
from fuse4seg.case_faults import fault_of
from fuse4seg.datasets.alignment import judged, reference_channel
from fuse4seg.datasets.dataset_json import channel_names, read_dataset_json
from fuse4seg.datasets.grey_images import image_files
from fuse4seg.datasets.images import is_stored_finite, require_whole
from fuse4seg.datasets.nifti import header_of, is_nifti, readable_by_itk
from fuse4seg.datasets.rigid import CLOSE, QUICK, Detail, Rigid, moved, register, small_copy, starts_for
from fuse4seg.errors import (
    FaultyImageError,
    MissingModalityError,
    OptionError,
    UnpairedCasesError,
    UnreadableImageError,
    UnsuitableImageError,
    first_line,
)
from fuse4seg.files import make_writable_folder, write_json, written_whole
from fuse4seg.inference.image_files import image_written_whole
from fuse4seg.own_outputs import OwnOutputs, claim_outputs, require_apart

log = logging.getLogger(__name__)

#: In the output: what was moved, and where to.
REGISTRATION = "registration.json"
#: Of two grids that are the same, in voxels.
SAME_GRID = 1e-3


@dataclass(frozen=True)
class Placed:
    """What became of a file.

    Attributes:
        source: The file.
        image: As it lies now; None of one that is copied.
        rigid: Where it lay; None where nothing can be told, and of the reference.
    """

    source: Path
    image: sitk.Image | None = None
    rigid: Rigid | None = None

    def to_plain(self) -> dict[str, Any]:
        """As it stands in REGISTRATION."""
        told = {} if self.rigid is None else {"shift": [round(step, 3) for step in self.rigid.shift],
                                              "turn": round(self.rigid.turn, 3),
                                              "information": [round(found, 4) for found in self.rigid.information]}
        return {"moved": self.image is not None, **told}


def register_folder(folder: Path, output: Path, *, reference: str | None = None, processes: int = 1,
                    overwrite: bool = False) -> list[str]:
    """Move the modalities of every case onto the reference one where they lie elsewhere, and copy all others bit for bit.

    What is moved is on the grid of the reference modality, and so is what lies on another grid. Labels that were drawn on the
    reference modality stay right as they are.

    Args:
        folder: Of files CASE_0000, CASE_0001, ...
        output: Another folder, which gets files of the same names, and REGISTRATION.
        reference: Number of the reference modality, or its name in the dataset.json beside or above the files; None for the one
            that this names, else the first.
        processes: Cases worked on at a time; with 1, in this process.
        overwrite: Also replace files in ``output`` that this tool did not write.

    Returns:
        One line for each case that could not be used; the others were.

    Raises:
        FolderNotFoundError, EmptyFolderError, UnpairedCasesError: The input.
        DatasetJsonError: There is a dataset.json, and it cannot be used.
        OptionError: There is no such reference modality; ``output`` holds the input, belongs to a raw dataset, or holds files of
            these names that this tool did not write.
        UnwritableFolderError: The operating system refused to write.
        WorkerDiedError: A process ended without an answer.
    """
    if output.resolve() == folder.resolve():
        raise OptionError("-o", f"{output} holds the input, which is never replaced. Choose another folder.")
    require_apart(output, (), overwrite=overwrite)
    cases = _numbered(folder)
    number = _reference_number(folder, reference, most=max(max(files) for files in cases.values()))
    own = claim_outputs(output, [REGISTRATION, *(path.name for files in cases.values() for path in files.values())],
                        overwrite=overwrite)
    found = results_of(partial(_try_register, reference=number, own=own), cases.items(), processes=processes,
                       doing="registering")
    told = {name: result for name, result in zip(cases, found, strict=True) if not isinstance(result, str)}
    if not told:
        return found
    for files in told.values():
        _report(files)
    write_json({"reference": number, "cases": told}, output / REGISTRATION)
    log.info("%d of %d files were moved onto channel %04d, on whose grid labels stay right as they are; the others are copies",
             sum(file["moved"] for files in told.values() for file in files.values()), sum(map(len, told.values())), number)
    return [result for result in found if isinstance(result, str)]


def register_case(files: Mapping[int, Path], reference: int, *, case: str) -> list[Placed]:
    """What is to become of each file of a case.

    Args:
        files: By the numbers of their channels.
        reference: Number of the reference modality.
        case: Its name.

    Raises:
        MissingModalityError: It lacks the reference modality.
        UnreadableImageError, UnsuitableImageError, FaultyImageError: A file cannot be used.
    """
    if reference not in files:
        first = next(iter(files.values()))
        expected = first.with_name(re.sub(r"_\d{4}(?=\.)", f"_{reference:04d}", first.name))
        raise MissingModalityError(case, "reference", expected, "Add it, remove the case, or choose another with --reference.")
    fixed = _read(files[reference])
    return [Placed(path) if number == reference else _placed(path, fixed, case) for number, path in files.items()]


def _placed(path: Path, fixed: sitk.Image, case: str) -> Placed:
    image = _read(path)
    if image.GetDimension() != fixed.GetDimension():
        raise FaultyImageError(case, f"{path} has {image.GetDimension()} axes and its reference modality {fixed.GetDimension()}. "
                                     "Give images of one kind.")
    same = image.IsSameImageGeometryAs(fixed, SAME_GRID, SAME_GRID)
    rigid = _found(fixed, image, QUICK)
    if rigid is not None and not judged(rigid).suspect:
        return Placed(path, None if same else moved(image, fixed, _still(fixed)), rigid)
    rigid = _found(fixed, image, CLOSE)
    if rigid is None and not same:
        raise FaultyImageError(case, f"{path} does not overlap its reference modality, or one of them is empty. Correct or "
                                     "remove it.")
    if rigid is None or (same and not judged(rigid).suspect):
        return Placed(path, None, rigid)
    return Placed(path, moved(image, fixed, rigid.transform), rigid)


def _found(fixed: sitk.Image, image: sitk.Image, detail: Detail) -> Rigid | None:
    reference, moving = (small_copy(_grey(one), detail) for one in (fixed, image))
    return register(reference, moving, detail=detail, voxel=fixed.GetSpacing(),
                    starts=starts_for(reference, moving) if detail is CLOSE else None)


def _still(image: sitk.Image) -> sitk.Transform:
    return sitk.Transform(image.GetDimension(), sitk.sitkIdentity)


def _grey(image: sitk.Image) -> sitk.Image:
    """An image whose levels are the mean of its colours, where it has any."""
    count = image.GetNumberOfComponentsPerPixel()
    if count == 1:
        return image
    return sum(sitk.VectorIndexSelectionCast(image, index, sitk.sitkFloat32) for index in range(count)) / count


def _read(path: Path) -> sitk.Image:
    try:
        require_whole(path)
        with readable_by_itk([path]) as (file,):
            image = sitk.ReadImage(str(file))
    except (OSError, RuntimeError) as error:
        raise UnreadableImageError(path, first_line(error)) from error
    if image.GetDimension() > 3:
        raise UnsuitableImageError(path, f"has {image.GetDimension()} dimensions. Split it into one 3D file per channel.")
    if is_nifti(path) and not is_stored_finite(path):
        raise UnsuitableImageError(path, "holds NaN or infinite intensities. Replace them by numbers.")
    return image


def _try_register(item: tuple[str, Mapping[int, Path]], *, reference: int, own: OwnOutputs) -> dict[str, dict[str, Any]] | str:
    """Register a case and write it, all of it or nothing; what was done by file names, or why it could not be."""
    case, files = item
    try:
        placed = register_case(files, reference, case=case)
        properties = header_of(files[reference])
        make_writable_folder(own.folder)
        own.note()
        for one in placed:
            _write(one, own.folder / one.source.name, properties)
    except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
        return str(fault_of(error, case))
    return {one.source.name: one.to_plain() for one in placed}


def _write(placed: Placed, path: Path, properties: dict[str, Any]) -> None:
    if placed.image is None:
        with written_whole(path) as temporary:
            shutil.copyfile(placed.source, temporary)
        return
    with image_written_whole(path, properties) as temporary:
        sitk.WriteImage(placed.image, str(temporary), useCompression=True)


def _report(files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, file in files.items():
        if file["moved"]:
            log.info("%s: moved by %s mm (x, y, z) and %.1f degrees, information %.2f, now %.2f", name,
                     " ".join(f"{-step:.1f}" for step in file["shift"]), file["turn"], *file["information"])


def _numbered(folder: Path) -> dict[str, dict[int, Path]]:
    """Files by case and number of the channel.

    Raises:
        FolderNotFoundError, EmptyFolderError, UnpairedCasesError: There are none.
    """
    cases: dict[str, dict[int, Path]] = {}
    for name, path in image_files(folder).items():
        matched = re.fullmatch(r"(.+)_(\d{4})", name)
        if not matched:
            raise UnpairedCasesError(f"{path} is not named CASE_0000, CASE_0001, ... Rename it, or give "
                                     "imagesTr or the like.")
        cases.setdefault(matched[1], {})[int(matched[2])] = path
    return {case: dict(sorted(files.items())) for case, files in sorted(cases.items())}


def _reference_number(folder: Path, reference: str | None, *, most: int) -> int:
    """Number of the reference modality.

    Raises:
        OptionError: There is none such.
        DatasetJsonError: dataset.json cannot be used.
    """
    if reference is not None and re.fullmatch(r"\d{1,4}", reference):
        if int(reference) > most:
            raise OptionError("--reference", f"no case has a channel {int(reference):04d}. Give one from 0 to {most}.")
        return int(reference)
    place = next((one for one in (folder, folder.resolve().parent) if (one / "dataset.json").is_file()), None)
    if place is None:
        if reference is None:
            return 0
        raise OptionError("--reference", f"there is no dataset.json beside or above {folder} that names {reference}. Give the "
                                         "number of its files.")
    dataset_json = read_dataset_json(place)
    if reference is None:
        return reference_channel(dataset_json)
    if reference not in (names := channel_names(dataset_json)):
        raise OptionError("--reference", f"{place / 'dataset.json'} names no {reference}. Choose one of: {', '.join(names)}.")
    return names.index(reference)
