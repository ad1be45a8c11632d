"""A folder of exported fused images in, segmentations out: those that the images' own prediction gave, voxel for voxel."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from fuse4seg.datasets.raw import Case
from fuse4seg.errors import (
    EmptyFolderError,
    FaultyCasesError,
    FolderNotFoundError,
    Fuse4SegError,
    OptionError,
    UnpairedCasesError,
)
from fuse4seg.files import make_writable_folder, write_json
from fuse4seg.inference.export_case import SEGMENTATIONS, Export, Predicted, Wanted, export_segmentation
from fuse4seg.inference.fused_files import read_fused
from fuse4seg.inference.model import Model
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
        output: Gets CASE, and probabilities if wanted.
        folds: Names of the model's sets of weights.
        wanted: Further outputs, of which probabilities are made.

    Returns:
        The segmentations.

    Raises:
        FolderNotFoundError, EmptyFolderError, UnpairedCasesError: The input.
        FaultyCasesError: Some cases could not be segmented; the others were.
        OptionError: The model segments nothing, or not from the fused image alone.
        UnwritableFolderError: The output.
    """
    if not model.segments:
        raise OptionError(FLAG, "this model was trained without labels: it segments nothing. Choose another with -d or -c.")
    if model.previous_stage is not None:
        raise OptionError(FLAG, f"this model also needs what {model.previous_stage} segmented. Choose another with -c.")
    cases = _fused_cases(images, model.dataset_json["file_ending"], folds)
    make_writable_folder(output)
    write_json(model.dataset_json, output / "dataset.json")
    write_json(model.plans.plans, output / "plans.json")
    export = Export(Recipe.of(model), output, tuple(folds), model.network.fusion.reference, wanted)
    faults, written = [], []
    for name, files in progress(list(cases.items()), "segmenting", unit="case"):
        try:
            read = [read_fused(path, model.plans.image_reader_writer_class, colours=model.colours) for path in files]
            properties = read[0][1]
            made = segment_fused(model, [levels for levels, _ in read], properties["spacing"])
            exported = export_segmentation(Predicted(Case(name, files), properties, made), export)
            written.append(exported.files[-1])
            log.info("%s: %s", name, ", ".join(f"{label} {count} voxels" for label, count in exported.volumes.items()))
        except Fuse4SegError as error:
            faults.append(str(error))
    if faults:
        raise FaultyCasesError(faults)
    return written


def _fused_cases(folder: Path, ending: str, folds: Sequence[int | str]) -> dict[str, tuple[Path, ...]]:
    """Files of every case, one per set of weights."""
    places = [folder] if len(folds) == 1 else [folder / f"fold_{fold}" for fold in folds]
    found = []
    for place in places:
        if not place.is_dir():
            raise FolderNotFoundError(place)
        found.append({path.name.removesuffix(ending): path for path in sorted(place.glob(f"*{ending}"))})
        if not found[-1]:
            raise EmptyFolderError(place, f"*{ending}", mend="Give a folder fused/ that f4s_predict wrote.")
        if found[-1].keys() != found[0].keys():
            raise UnpairedCasesError(f"{place} and {places[0]} hold images of other cases. Predict them anew.")
    return {name: tuple(files[name] for files in found) for name in found[0]}
