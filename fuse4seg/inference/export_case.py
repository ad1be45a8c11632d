"""Everything that is written of one predicted case, in this process or another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import save_pickle

from fuse4seg.datasets.alignment import reference_channel
from fuse4seg.datasets.colour_files import TIFF
from fuse4seg.datasets.dataset_json import channel_names, file_part, foreground_classes
from fuse4seg.datasets.grey_images import GREY
from fuse4seg.datasets.images import given_to
from fuse4seg.datasets.raw import Case
from fuse4seg.evaluation.postprocessing import Rule, apply_rules
from fuse4seg.evaluation.volumes import voxels_of
from fuse4seg.files import make_writable_folder, written_whole
from fuse4seg.inference.doubt import BoundaryEntropy, facts_of
from fuse4seg.inference.image_files import image_written_whole, write_fused, write_image
from fuse4seg.inference.input_space import to_input_space, to_labels, to_uncertainty
from fuse4seg.inference.model import ModelDescription
from fuse4seg.inference.panel import write_checkerboard, write_panel
from fuse4seg.inference.predict_case import CasePrediction
from fuse4seg.nnunet_output import logged_prints

#: Sub-folders of the output.
FUSED, ATTENTION, PANELS, PROBABILITIES = "fused", "attention", "panels", "probabilities"
UNCERTAINTY, ALIGNMENT = "uncertainty", "alignment"
#: Of the images of probabilities, whatever the dataset's format is: not every format has fractions.
PROBABILITY_ENDING = ".nii.gz"
#: What asks in the cross-attention where the reference is absent.
MEAN = "mean"
#: Of --save_probabilities.
NPZ, NIFTI, PROBABILITY_FORMATS = "npz", "nifti", ("npz", "nifti")


@dataclass(frozen=True)
class Wanted:
    """What to write beside segmentations and fused images.

    Attributes:
        attention: Maps, one per modality that the reference looks at.
        panels: Pictures.
        probabilities: Formats of these, some of PROBABILITY_FORMATS.
        uncertainty: Entropy of the class probabilities, as an image.
    """

    attention: bool = False
    panels: bool = False
    probabilities: tuple[str, ...] = ()
    uncertainty: bool = False


#: Nothing beside segmentations and fused images.
SEGMENTATIONS = Wanted()


@dataclass(frozen=True)
class Predicted:
    """A case as the network left it.

    Attributes:
        case: Its name and files.
        properties: nnU-Net's.
        made: What was made of it.
        legend: How each modality colours the image, see :func:`~fuse4seg.inference.panel.measure_legend`; None for no panel.
        suspect: Modalities that seem to lie apart from the reference one, each to be shown on a checkerboard with it.
    """

    case: Case
    properties: dict[str, Any]
    made: CasePrediction
    legend: np.ndarray | None = None
    suspect: Sequence[str] = field(default=())


@dataclass(frozen=True)
class Exported:
    """What was written of a case.

    Attributes:
        files: That were written.
        voxels: How many each label has.
        facts: For the record, see :func:`~fuse4seg.inference.doubt.facts_of`; none of a model without labels.
        seconds: That it took.
    """

    files: tuple[Path, ...]
    voxels: Mapping[str, int]
    facts: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Export:
    """Where and how to write; can be sent to another process.

    Attributes:
        description: The model's.
        output: Folder, which exists.
        folds: Names of the sets of weights whose fused images are written; with several, each in fused/fold_<n>/.
        reference: Index of the modality that asks in the cross-attention.
        wanted: Further outputs.
        rules: Post-processing of the segmentations; probabilities stay as they are.
    """

    description: ModelDescription
    output: Path
    folds: tuple[int | str, ...]
    reference: int
    wanted: Wanted
    rules: tuple[Rule, ...] = ()


def export_case(predicted: Predicted, export: Export) -> Exported:
    """Write a case, its segmentation last.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    begin = time.perf_counter()
    with logged_prints():
        labels, probabilities, facts = _labels(predicted, export)
        uncertain = _write_uncertainty(predicted, export) if labels is not None and export.wanted.uncertainty else []
        predicted = replace(predicted, made=replace(predicted.made, logits=None))
        seen = [path for number in range(len(export.folds)) for path in _write_seen(predicted, number, labels, export)]
        seen += _write_checkerboards(predicted, export)
        segmented = [] if labels is None else write_segmented(predicted.case.name, predicted.properties, labels, probabilities,
                                                              export=export)
    voxels = {} if labels is None else voxels_of(labels, foreground_classes(export.description.dataset_json))
    return Exported((*uncertain, *seen, *segmented), voxels, facts, time.perf_counter() - begin)


def outputs_of(case: str, export: Export) -> Iterator[str]:
    """Names, relative to the output folder, of all files that :func:`export_case` may write of a case."""
    ending, wanted = export.description.file_ending, export.wanted
    images = [f"{case}{ending}"] if export.description.segments else []
    if export.description.segments and wanted.uncertainty:
        images.append(f"{UNCERTAINTY}/{case}{ending}")
    if export.description.segments and NIFTI in wanted.probabilities:
        yield from (f"{PROBABILITIES}/{case}_{file_part(label)}{PROBABILITY_ENDING}" for label in class_names(export.description))
    if export.description.segments and NPZ in wanted.probabilities:
        yield from (f"{case}.npz", f"{case}.pkl")
    names = channel_names(export.description.dataset_json)
    yield from (f"{ALIGNMENT}/{case}_{file_part(name)}.png" for name in names)
    for fold in export.folds:
        place = f"fold_{fold}/" if len(export.folds) > 1 else ""
        images += [f"{FUSED}/{place}{case}{ending}", f"{FUSED}/{place}{GREY}/{case}{ending}"]
        if wanted.attention:
            images += [f"{ATTENTION}/{place}{case}_{file_part(name)}{ending}" for name in names]
        if wanted.panels:
            yield f"{PANELS}/{place}{case}.png"
    yield from images
    if ending in TIFF:
        yield from (f"{name.removesuffix(ending)}.json" for name in images)


def write_segmented(case: str, properties: dict[str, Any], labels: np.ndarray, probabilities: np.ndarray | None, *,
                    export: Export) -> list[Path]:
    """Write a case's labels, last, and its probabilities where there are any.

    Args:
        case: Its name.
        properties: nnU-Net's reader's, of an image of its geometry.
        labels: Shape (Z, Y, X).
        probabilities: Shape (classes, Z, Y, X); None for none.
        export: Where and how.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    written = [] if probabilities is None else _write_probabilities(case, properties, probabilities, export)
    return [*written, _write_labels(case, properties, labels, export)]


def _labels(predicted: Predicted, export: Export) -> tuple[np.ndarray | None, np.ndarray | None, Mapping[str, Any]]:
    """Labels, probabilities if wanted, and what there is to tell of the case."""
    made, description = predicted.made, export.description
    if made.logits is None:
        return None, None, {}
    boundary = BoundaryEntropy(regions=description.label_manager.has_regions)
    labels, probabilities = to_labels(made.logits, made.space, description=description, watch=boundary.add,
                                      want_probabilities=bool(export.wanted.probabilities))
    labels = apply_rules(labels, export.rules, spacing=predicted.properties["spacing"])
    facts = facts_of(labels, predicted.properties["spacing"], description, entropy=boundary.mean, disagreement=made.disagreement)
    return labels, probabilities, facts


def _write_uncertainty(predicted: Predicted, export: Export) -> list[Path]:
    path = make_writable_folder(export.output / UNCERTAINTY) / f"{predicted.case.name}{export.description.file_ending}"
    made = predicted.made
    write_image(to_uncertainty(made.logits, made.space, description=export.description), path, predicted.properties)
    return [path]


def _write_seen(predicted: Predicted, number: int, labels: np.ndarray | None, export: Export) -> list[Path]:
    """What the follower saw of a fold, and what the leader looked at."""
    case, properties, wanted = predicted.case, predicted.properties, export.wanted
    place = f"fold_{export.folds[number]}" if len(export.folds) > 1 else ""
    fused = predicted.made.fused[number]
    names, ending = channel_names(export.description.dataset_json), export.description.file_ending
    written = write_fused(fused, make_writable_folder(export.output / FUSED / place), case.name, ending, properties)
    attention = _attention(predicted, number, export)
    if wanted.attention:
        for index, heat in attention.items():
            folder = make_writable_folder(export.output / ATTENTION / place)
            written.append(folder / f"{case.name}_{file_part(names[index])}{ending}")
            write_image(heat, written[-1], properties)
    if wanted.panels:
        written.append(make_writable_folder(export.output / PANELS / place) / f"{case.name}.png")
        _write_panel(written[-1], predicted, fused, labels, attention, export)
    return written


def _attention(predicted: Predicted, number: int, export: Export) -> dict[int, np.ndarray]:
    """Maps in the input's geometry, by the index of their modality; none of absent ones."""
    maps = predicted.made.attention[number]
    if maps is None:
        return {}
    others = [index for index in range(len(predicted.case.found)) if index != export.reference]
    in_place = to_input_space(maps, predicted.properties, description=export.description)
    return {index: heat for index, heat in zip(others, in_place, strict=True) if predicted.case.found[index]}


def _write_panel(path: Path, predicted: Predicted, fused: np.ndarray, labels: np.ndarray | None,
                 attention: Mapping[int, np.ndarray], export: Export) -> None:
    case = predicted.case
    names, there = channel_names(export.description.dataset_json), [index for index, found in enumerate(case.found) if found]
    write_panel(path, sources=_sources(predicted, there, export), names=[names[index] for index in there], fused=fused,
                segmentation=labels,
                legend=None if predicted.legend is None else predicted.legend[there],
                attention={there.index(index): heat for index, heat in attention.items()},
                asking=names[export.reference] if export.reference in there else MEAN)


def _write_checkerboards(predicted: Predicted, export: Export) -> list[Path]:
    names, reference = channel_names(export.description.dataset_json), reference_channel(export.description.dataset_json)
    written = []
    for name in predicted.suspect:
        written.append(make_writable_folder(export.output / ALIGNMENT) / f"{predicted.case.name}_{file_part(name)}.png")
        fixed, moving = _sources(predicted, (reference, names.index(name)), export)
        write_checkerboard(written[-1], fixed, moving, predicted.properties["spacing"])
    return written


def _sources(predicted: Predicted, channels: Sequence[int], export: Export) -> np.ndarray:
    """Channels that the case has, as they are in its files, shape (C, Z, Y, X)."""
    with given_to(export.description.reader, [predicted.case.images[index] for index in channels]) as files:
        return export.description.reader().read_images(list(map(str, files)))[0]


def _write_probabilities(name: str, properties: dict[str, Any], probabilities: np.ndarray, export: Export) -> list[Path]:
    """Npz and pkl as nnU-Net writes them, for its ensembling; or an image per class."""
    written = []
    if NPZ in export.wanted.probabilities:
        written = [export.output / f"{name}.npz", export.output / f"{name}.pkl"]
        with written_whole(written[0]) as temporary:
            np.savez_compressed(temporary, probabilities=probabilities)
        with written_whole(written[1]) as temporary:
            save_pickle(properties, str(temporary))
    if NIFTI in export.wanted.probabilities:
        folder = make_writable_folder(export.output / PROBABILITIES)
        for label, share in zip(class_names(export.description), probabilities, strict=True):
            written.append(folder / f"{name}_{file_part(label)}{PROBABILITY_ENDING}")
            write_image(share, written[-1], properties)
    return written


def class_names(description: ModelDescription) -> Sequence[str]:
    """Names of the network's outputs, in their order: labels, or regions."""
    labels = description.dataset_json["labels"]
    manager = description.label_manager
    if manager.has_regions:
        return [name for name, entry in labels.items() if name not in ("background", "ignore")]
    by_value = {int(np.atleast_1d(value)[0]): name for name, value in labels.items()}
    return [by_value[value] for value in manager.all_labels]


def _write_labels(name: str, properties: dict[str, Any], labels: np.ndarray, export: Export) -> Path:
    target = export.output / f"{name}{export.description.file_ending}"
    with image_written_whole(target, properties) as temporary:
        export.description.reader().write_seg(labels, str(temporary), properties)
    # nnU-Net puts the spacing of TIFF files beside them.
    spacing = temporary.with_name(temporary.name.removesuffix(export.description.file_ending) + ".json")
    if spacing.is_file():
        spacing.replace(export.output / f"{name}.json")
    return target
