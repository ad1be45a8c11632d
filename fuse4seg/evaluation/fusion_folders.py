"""Fusion evaluation: a folder of fused images against their sources, beside rows that anybody gets for nothing."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fuse4seg import __version__
from fuse4seg.background import results_of
from fuse4seg.case_faults import fault_in_scoring
from fuse4seg.datasets.fused_record import FusedRecord, read_record
from fuse4seg.datasets.grey_images import UNIT_RANGE, GreyImage, GreyRange, image_files, read_grey_image, read_label_image
from fuse4seg.datasets.grey_ranges import fused_range, is_narrow, source_ranges, warn_of_narrow
from fuse4seg.datasets.images import geometry_difference
from fuse4seg.datasets.sources import Sources, find_sources, only, require_equal_names
from fuse4seg.errors import StaleImageError, UnsuitableImageError
from fuse4seg.evaluation.bootstrap import defined_mean
from fuse4seg.evaluation.fusion_metrics import METRICS, STANDARD, Conventions, fusion_metrics
from fuse4seg.evaluation.table import format_table
from fuse4seg.evaluation.visibility import visibility
from fuse4seg.files import write_json, written_whole

FUSED, AVERAGE, MAXIMUM, TOGETHER = "fused", "average", "maximum", "all sources together"
Values = dict[str, float]


@dataclass(frozen=True)
class FusionEvaluation:
    """Metrics of every case, for the fused image and for each trivial row.

    Attributes:
        sources: Names of the modalities.
        conventions: How it was scored.
        levels: Black and white of each source and, last, of the fused images.
        cases: For each case and row, the values by METRICS, NaN where undefined.
        faults: One line for each case that could not be scored.
        visible: For each case and row, all sources together the last, the visibility of each boundary, where there are labels.
    """

    sources: tuple[str, ...]
    conventions: Conventions
    levels: tuple[GreyRange, ...]
    cases: dict[str, dict[str, Values]]
    faults: tuple[str, ...] = field(default=())
    visible: dict[str, dict[str, Values]] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[str, ...]:
        """The fused images first, then the trivial rows."""
        return (FUSED, *(f"copy of {name}" for name in self.sources), AVERAGE, MAXIMUM)

    def mean(self, row: str = FUSED) -> Values:
        """Mean of each metric over the cases where it is defined; NaN where it is nowhere."""
        return {metric: defined_mean(case[row][metric] for case in self.cases.values()) for metric in METRICS}

    def left_out(self, row: str = FUSED) -> dict[str, int]:
        """For each metric, how many cases it is undefined for."""
        return {metric: sum(math.isnan(case[row][metric]) for case in self.cases.values()) for metric in METRICS}

    @property
    def boundaries(self) -> list[str]:
        """Those that any case has."""
        return list(dict.fromkeys(name for case in self.visible.values() for name in case[FUSED]))

    def mean_visibility(self, row: str = FUSED) -> Values:
        """Mean of each boundary over the cases that have it and, first, of all boundaries."""
        of_each = {name: defined_mean(case[row].get(name, math.nan) for case in self.visible.values())
                   for name in self.boundaries}
        return {"visibility": defined_mean(of_each.values()), **of_each}

    def format(self) -> str:
        """Table with a row per case, their mean, and the means of the trivial rows; where there are labels, one of visibility."""
        return "\n\n".join([self._format_metrics(), *([self._format_visibility()] if self.boundaries else [])])

    def _format_visibility(self) -> str:
        rows: list[list[str | float]] = [[row, *self.mean_visibility(row).values()] for row in (*self.rows, TOGETHER)]
        return format_table(["row", "visibility", *self.boundaries], rows)

    def _format_metrics(self) -> str:
        rows: list[list[str | float]] = [[name, *case[FUSED].values()] for name, case in self.cases.items()]
        rows += [["mean" if row == FUSED else row, *self.mean(row).values()] for row in self.rows]
        return format_table(["fused", *METRICS], rows)

    def to_plain(self) -> dict[str, Any]:
        """For a JSON file; NaN becomes None."""
        return {
            "fuse4seg": __version__, "sources": list(self.sources),
            "conventions": {**self.conventions.to_plain(),
                            "range": dict(zip((*self.sources, FUSED), map(asdict, self.levels), strict=True)),
                            "grey": "luma, ITU-R BT.601 full range, 0..255",
                            "sources_beyond_two": "mean over all pairs of the value for two sources",
                            "volumes": "mean over the slices along Z in which a source varies"},
            "mean": _plain(self.mean()), "left_out": self.left_out(),
            "trivial": {row: _plain(self.mean(row)) for row in self.rows[1:]},
            "cases": {name: {row: _plain(values) for row, values in case.items()} for name, case in self.cases.items()},
            **({"visibility": {"mean": {row: _plain(self.mean_visibility(row)) for row in (*self.rows, TOGETHER)},
                               "cases": self.visible}} if self.visible else {}),
            "faults": list(self.faults),
        }

    def write(self, path: Path) -> None:
        """Write JSON to ``path``, and the values of every case and row as CSV beside it.

        Raises:
            UnwritableFolderError: A file cannot be written.
        """
        write_json(self.to_plain(), path)
        with written_whole(path.with_suffix(".csv")) as temporary, temporary.open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["case", "row", *METRICS])
            table.writerows([name, row, *values.values()] for name, case in self.cases.items() for row, values in case.items())
            table.writerows(["mean", row, *self.mean(row).values()] for row in self.rows)


def evaluate_fusion(folders: Sequence[Path], fused: Path, *, cases: Sequence[str] | None = None, labels: Path | None = None,
                    conventions: Conventions = STANDARD, levels: GreyRange | Sequence[GreyRange] | None = UNIT_RANGE,
                    processes: int = 1) -> FusionEvaluation:
    """Score every fused image of a folder, or some.

    Args:
        folders: One folder of CASE_0000, CASE_0001, ... files, or two to four of images with equal names.
        fused: Folder of fused images with the cases' names, all in colour or all grey. Of those in colour the luma is scored.
        cases: Names of those to score, in this order; None for all.
        labels: Folder of label images with the cases' names, for the visibility of the boundaries between classes; None for none.
        conventions: How to score.
        levels: Black and white of images that are not 8-bit: of all; or a list with one of all sources or one of each, and
            possibly a last one of the fused images. What is left out is measured, with None all.
        processes: Cases scored at a time; with 1, in this process.

    Returns:
        The result; cases that cannot be scored (unreadable, resized, stale, outside the range) are in its ``faults``.

    Raises:
        FolderNotFoundError, EmptyFolderError: A folder is missing or holds no image.
        MissingModalityError, UnpairedCasesError: Sources and fused images do not belong together, or lack a chosen case.
        OptionError: ``folders`` are none of those.
        WorkerDiedError: A process ended without an answer.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> ct, mri = np.random.default_rng(0).integers(0, 256, (2, 48, 48), dtype=np.uint8)
        >>> with TemporaryDirectory() as folder:
        ...     for name, levels in (("CT", ct), ("MRI", mri), ("fused", np.maximum(ct, mri))):
        ...         Path(folder, name).mkdir()
        ...         Image.fromarray(levels).save(Path(folder, name, "a.png"))
        ...     evaluation = evaluate_fusion([Path(folder, "CT"), Path(folder, "MRI")], Path(folder, "fused"))
        >>> evaluation.rows
        ('fused', 'copy of CT', 'copy of MRI', 'average', 'maximum')
        >>> round(evaluation.mean("fused")["SCD"], 2), round(evaluation.mean("average")["SCD"], 2)
        (1.24, 1.43)
    """
    sources, images, truth = _matched(folders, fused, labels, cases)
    given = [levels] * (len(sources.names) + 1) if isinstance(levels, GreyRange) else levels
    ranges = (*source_ranges(sources, given, further=1), fused_range(images.values(), sources, given))
    score = partial(_score, sources=sources, images=images, truth=truth, record=read_record(fused), conventions=conventions,
                    levels=ranges)
    found = results_of(score, sources.images, processes=processes, doing="scoring fused images")
    results = dict(zip(sources.images, found, strict=True))
    return _evaluation(sources, images, conventions, ranges, results)


def _evaluation(sources: Sources, images: dict[str, Path], conventions: Conventions, ranges: Sequence[GreyRange],
                results: dict[str, Scored | str]) -> FusionEvaluation:
    """What was found of each case, together; for a fault there is a line."""
    scored = {name: result for name, result in results.items() if not isinstance(result, str)}
    _require_one_kind({images[name]: result.colours for name, result in scored.items()})
    warn_of_narrow(path for result in scored.values() for path in result.narrow)
    return FusionEvaluation(sources.names, conventions, ranges, {name: result.metrics for name, result in scored.items()},
                            tuple(result for result in results.values() if isinstance(result, str)),
                            {name: result.visible for name, result in scored.items() if result.visible})


def _matched(folders: Sequence[Path], fused: Path, labels: Path | None,
             cases: Sequence[str] | None) -> tuple[Sources, dict[str, Path], dict[str, Path]]:
    """Sources, fused images and labels of the same cases, all or those named."""
    sources, images = find_sources(folders), only(cases, image_files(fused), fused)
    sources = replace(sources, images=only(cases, sources.images, folders[0]))
    require_equal_names(folders[0], sources.images, fused, images)
    truth = {} if labels is None else only(cases, image_files(labels), labels)
    if labels is not None:
        require_equal_names(folders[0], sources.images, labels, truth)
    return sources, images, truth


def _require_one_kind(colours: dict[Path, int]) -> None:
    """Make sure that all fused images are in colour, or all grey.

    Raises:
        UnsuitableImageError: One is not as the first.
    """
    for path, count in colours.items():
        first = next(iter(colours))
        if count != colours[first]:
            kinds = {1: "grey", 3: "in colour"}
            raise UnsuitableImageError(path, f"is {kinds[count]}, but {first.name} is {kinds[colours[first]]}. Give images that "
                                             "one method fused.")


class Scored(NamedTuple):
    """Of one case: channels of the fused image, metrics and visibility of each row, and files that hardly use their range."""

    colours: int
    metrics: dict[str, Values]
    visible: dict[str, Values]
    narrow: tuple[Path, ...]


def _score(case: str, *, sources: Sources, images: dict[str, Path], truth: dict[str, Path], record: FusedRecord | None,
           conventions: Conventions, levels: Sequence[GreyRange]) -> Scored | str:
    """Values of every row of a case, or what is wrong with it."""
    try:
        _require_fresh(case, images[case], sources, record)
        *read, fused = [read_grey_image(path, shown)
                        for path, shown in zip((*sources.images[case], images[case]), levels, strict=True)]
        labels = read_label_image(truth[case]) if truth else None
        for image in (*read[1:], fused):
            _require_same_place(image, read[0], mend="Fuse again from these.")
        if labels is not None:
            _require_same_place(labels, read[0], mend="Give labels on the grid of the sources.")
        visible = {} if labels is None else _visible(fused, read, labels, sources.names)
        return Scored(len(fused.channels), _rows(fused, read, sources.names, conventions), visible,
                      tuple(image.path for image in (*read, fused) if is_narrow(image)))
    except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
        return str(fault_in_scoring(error, case))


def _require_fresh(case: str, fused: Path, sources: Sources, record: FusedRecord | None) -> None:
    changed = record and record.changed_source(case, sources.images[case])
    if changed:
        raise StaleImageError(fused, changed)


def _require_same_place(image: GreyImage, first: GreyImage, *, mend: str) -> None:
    difference = geometry_difference(image.geometry, first.geometry)
    if difference:
        raise UnsuitableImageError(image.path, f"has {difference} in {first.path}. {mend}")


def _rows(fused: GreyImage, sources: Sequence[GreyImage], names: Sequence[str], conventions: Conventions) -> dict[str, Values]:
    parts = [_telling(image.levels, sources) for image in sources]
    average = np.mean([part.astype(np.float64) for part in parts], axis=0)
    rows = {FUSED: _telling(fused.levels, sources),
            **{f"copy of {name}": part for name, part in zip(names, parts, strict=True)},
            AVERAGE: average, MAXIMUM: np.max([part.astype(np.float64) for part in parts], axis=0)}
    try:
        return {row: fusion_metrics(image, parts, conventions) for row, image in rows.items()}
    except ValueError as error:
        raise UnsuitableImageError(fused.path, f"cannot be scored: {error}.") from error


def _visible(fused: GreyImage, sources: Sequence[GreyImage], labels: GreyImage, names: Sequence[str]) -> dict[str, Values]:
    """Visibility of every boundary, by row."""
    stacked = np.stack([image.levels for image in sources]).astype(np.float64)
    rows = {FUSED: fused.channels, **{f"copy of {name}": stacked[index:index + 1] for index, name in enumerate(names)},
            AVERAGE: stacked.mean(axis=0, keepdims=True), MAXIMUM: stacked.max(axis=0, keepdims=True), TOGETHER: stacked}
    classes = {str(int(value)): int(value) for value in np.unique(labels.levels) if value > 0}
    truth, inside = (_as_volume(part[None])[0] for part in (labels.levels, stacked.any(axis=0)))
    return {row: visibility(_as_volume(image), truth, inside, classes=classes) for row, image in rows.items()}


def _as_volume(image: np.ndarray) -> np.ndarray:
    """Pictures (C, Y, X) as volumes of one slice, (C, 1, Y, X)."""
    return image if image.ndim == 4 else image[:, None]


def _telling(levels: np.ndarray, sources: Sequence[GreyImage]) -> np.ndarray:
    """The slices of a volume in which a source varies; a picture as it is."""
    if levels.ndim == 2:
        return levels
    varies = [image.levels.max(axis=(1, 2)) > image.levels.min(axis=(1, 2)) for image in sources]
    return levels[np.any(varies, axis=0)]


def _plain(values: Values) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
