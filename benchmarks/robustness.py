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
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image as Picture
from scipy.ndimage import gaussian_filter, zoom

sys.path.insert(0, str(Path(__file__).parent))

from validation_cases import Ours, Segment, Stock, add_comparison_flags, losses, measure, stock_labels, to_labels

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
    add_comparison_flags(parser)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    print(losses(measure(options, lambda _: tuple(CHANGES), ours=_of_exported, stock=_of_sources), unchanged=UNCHANGED))


def _of_exported(ours: Ours) -> Segment:
    """Segments the exported images."""
    from acvl_utils.cropping_and_padding.bounding_boxes import get_bbox_from_mask

    from fuse4seg.inference.image_files import read_fused
    from fuse4seg.inference.predict_case import segment_fused

    model, exported = ours.model, ours.trial.fold_folder / "validation" / "fused"

    def segment(case: str, change: str) -> np.ndarray:
        path = exported / f"{case}{model.description.file_ending}"
        levels, properties = read_fused(path, model.description.reader, colours=model.colours)
        box = tuple(slice(*ends) for ends in get_bbox_from_mask(levels.any(axis=0)))
        made = segment_fused(model, [changed(levels[(slice(None), *box)], change)], properties["spacing"])
        labels = np.zeros(levels.shape[1:], dtype=np.uint8)
        labels[box] = in_place(to_labels(made.logits, made.space, model.description), change)
        return labels

    return segment


def _of_sources(stock: Stock) -> Segment:
    """The same of stock nnU-Net, from its sources in 8 bits."""
    from fuse4seg.comparison.prepared_data import as_grey, windows_of

    windows = windows_of(stock.plans, stock.trial.configuration)
    low, high = (windows[:, side].reshape(-1, 1, 1, 1) for side in range(2))

    def segment(case: str, change: str) -> np.ndarray:
        data, _, _, properties = stock.dataset.load_case(case)
        levels = np.rint(as_grey(data[:], windows)).astype(np.uint8)
        outside = (data[:] == 0).all(axis=0)
        sources = np.where(outside, 0, np.maximum(levels, 1)).astype(np.uint8)
        made = np.concatenate([changed(one[None], change) for one in sources])  # three of them are no image in colour
        channels = np.where(made.any(axis=0), made / 255 * (high - low) + low, 0).astype(np.float32)
        return in_place(stock_labels(stock, channels, properties), change)

    return segment


if __name__ == "__main__":
    sys.exit(main())
