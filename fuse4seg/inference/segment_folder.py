"""A folder of exported fused images in, segmentations out: those that the images' own prediction gave, voxel for voxel."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fuse4seg.datasets.images import geometry_difference, geometry_of
from fuse4seg.datasets.raw import Case
from fuse4seg.errors import EmptyFolderError, FolderNotFoundError, OptionError, UnpairedCasesError, UnsuitableImageError
from fuse4seg.evaluation.postprocessing import Rule
from fuse4seg.farm.farm import Farm
from fuse4seg.inference.export_case import SEGMENTATIONS, Predicted, Wanted
from fuse4seg.inference.folder_run import FolderRun
from fuse4seg.inference.image_files import read_fused
from fuse4seg.inference.model import Model, ModelDescription
from fuse4seg.inference.predict_case import segment_fused
from fuse4seg.inference.predict_folder import Conduct, claim_exports, export_of
from fuse4seg.inference.preprocess_case import Prepared, require_like_spacing
from fuse4seg.own_outputs import require_apart

FLAG = "--from_fused"


def segment_folder(model: Model, images: Path, output: Path, *, folds: Sequence[int | str],
                   wanted: Wanted = SEGMENTATIONS, rules: tuple[Rule, ...] = (), farm: Farm | None = None,
                   overwrite: bool = False) -> list[Path]:
    """Segment every fused image of a folder; faulty ones are left out.

    Args:
        model: Loaded.
        images: As f4s_predict wrote them: CASE or, of several sets of weights, fold_<n>/CASE.
        output: Gets CASE, and probabilities if wanted; is created when the first sound image is read.
        folds: Names of the model's sets of weights.
        wanted: Further outputs, of which probabilities are made.
        rules: Post-processing of the segmentations.
        farm: Workers that segment whole cases, in place of this process.
        overwrite: Also replace files in ``output`` that this tool did not write.

    Returns:
        The segmentations.

    Raises:
        FolderNotFoundError, EmptyFolderError, UnpairedCasesError: The input.
        FaultyCasesError: Some cases could not be segmented; the others were.
        UnreadableImageError, UnsuitableImageError: The only case could not be segmented.
        OptionError: The model segments nothing, or not from the fused image alone; or ``output`` holds the images, a raw
            dataset, or files of these names that this tool did not write.
        UnwritableFolderError: The output.
    """
    if not model.description.segments:
        raise OptionError(FLAG, "this model was trained without labels: it segments nothing. Choose another with -d or -c.")
    if (previous := model.description.previous_stage) is not None:
        raise OptionError(FLAG, f"this model also needs what {previous} segmented. Choose another with -c.")
    cases = _fused_cases(images, model.description.file_ending, folds)
    # Of no fold: the fused images are there already.
    export = export_of(model, output, (), wanted, rules)
    read = {path.parent for case in cases for path in case.images}
    require_apart(output, read, overwrite=overwrite)
    own = claim_exports([case.name for case in cases], export, conduct=Conduct(overwrite=overwrite))
    run = FolderRun(model, export, own, None, [], len(cases), "segmenting")
    read_case = partial(_read, description=model.description, colours=model.colours)
    if farm is not None:
        run.over(farm, cases, read_case, _segment)
    else:
        run.through(cases, read_case, partial(_segment, model))
    run.raise_faults()
    return [output / f"{case.name}{model.description.file_ending}" for case in cases]


def _read(case: Case, *, description: ModelDescription, colours: int) -> Prepared:
    """A case's fused images, one per set of weights.

    Raises:
        UnreadableImageError, UnsuitableImageError: A file is no fused image of this model, or lies elsewhere than the first.
    """
    begin, files = time.perf_counter(), case.images
    read = [read_fused(path, description.reader, colours=colours) for path in files]
    first, *others = [geometry_of(levels.shape[1:], properties) for levels, properties in read]
    for path, geometry in zip(files[1:], others, strict=True):
        if difference := geometry_difference(geometry, first):
            raise UnsuitableImageError(path, f"has {difference} in {files[0]}. Give images of one prediction.")
    require_like_spacing(case.name, read[0][1]["spacing"], description)
    return Prepared(case, np.stack([levels for levels, _ in read]), read[0][1], {}, time.perf_counter() - begin)


def _segment(model: Model, prepared: Prepared) -> Predicted:
    made = segment_fused(model, prepared.channels, prepared.properties["spacing"])
    return Predicted(prepared.case, prepared.properties, made)


def _fused_cases(folder: Path, ending: str, folds: Sequence[int | str]) -> list[Case]:
    """Every case, with a file per set of weights."""
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
    return [Case(name, tuple(files[name] for files in found)) for name in found[0]]
