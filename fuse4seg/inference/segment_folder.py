"""A folder of exported fused images in, segmentations out: those that the images' own prediction gave, voxel for voxel."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from fuse4seg.datasets.images import geometry_difference, geometry_of
from fuse4seg.datasets.raw import Case
from fuse4seg.errors import (
    CaseTooLargeError,
    EmptyFolderError,
    FaultyCasesError,
    FolderNotFoundError,
    Fuse4SegError,
    OptionError,
    UnpairedCasesError,
    UnsuitableImageError,
)
from fuse4seg.files import make_writable_folder
from fuse4seg.inference.export_case import SEGMENTATIONS, Export, Predicted, Wanted, export_case
from fuse4seg.inference.fused_files import read_fused
from fuse4seg.inference.model import Model, write_description
from fuse4seg.inference.predict_case import segment_fused
from fuse4seg.inference.preprocess_case import Recipe
from fuse4seg.progress import progress

log = logging.getLogger(__name__)

FLAG = "--from_fused"


def segment_folder(model: Model, images: Path, output: Path, *, folds: Sequence[int | str],
                   wanted: Wanted = SEGMENTATIONS) -> list[Path]:
    """Segment every fused image of a folder; faulty ones are left out.

    Args:
        model: Loaded.
        images: As f4s_predict wrote them: CASE or, of several sets of weights, fold_<n>/CASE.
        output: Gets CASE, and probabilities if wanted; is created when the first sound image is segmented.
        folds: Names of the model's sets of weights.
        wanted: Further outputs, of which probabilities are made.

    Returns:
        The segmentations.

    Raises:
        FolderNotFoundError, EmptyFolderError, UnpairedCasesError: The input.
        FaultyCasesError: Some cases could not be segmented; the others were.
        UnreadableImageError, UnsuitableImageError, CaseTooLargeError: The only case could not be segmented.
        OptionError: The model segments nothing, or not from the fused image alone.
        UnwritableFolderError: The output.
    """
    if not model.segments:
        raise OptionError(FLAG, "this model was trained without labels: it segments nothing. Choose another with -d or -c.")
    if model.previous_stage is not None:
        raise OptionError(FLAG, f"this model also needs what {model.previous_stage} segmented. Choose another with -c.")
    cases = _fused_cases(images, model.dataset_json["file_ending"], folds)
    # Of no fold: the fused images are there already.
    export = Export(Recipe.of(model), output, (), model.network.fusion.reference, wanted)
    faults, written = [], []
    with ExitStack() as stack:
        bar = None
        for name, files in cases.items():
            try:
                predicted = _segmented(model, name, files)
            except Fuse4SegError as error:
                faults.append(error)
                continue
            if bar is None:
                write_description(model, make_writable_folder(output))
                # Not earlier: an error that says why there is nothing to segment stands alone.
                bar = stack.enter_context(progress((), "segmenting", unit="case", total=len(cases)))
            exported = export_case(predicted, export)
            written.append(exported.files[-1])
            log.info("%s: %s", name, ", ".join(f"{label} {count} voxels" for label, count in exported.volumes.items()))
            bar.update()
    if len(faults) == 1 and not written:
        raise faults[0]
    if faults:
        raise FaultyCasesError(map(str, faults))
    return written


def _segmented(model: Model, name: str, files: Sequence[Path]) -> Predicted:
    """A case from its fused images, one per set of weights.

    Raises:
        UnreadableImageError, UnsuitableImageError: A file is no fused image of this model, or lies elsewhere than the first.
        CaseTooLargeError: There is not enough memory.
    """
    try:
        read = [read_fused(path, model.plans.image_reader_writer_class, colours=model.colours) for path in files]
        first, *others = [geometry_of(levels.shape[1:], properties) for levels, properties in read]
        for path, geometry in zip(files[1:], others, strict=True):
            if difference := geometry_difference(geometry, first):
                raise UnsuitableImageError(path, f"has {difference} in {files[0]}. Give images of one prediction.")
        properties = read[0][1]
        made = segment_fused(model, [levels for levels, _ in read], properties["spacing"])
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise CaseTooLargeError(name) from error
    return Predicted(Case(name, tuple(files)), properties, made)


def _fused_cases(folder: Path, ending: str, folds: Sequence[int | str]) -> dict[str, tuple[Path, ...]]:
    """Files of every case, one per set of weights."""
    places = [folder] if len(folds) == 1 else [folder / f"fold_{fold}" for fold in folds]
    found = []
    for place in places:
        if not place.is_dir():
            raise FolderNotFoundError(place)
        found.append({path.name.removesuffix(ending): path for path in sorted(place.glob(f"*{ending}"))
                      if not path.name.startswith(".")})
        if not found[-1]:
            raise EmptyFolderError(place, ending, mend="Give a folder fused/ that f4s_predict wrote.")
        if found[-1].keys() != found[0].keys():
            raise UnpairedCasesError(f"{place} and {places[0]} hold images of other cases. Predict them anew.")
    return {name: tuple(files[name] for files in found) for name in found[0]}
