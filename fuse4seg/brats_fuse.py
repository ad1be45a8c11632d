"""BraTS-Fuse: every combination of a BraTS patient's modalities fused, as 8-bit slices with masks, checksums and metrics."""

from __future__ import annotations

import csv
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from PIL import Image as Picture

from fuse4seg import __version__
from fuse4seg.background import results_of
from fuse4seg.case_faults import fault_of
from fuse4seg.colour import grey_levels
from fuse4seg.datasets.brain import AXES, RULE, extract_brain, is_skull_stripped, telling_slices, to_8_bit
from fuse4seg.datasets.brats import MODALITIES, BratsCase, find_brats_cases, find_release, label_values_of, meaning_of, with_three
from fuse4seg.datasets.dataset_json import channel_names
from fuse4seg.datasets.images import geometry_difference, read_image
from fuse4seg.datasets.nifti import readable_by_itk
from fuse4seg.datasets.raw import Case
from fuse4seg.errors import OptionError, UnsuitableImageError
from fuse4seg.evaluation.fusion_metrics import METRICS, STANDARD, fusion_metrics
from fuse4seg.evaluation.table import format_table
from fuse4seg.farm.farm import Farm, Job
from fuse4seg.farm.processes import FEWER, ProcessFarm
from fuse4seg.files import checksum, make_writable_folder, write_json, written_whole
from fuse4seg.inference.find_model import TrainedModel
from fuse4seg.inference.model import Model, load_model
from fuse4seg.inference.predict_case import fuse_case
from fuse4seg.inference.preprocess_case import preprocessed_images
from fuse4seg.own_outputs import claim_outputs, require_apart
from fuse4seg.paths import FINAL
from fuse4seg.progress import progress

log = logging.getLogger(__name__)

MANIFEST, TABLE, CASES = "manifest.json", "metrics.csv", "cases"
#: Rows of the metric table beside the fused images of a combination.
FUSED, AVERAGE, MAXIMUM = "fused", "average", "maximum"
SOURCES, MASKS = "sources", "masks"
FOLDERS = (CASES, SOURCES, MASKS, FUSED)
ORIENTATION = "LPS"
COMBINATIONS = tuple(chosen for count in range(2, len(MODALITIES) + 1) for chosen in combinations(MODALITIES, count))


@dataclass(frozen=True)
class Build:
    """How to build.

    Attributes:
        output: Root of the benchmark.
        model: Of four modalities in the order T1, T1ce, T2, FLAIR; its first fold fuses.
        checkpoint: File of that fold.
        plane: One of AXES.
        device: Where to fuse.
    """

    output: Path
    model: TrainedModel
    checkpoint: str = FINAL
    plane: str = "axial"
    device: str = "cpu"

    def to_plain(self) -> dict[str, Any]:
        """What decides about the bytes that are written."""
        weights = self.model.folder / f"fold_{self.model.folds[0]}" / self.checkpoint
        return {"fuse4seg": __version__,
                "versions": {name: version(name) for name in ("torch", "nnunetv2", "numpy", "scipy", "SimpleITK", "pillow")},
                "model": {"name": self.model.folder.name, "fold": self.model.folds[0], "sha256": checksum(weights)},
                "device": self.device, "plane": self.plane, "orientation": ORIENTATION, "intensities": RULE,
                "fused": "8 bits a channel, as the segmentation network reads it; metrics of the luma",
                "metric_conventions": asdict(STANDARD)}


def build_brats_fuse(source: Path, build: Build, *, processes: int, overwrite: bool = False,
                     farm: Farm | None = None) -> list[str]:
    """Build the benchmark, or what is missing of it; what is whole is left as it is.

    Args:
        source: Folder of a BraTS release, or of nnU-Net's layout.
        build: What to build.
        processes: Cases worked on at a time.
        overwrite: Also write where there are files that this tool did not write.
        farm: Workers that build, in place of these processes.

    Returns:
        One line for each case that could not be used.

    Raises:
        FolderNotFoundError, EmptyFolderError, FaultyCasesError: The source.
        UnwritableFolderError: The output.
        CheckpointError, ModelPlansError, UntrustedModelError, OptionError: The model, or its modalities.
        OptionError: The output holds the source, belongs to a raw dataset, or holds what this tool did not write; or the release
            cannot be told, so nor what labels mean.
        WorkerDiedError: A process ended without an answer.
    """
    cases = find_brats_cases(source)
    require_apart(build.output, [source, *(path.parent for case in cases for path in case.images)], overwrite=overwrite)
    own = claim_outputs(build.output, (MANIFEST, TABLE, *FOLDERS), overwrite=overwrite)
    release = _release_of(cases, processes=processes)
    # Each worker loads it again; here it is only to be refused before anything is written.
    _model(build)
    make_writable_folder(build.output)
    own.note()
    make_writable_folder(build.output / CASES)
    made_by = {**build.to_plain(), "labels": meaning_of(release)}
    work = partial(_build_case, build=build, release=release, made_by=made_by)
    job = Job(partial(_hold, build), work, "building", on_gpu=build.device == "cuda")
    # Always in processes of their own: the same bytes, however many there are.
    with nullcontext(farm) if farm else ProcessFarm([build.device] * min(processes, len(cases)), mend=FEWER) as workers:
        building = workers.outcomes(job, cases, name=lambda case: case.name)
        ended = {outcome.case: outcome for outcome in progress(building, "building", unit="case", total=len(cases))}
    in_order = [ended[case.name] for case in cases]
    records = {outcome.case: outcome.result for outcome in in_order if outcome.failure is None}
    _write_unless_same(json.dumps({**made_by, "modalities": MODALITIES, "combinations": list(map("+".join, COMBINATIONS)),
                                   "cases": records}, indent=1), build.output / MANIFEST)
    _write_unless_same(_as_csv(records), build.output / TABLE)
    return [str(outcome.failure) for outcome in in_order if outcome.failure is not None]


def format_metrics(table: Path) -> str:
    """The means of a benchmark's metric table, a row per combination and kind of image."""
    with table.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    return format_table(header[1:], [[*row[1:3], *map(float, row[3:])] for row in rows if row[0] == "mean"])


def _release_of(cases: Sequence[BratsCase], *, processes: int) -> str:
    """Key in CONVENTIONS; labels that cannot be read, whose cases will be named, tell nothing."""
    found = results_of(_readable_values, cases, processes=processes, doing="reading labels")
    return find_release(cases, set().union(*found))


def _readable_values(case: BratsCase) -> set[int]:
    try:
        return label_values_of(case)
    except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
        log.debug("%s", fault_of(error, case.name))
        return set()


# ------------------------------------------------------------------------------ one case

def _hold(build: Build) -> Model:
    """The model, in a worker with one thread, which gives the same bytes wherever it is."""
    torch.set_num_threads(1)
    return _model(build)


def _build_case(model: Model, case: BratsCase, *, build: Build, release: str, made_by: dict[str, Any]) -> dict[str, Any]:
    """The case's record, after all its files are written."""
    sources = {path.name: checksum(path) for path in (*case.images, *([case.label] if case.label else []))}
    place = build.output / CASES / f"{case.name}.json"
    kept = _kept_record(place, build.output, {"made_by": made_by, "sources": sources})
    if kept:
        return kept["record"]
    volumes, label, brain, extracted = _load(case, release, build.device)
    axis = AXES[build.plane]
    slices = telling_slices(brain, axis)
    if not slices:
        raise UnsuitableImageError(case.images[0], "holds no brain. Remove the case.")
    levels = {name: to_8_bit(volume, brain) for name, volume in zip(MODALITIES, volumes, strict=True)}
    written = {}
    for folder, volume in _pictures(model, case, levels, label, volumes, brain):
        for index in slices:
            path = Path(folder, f"{case.name}_{index:03d}.png")
            written[str(path)] = _write_picture(volume.take(index, axis), build.output / path)
        if folder.startswith(FUSED):
            chosen = folder.removeprefix(f"{FUSED}/")
            metrics = written.setdefault("metrics", {})
            metrics[chosen] = _score(_grey(volume), [levels[name] for name in chosen.split("+")], slices, axis)
    record = {"sources": sources, "label": case.label is not None, "brain_extraction": extracted, "slices": slices,
              "metrics": written.pop("metrics"), "files": written}
    write_json({"made_by": made_by, "sources": sources, "record": record}, place)
    return record


def _kept_record(place: Path, output: Path, expected: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier run left of the case, if it was made alike and every file is still what it was."""
    try:
        found = json.loads(place.read_text())
        made_alike = all(found[key] == json.loads(json.dumps(value)) for key, value in expected.items())
        whole = made_alike and all(checksum(output / name) == known for name, known in found["record"]["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if whole else None


def _load(case: BratsCase, release: str, device: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, str]:
    """Volumes (N, Z, Y, X) and labels in ORIENTATION, the brain's mask, and how it was found."""
    images = [read_image(path, SimpleITKIO) for path in (*case.images, *([case.label] if case.label else []))]
    for image in images[1:]:
        difference = geometry_difference(image.geometry, images[0].geometry)
        if difference:
            raise UnsuitableImageError(image.path, f"has {difference} in {images[0].path}. Resample it to that grid.")
    volumes = np.concatenate([image.voxels for image in images[:len(MODALITIES)]])
    if not np.isfinite(volumes).all():
        raise UnsuitableImageError(case.images[0], "or a sibling holds NaN or infinite intensities. Replace them.")
    label = with_three(images[-1].voxels[0].astype(np.uint8), release) if case.label else None
    if is_skull_stripped(volumes):
        log.info("%s is skull-stripped already", case.name)
        brain, extracted = (volumes != 0).any(axis=0), "skipped: already skull-stripped"
    else:
        brain, extracted = extract_brain(case.images[0], device=device), "hd-bet"
    place = _placed(case.images[0])
    turned = [_turned(array, place) for array in (brain.astype(np.uint8), *volumes, *([] if label is None else [label]))]
    return (np.stack(turned[1:1 + len(MODALITIES)]), None if label is None else turned[-1], turned[0] > 0, extracted)


def _turned(voxels: np.ndarray, like: sitk.Image) -> np.ndarray:
    image = sitk.GetImageFromArray(voxels)
    image.CopyInformation(like)
    return sitk.GetArrayFromImage(sitk.DICOMOrient(image, ORIENTATION))


def _placed(path: Path) -> sitk.Image:
    with readable_by_itk([path]) as (file,):
        return sitk.ReadImage(str(file))


def _pictures(model: Model, case: BratsCase, levels: dict[str, np.ndarray], label: np.ndarray | None, volumes: np.ndarray,
              brain: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Folders and the uint8 volumes (Z, Y, X), fused ones in colour (Z, Y, X, 3), whose slices go there."""
    for name, volume in levels.items():
        yield f"{SOURCES}/{name}", volume
    if label is not None:
        yield MASKS, label
    spacing = sitk.DICOMOrient(_placed(case.images[0]), ORIENTATION).GetSpacing()
    with tempfile.TemporaryDirectory() as folder:
        files = tuple(Path(folder, f"{case.name}_{number:04d}.nii.gz") for number in range(len(volumes)))
        for path, volume in zip(files, volumes, strict=True):
            image = sitk.GetImageFromArray(np.where(brain, volume, 0))
            image.SetSpacing(spacing)
            sitk.WriteImage(image, str(path))
        for chosen, fused in _fused(model, Case(case.name, files)):
            masked = np.where(brain, fused, 0)
            yield f"{FUSED}/{'+'.join(chosen)}", np.moveaxis(masked, 0, -1) if len(masked) > 1 else masked[0]


def _fused(model: Model, case: Case) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Every combination, fused from the others left out."""
    channels, properties = preprocessed_images(case, model.description)
    for chosen in COMBINATIONS:
        present = tuple(name in chosen for name in MODALITIES)
        yield chosen, fuse_case(model, torch.from_numpy(channels), properties, present=None if all(present) else present)


def _model(build: Build) -> Model:
    model = load_model(build.model.folder, folds=build.model.folds[:1], checkpoint=build.checkpoint,
                       device=torch.device(build.device))
    if len(channel_names(model.description.dataset_json)) != len(MODALITIES):
        names = ", ".join(channel_names(model.description.dataset_json))
        raise OptionError("-m", f"this model fuses {names}. Give one of {', '.join(MODALITIES)}, in this order.")
    return model


def _grey(volume: np.ndarray) -> np.ndarray:
    return grey_levels(np.moveaxis(volume, -1, 0)) if volume.ndim == 4 else volume


def _score(fused: np.ndarray, sources: Sequence[np.ndarray], slices: Sequence[int], axis: int) -> dict[str, dict[str, float]]:
    """Mean metrics over the slices, of the fused image and of the rows that cost nothing."""
    parts = [np.stack([volume.take(index, axis) for index in slices]) for volume in sources]
    rows = {FUSED: np.stack([fused.take(index, axis) for index in slices]),
            AVERAGE: np.mean([part.astype(np.float64) for part in parts], axis=0), MAXIMUM: np.max(parts, axis=0)}
    try:
        values = {row: fusion_metrics(image, parts) for row, image in rows.items()}
    except ValueError as error:
        raise OptionError("-i", f"slices cannot be scored: {error}.") from error
    return {row: {name: None if np.isnan(value) else value for name, value in of_row.items()} for row, of_row in values.items()}


# ------------------------------------------------------------------------------ files

def _write_picture(levels: np.ndarray, path: Path) -> str:
    """Write a PNG; returns its checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        Picture.fromarray(np.ascontiguousarray(levels)).save(temporary)
    return checksum(path)


def _write_unless_same(text: str, path: Path) -> None:
    if path.is_file() and path.read_text() == text:
        return
    with written_whole(path) as temporary:
        temporary.write_text(text)


def _as_csv(records: dict[str, dict[str, Any]]) -> str:
    """Values of every case, combination and row, and their means over the cases."""
    lines = [",".join(["case", "combination", "row", *METRICS])]
    for chosen in map("+".join, COMBINATIONS):
        for row in (FUSED, AVERAGE, MAXIMUM):
            values = {name: [record["metrics"][chosen][row][metric] for metric in METRICS] for name, record in records.items()}
            table = np.array(list(values.values()), dtype=np.float64)
            lines += [",".join([name, chosen, row, *map(_number, of_case)]) for name, of_case in values.items()]
            if len(table):
                lines.append(",".join(["mean", chosen, row, *map(_number, np.nanmean(table, axis=0).tolist())]))
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "nan" if value is None else repr(value)
