"""Volumes of a case for the viewer: 8 bits, cropped, differences to what is predicted, gzipped, in base64."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
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
        pictures show, [x, y, z]), and ``layers``:
        title, kind, channels, slope, intercept, clipped, unit, ``window`` (levels shown black and white), ``header`` (NIfTI's,
        base64) and ``data`` (:func:`packed`, base64).
    """
    box = shown_box(images)
    first = [part.start for part in box[::-1]]
    affine = images.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    layers = layers_of(images)
    inside = images.inside[box]
    labels = None if images.labels is None else images.labels[box]
    focus = [telling_index(images.fused[(slice(None), *box)], labels, axis) for axis in (2, 1, 0)]
    return {"shape": [part.stop - part.start for part in box[::-1]], "first": first, "focus": focus,
            "layers": [_plain(layer, layer.levels[(slice(None), *box)], inside, affine) for layer in layers]}


def _plain(layer: Layer, levels: np.ndarray, inside: np.ndarray, affine: np.ndarray) -> dict[str, Any]:
    window = [0.0, float(WHITE)]
    if layer.kind == SOURCE and not layer.clipped:
        window = list(grey_window(levels[0].astype(np.float64), inside))
    return {"title": layer.title, "kind": layer.kind, "channels": len(levels), "slope": layer.slope,
            "intercept": layer.intercept, "clipped": layer.clipped, "unit": layer.unit, "window": window,
            "header": _text(nifti_header(layer, levels, affine, window)), "data": _text(packed(levels))}


def nifti_header(layer: Layer, levels: np.ndarray, affine: np.ndarray, window: list[float]) -> bytes:
    """NIfTI's header and the four bytes before the voxels: RGB24 or uint8, with the scale of the values and the window."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(RGB24 if len(levels) > 1 else np.uint8)
    header.set_data_shape(levels.shape[:0:-1])
    header.set_sform(affine, code="scanner")
    header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    header["magic"], header["vox_offset"] = b"n+1", 352
    if len(levels) == 1:
        header["scl_slope"], header["scl_inter"] = layer.slope, layer.intercept
        header["cal_min"], header["cal_max"] = (layer.slope * level + layer.intercept for level in window)
    return header.binaryblock + bytes(4)


def packed(levels: np.ndarray) -> bytes:
    """Gzipped differences of levels to what is predicted of them: a third less than the levels themselves make.

    Red and blue are predicted by green; then each voxel by half the sum of its neighbours before it along X and Y, those outside
    being 0. Differences are modulo 256.

    Args:
        levels: uint8, shape (C, Z, Y, X), C 1 or 3.

    Source: filter 3, Average, of the PNG specification (third edition, 2025); its encoders compress with Z_RLE or Z_FILTERED.

    Example:
        >>> import zlib
        >>> list(zlib.decompress(packed(np.uint8([[[[10, 12], [10, 20]]]])), 31))
        [10, 7, 5, 9]
    """
    channels = levels
    if len(levels) == 3:
        channels = np.stack([levels[0] - levels[1], levels[1], levels[2] - levels[1]])
    before = np.zeros_like(channels, np.uint16)
    before[..., 1:] += channels[..., :-1]
    before[..., 1:, :] += channels[..., :-1, :]
    differences = channels - (before >> 1).astype(np.uint8)
    packing = zlib.compressobj(9, zlib.DEFLATED, GZIP, 9, zlib.Z_RLE)
    return packing.compress(np.ascontiguousarray(differences)) + packing.flush()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def colour_table(colours: Mapping[int, str]) -> dict[str, list[int]]:
    """Colours of label values, "#RRGGBB", as NiiVue takes them: red, green, blue, opacity and value of each."""
    values = sorted(colours)
    parts = [[int(colours[value][place:place + 2], 16) for value in values] for place in (1, 3, 5)]
    return {**dict(zip("RGB", ([0, *part] for part in parts), strict=True)), "A": [0, *[255] * len(values)], "I": [0, *values]}
