"""Dice lost when the exported fused image is changed before it is segmented, beside stock nnU-Net with its sources changed alike.

Takes a comparison that f4s_compare trained: our rows are segmented from the fused images that their validation exported, stock
nnU-Net from the sources, in 8 bits through the plans' windows. Every change is made of 8-bit images and followed by rounding to 8
bits; what lies outside of the image stays 0. Images are cropped first, so that no crop takes a shift back; labels of a shifted
image are shifted back.

Example:
    python benchmarks/robustness.py --root DATA comparison 505 2d --rows fuse4seg stacked --folds 0 1 -o robustness.json
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image as Picture
from scipy.ndimage import gaussian_filter, zoom

from fuse4seg.cli.command import make_parser, run_command

Change = Callable[[np.ndarray], np.ndarray]
UNCHANGED = "unchanged"
#: Voxels along Y and X, and back.
SHIFT = 1
QUALITY = 90


def shifted(levels: np.ndarray) -> np.ndarray:
    """By a voxel along Y and X; the border is repeated."""
    return np.pad(levels, [(0, 0)] * (levels.ndim - 2) + [(SHIFT, 0)] * 2, mode="edge")[..., :-SHIFT, :-SHIFT]


def shifted_back(labels: np.ndarray) -> np.ndarray:
    """Undo :func:`shifted` for labels."""
    return np.pad(labels, [(0, 0)] * (labels.ndim - 2) + [(0, SHIFT)] * 2, mode="edge")[..., SHIFT:, SHIFT:]


def blurred(levels: np.ndarray) -> np.ndarray:
    """By a Gaussian of .7 voxels along all axes with more than one voxel."""
    return gaussian_filter(levels.astype(np.float64), [0, *(0.7 * (extent > 1) for extent in levels.shape[1:])])


def resampled(levels: np.ndarray) -> np.ndarray:
    """To 1.5 times the spacing and back, linearly."""
    size = levels.shape[1:]
    coarse = zoom(levels.astype(np.float64), [1, *(max(1, round(extent / 1.5)) / extent for extent in size)], order=1)
    return zoom(coarse, [1, *(fine / few for fine, few in zip(size, coarse.shape[1:], strict=True))], order=1)


def as_jpeg(levels: np.ndarray, *, subsampling: str = "4:2:0") -> np.ndarray:
    """Saved as JPEG slice by slice and read again: three channels as a picture in colour, one as a grey one.

    Libraries keep colour at half the resolution along both axes, 4:2:0, unless told otherwise.
    """
    return np.stack([_through_jpeg(levels[:, index], subsampling) for index in range(levels.shape[1])], axis=1)


def windowed(levels: np.ndarray) -> np.ndarray:
    """Gain 1.1 and offset .05."""
    return 1.1 * levels + 0.05 * 255


CHANGES: Mapping[str, Change] = MappingProxyType({UNCHANGED: lambda levels: levels, "shift": shifted, "blur": blurred,
                                                  "resampling": resampled, "JPEG": as_jpeg,
                                                  "JPEG 4:4:4": partial(as_jpeg, subsampling="4:4:4"), "window": windowed})


def changed(levels: np.ndarray, name: str) -> np.ndarray:
    """An 8-bit image in grey or colour (C, Z, Y, X), 0 outside, under a change of CHANGES, likewise."""
    inside = levels.any(axis=0)
    made = np.clip(np.rint(CHANGES[name](levels)), 1, 255).astype(np.uint8)
    return made * (shifted(inside) if name == "shift" else inside)


def in_place(labels: np.ndarray, name: str) -> np.ndarray:
    """Labels of a changed image where those of the unchanged one lie."""
    return shifted_back(labels) if name == "shift" else labels


def _through_jpeg(picture: np.ndarray, subsampling: str) -> np.ndarray:
    """One or three channels (C, Y, X)."""
    pixels = np.ascontiguousarray(picture.transpose(1, 2, 0) if len(picture) == 3 else picture[0])
    stream = io.BytesIO()
    Picture.fromarray(pixels).save(stream, "JPEG", quality=QUALITY, subsampling=subsampling)
    read = np.asarray(Picture.open(stream))
    return read.transpose(2, 0, 1) if len(picture) == 3 else read[None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Dice under changes of the fused image.",
                         example="python benchmarks/robustness.py comparison 505 2d --rows fuse4seg stacked")
    parser.add_argument("comparison", type=Path, help="folder that f4s_compare -o made")
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("-p", dest="plans", default="Fuse4SegPlans", help="default: %(default)s")
    parser.add_argument("--rows", nargs="+", default=["fuse4seg", "stacked"], help="ours and stock nnU-Net's")
    parser.add_argument("--folds", nargs="+", type=int, default=[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--cases", type=int, help="of each fold, the first so many (default: all)")
    parser.add_argument("-o", dest="output", type=Path, help="write the figures to this JSON file, too")
    return run_command(_run, parser, arguments)


def table(rows: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Markdown: mean Dice of each row unchanged, and what each change costs."""
    lines = [["row", UNCHANGED, *(name for name in CHANGES if name != UNCHANGED)], ["---"] * (1 + len(CHANGES))]
    for name, dice in rows.items():
        before = statistics.fmean(dice[UNCHANGED])
        lines.append([name, f"{before:.3f}", *(f"{statistics.fmean(dice[change]) - before:+.3f}" for change in CHANGES
                                               if change != UNCHANGED)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.comparison.rows import choose_rows
    from fuse4seg.comparison.trainings import Budget, Trial
    from fuse4seg.datasets.dataset_json import channel_names, read_dataset_json
    from fuse4seg.files import write_json
    from fuse4seg.paths import PREPROCESSED, data_root, dataset_name

    name = dataset_name(options.dataset, variables=(PREPROCESSED,))
    source = data_root(PREPROCESSED) / name
    chosen = choose_rows(options.rows, modalities=channel_names(read_dataset_json(source)))
    output, rows = options.comparison.absolute(), dict[str, dict[str, list[float]]]()
    for row in chosen:
        rows[row.name] = {change: [] for change in CHANGES}
        for fold in options.folds:
            for seed in options.seeds:
                trial = Trial(row, fold, seed, name, options.configuration, options.plans, output, Budget())
                for change, dice in (_ours if row.ours else _stock)(trial, source, options.cases).items():
                    rows[row.name][change] += dice
        if options.output:
            write_json({"rows": rows, "folds": options.folds, "seeds": options.seeds, "cases": options.cases}, options.output)
    print(table(rows))


def _ours(trial: Any, source: Path, cases: int | None) -> dict[str, list[float]]:
    """Dice of every case under every change, from the exported images."""
    import torch
    from acvl_utils.cropping_and_padding.bounding_boxes import get_bbox_from_mask

    from fuse4seg.inference.image_files import read_fused
    from fuse4seg.inference.model import load_model
    from fuse4seg.inference.predict_case import segment_fused

    model = load_model(trial.model, folds=[trial.fold], device=torch.device("cpu"))
    exported = trial.fold_folder / "validation" / "fused"

    def segment(case: str, change: str) -> np.ndarray:
        path = exported / f"{case}{model.description.file_ending}"
        levels, properties = read_fused(path, model.description.reader, colours=model.colours)
        box = tuple(slice(*ends) for ends in get_bbox_from_mask(levels.any(axis=0)))
        made = segment_fused(model, [changed(levels[(slice(None), *box)], change)], properties["spacing"])
        labels = np.zeros(levels.shape[1:], dtype=np.uint8)
        labels[box] = in_place(_labels(made.logits, made.space, model.description), change)
        return labels

    return _scored(segment, trial, source, model.description.dataset_json, cases, doing=trial.row.name)


def _stock(trial: Any, source: Path, cases: int | None) -> dict[str, list[float]]:
    """The same of stock nnU-Net, from its sources in 8 bits."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    from fuse4seg.comparison.prepared_data import as_grey, windows_of
    from fuse4seg.inference.model import ModelDescription
    from fuse4seg.nnunet_output import logged_prints

    # nnU-Net names no folder of its own where the variables are not set.
    os.environ.setdefault("nnUNet_results", str(trial.place))
    plans = json.loads((source / f"{trial.plans}.json").read_text())
    windows = windows_of(plans, trial.configuration)
    low, high = (windows[:, side].reshape(-1, 1, 1, 1) for side in range(2))
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    with logged_prints():
        predictor.initialize_from_trained_model_folder(str(trial.model), [trial.fold], "checkpoint_final.pth")
    manager, configuration = predictor.plans_manager, predictor.configuration_manager
    description = ModelDescription(manager, configuration, predictor.dataset_json)
    dataset = nnUNetDatasetBlosc2(str(source / configuration.data_identifier))

    def segment(case: str, change: str) -> np.ndarray:
        data, _, _, properties = dataset.load_case(case)
        levels = np.rint(as_grey(data[:], windows)).astype(np.uint8)
        outside = (data[:] == 0).all(axis=0)
        sources = np.where(outside, 0, np.maximum(levels, 1)).astype(np.uint8)
        made = np.concatenate([changed(one[None], change) for one in sources])  # three of them are no image in colour
        channels = np.where(made.any(axis=0), made / 255 * (high - low) + low, 0).astype(np.float32)
        with logged_prints():
            logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(channels)).numpy()
        return in_place(_labels(logits, properties, description), change)

    return _scored(segment, trial, source, predictor.dataset_json, cases, doing=trial.row.name)


def _labels(logits: np.ndarray, space: dict[str, Any], description: Any) -> np.ndarray:
    from fuse4seg.inference.input_space import to_labels

    return to_labels(logits, space, description=description)[0]


def _scored(segment: Callable[[str, str], np.ndarray], trial: Any, source: Path, dataset_json: dict[str, Any],
            cases: int | None, *, doing: str) -> dict[str, list[float]]:
    """Mean foreground Dice of every case under every change; classes that neither holds are left out."""
    import SimpleITK as sitk

    from fuse4seg.datasets.dataset_json import foreground_classes
    from fuse4seg.evaluation.overlap import confusion, dice
    from fuse4seg.progress import progress

    ending = dataset_json["file_ending"]
    names = sorted(path.name.removesuffix(ending) for path in (trial.fold_folder / "validation").glob(f"*{ending}"))[:cases]
    found: dict[str, list[float]] = {change: [] for change in CHANGES}
    for case in progress(names, doing, unit="case"):
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(source / "gt_segmentations" / f"{case}{ending}")))
        for change in CHANGES:
            labels = segment(case, change)
            values = [dice(confusion(labels, truth, label)) for label in foreground_classes(dataset_json).values()]
            found[change].append(float(np.nanmean(values)))
    return found


if __name__ == "__main__":
    sys.exit(main())
