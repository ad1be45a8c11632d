"""Volumes of a case for the viewer: 8 bits, cropped, differences to what neighbours predict, gzipped, in base64."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import nibabel
import numpy as np

from fuse4seg.colour import WHITE, windowed
from fuse4seg.inference.image_files import RGB24
from fuse4seg.report.case_images import CaseImages
from fuse4seg.report.pictures import grey_window, shown_box, telling_index

#: Kinds of layers: what is looked at by itself, and what lies over it.
FUSED, SOURCE, ENTROPY, SEGMENTATION, REFERENCE = "fused", "source", "entropy", "segmentation", "reference"
LABELS = (SEGMENTATION, REFERENCE)
#: zlib's gzip format with its largest window.
GZIP = 31
#: Of a mixture: every so manieth voxel tells its weights, their unit's inverse, and their size at most; the middle of levels.
EVERY, ONE, MOST, MIDDLE = 37, 256, 1 << 20, 128


@dataclass(frozen=True)
class Layer:
    """One volume.

    Attributes:
        kind: FUSED, SOURCE, ENTROPY, SEGMENTATION or REFERENCE.
        title: For people.
        levels: uint8, shape (C, Z, Y, X), C 1 or 3.
        slope, intercept: A level times the one plus the other is the value.
        clipped: Whether values beyond are shown as the lowest and the highest level.
        unit: Of the value.
    """

    kind: str
    title: str
    levels: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    clipped: bool = False
    unit: str = ""


def layers_of(images: CaseImages) -> list[Layer]:
    """Everything that there is of a case, whole, the fused image first."""
    inside = images.inside
    layers = [Layer(FUSED, "fused", images.fused)]
    layers += [_source(name, source, inside) for name, source in images.sources.items()]
    if images.entropy is not None:
        highest = max(float(images.entropy.max()), 1e-6)
        levels = np.rint(WHITE * windowed(images.entropy, 0, highest)).astype(np.uint8)
        layers.append(Layer(ENTROPY, "entropy", levels[None], slope=highest / WHITE, unit="nats"))
    layers += [Layer(kind, kind, labels[None]) for kind, labels in zip(LABELS, (images.labels, images.reference), strict=True)
               if labels is not None]
    return layers


def _source(name: str, source: np.ndarray, inside: np.ndarray) -> Layer:
    """Intensities of 8 bits as they are; others between the percentiles that pictures show."""
    if source.min() >= 0 and source.max() <= WHITE and (source == np.floor(source)).all():
        return Layer(SOURCE, name, source.astype(np.uint8)[None])
    low, high = grey_window(source, inside)
    levels = np.rint(WHITE * windowed(source.astype(np.float64), low, high)).astype(np.uint8)
    return Layer(SOURCE, name, levels[None], slope=(high - low) / WHITE, intercept=low, clipped=True)


def encoded_layers(images: CaseImages) -> dict[str, Any]:
    """The layers of a case as viewer.js takes them, in plain data, cropped to what is not background.

    Args:
        images: Of the case.

    Returns:
        ``shape`` [x, y, z], ``first`` (the whole image's voxel that is first here, [x, y, z]), ``focus`` (the voxel here that the
        pictures show, [x, y, z]), and ``layers``: title, kind, channels, slope, intercept, clipped, unit, ``header`` (NIfTI's,
        base64), ``data`` (:func:`packed`, base64) and ``mixed`` (weights of :func:`mixture`, or None).
    """
    box = shown_box(images)
    first = [part.start for part in box[::-1]]
    affine = images.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    labels = None if images.labels is None else images.labels[box]
    focus = [telling_index(images.fused[(slice(None), *box)], labels, axis) for axis in (2, 1, 0)]
    layers = [replace(layer, levels=layer.levels[(slice(None), *box)]) for layer in layers_of(images)]
    inside, sources = images.inside[box], [layer.levels[0] for layer in layers if layer.kind == SOURCE]
    return {"shape": [part.stop - part.start for part in box[::-1]], "first": first, "focus": focus,
            "layers": [_plain(layer, inside, affine, sources if layer.kind == FUSED else []) for layer in layers]}


def _plain(layer: Layer, inside: np.ndarray, affine: np.ndarray, sources: Sequence[np.ndarray]) -> dict[str, Any]:
    window = [0.0, float(WHITE)]
    if layer.kind == SOURCE and not layer.clipped:
        window = list(grey_window(layer.levels[0].astype(np.float64), inside))
    weights = mixture(layer.levels, sources, inside) if sources and inside.any() else None
    ways = [(packed(layer.levels), None)]
    if weights is not None:
        ways.append((packed(layer.levels, sources=sources, weights=weights), weights.tolist()))
    data, mixed = min(ways, key=lambda way: len(way[0]))
    return {"title": layer.title, "kind": layer.kind, "channels": len(layer.levels), "slope": layer.slope,
            "intercept": layer.intercept, "clipped": layer.clipped, "unit": layer.unit,
            "header": _text(nifti_header(layer, affine, window)), "data": _text(data), "mixed": mixed}


def nifti_header(layer: Layer, affine: np.ndarray, window: Sequence[float]) -> bytes:
    """NIfTI's header and the four bytes before the voxels: RGB24 or uint8, with the scale of the values and the window."""
    header, levels = nibabel.Nifti1Header(), layer.levels
    header.set_data_dtype(RGB24 if len(levels) > 1 else np.uint8)
    header.set_data_shape(levels.shape[:0:-1])
    header.set_sform(affine, code="scanner")
    header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    header["magic"], header["vox_offset"] = b"n+1", 352
    if len(levels) == 1:
        header["scl_slope"], header["scl_inter"] = layer.slope, layer.intercept
        header["cal_min"], header["cal_max"] = (layer.slope * level + layer.intercept for level in window)
    return header.binaryblock + bytes(4)


def mixture(levels: np.ndarray, sources: Sequence[np.ndarray], inside: np.ndarray) -> np.ndarray:
    """Weights by which sources come nearest to a fused image's channels, by least squares over some of the voxels inside.

    Args:
        levels: Of the fused image, shape (C, Z, Y, X).
        sources: Levels, shape (Z, Y, X) each.
        inside: Where the image is, bool, same shape; somewhere it is.

    Returns:
        Whole numbers, shape (C, N + 1), in 1 / 256; the last is a constant.
    """
    some = np.flatnonzero(inside)[::EVERY]
    known = np.stack([*(source.ravel()[some] for source in sources), np.ones(len(some))], axis=1).astype(np.float64)
    found, *_ = np.linalg.lstsq(known, levels.reshape(len(levels), -1)[:, some].T.astype(np.float64), rcond=None)
    return np.rint(found.T * ONE).astype(np.int64).clip(-MOST, MOST)


def packed(levels: np.ndarray, *, sources: Sequence[np.ndarray] = (), weights: np.ndarray | None = None) -> bytes:
    """Gzipped differences of levels to what is predicted of them: half of what the levels themselves make.

    What can be known from elsewhere goes first: of each channel its mixture of sources; without one, of red and blue the green.
    Of what is left, each voxel is predicted by its neighbours before it along X, Y and Z: a, b, c, with ab, ac, bc between them,
    0 outside. A plane through two of them says a + b - ab; the mean of three such planes is taken, rounded down. All is modulo
    256.

    Args:
        levels: uint8, shape (C, Z, Y, X), C 1 or 3.
        sources: Levels that are known, uint8, shape (Z, Y, X) each.
        weights: Of these, from :func:`mixture`; None for no mixture.

    Source: the plane is that of lossless JPEG (ITU-T T.81, predictor 4); Z_RLE is what zlib has for PNG's differences.

    Example:
        >>> import zlib
        >>> list(zlib.decompress(packed(np.uint8([[[[10, 12], [10, 20]]]])), 31))
        [10, 6, 4, 9]
    """
    rest = _unexplained(levels, sources, weights)
    before = np.pad(rest.astype(np.int16), ((0, 0), (1, 0), (1, 0), (1, 0)))
    a, b, c = before[:, 1:, 1:, :-1], before[:, 1:, :-1, 1:], before[:, :-1, 1:, 1:]
    ab, ac, bc = before[:, 1:, :-1, :-1], before[:, :-1, 1:, :-1], before[:, :-1, :-1, 1:]
    differences = (before[:, 1:, 1:, 1:] - (2 * (a + b + c) - ab - ac - bc) // 3).astype(np.uint8)
    packing = zlib.compressobj(9, zlib.DEFLATED, GZIP, 9, zlib.Z_RLE)
    return packing.compress(np.ascontiguousarray(differences)) + packing.flush()


def _unexplained(levels: np.ndarray, sources: Sequence[np.ndarray], weights: np.ndarray | None) -> np.ndarray:
    """Levels less what is known of them, uint8; differences lie around 128, so that small ones do not leap."""
    if weights is not None:
        wide = [source.astype(np.int32) for source in sources]
        known = [sum(int(weight) * source for weight, source in zip(row, wide, strict=False)) + int(row[-1]) for row in weights]
        return (levels - (np.stack(known) >> 8) + MIDDLE).astype(np.uint8)
    if len(levels) == 1:
        return levels
    return np.stack([levels[0] - levels[1] + np.uint8(MIDDLE), levels[1], levels[2] - levels[1] + np.uint8(MIDDLE)])


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def colour_table(colours: Mapping[int, str]) -> dict[str, list[int]]:
    """Colours of label values, "#RRGGBB", as NiiVue takes them: red, green, blue, opacity and value of each."""
    values = sorted(colours)
    parts = [[int(colours[value][place:place + 2], 16) for value in values] for place in (1, 3, 5)]
    return {**dict(zip("RGB", ([0, *part] for part in parts), strict=True)), "A": [0, *[255] * len(values)], "I": [0, *values]}
