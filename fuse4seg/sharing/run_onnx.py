"""Segments a case by an exported model, without PyTorch: python run_onnx.py fold_0 labels.nii.gz T1.nii.gz T1ce.nii.gz ...

f4s_export_model --onnx writes this file beside model.json. It needs onnxruntime, NumPy, SciPy and SimpleITK alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import SimpleITK as sitk
from scipy.ndimage import binary_fill_holes

#: Millimetres by which a spacing or an origin may differ, and by which a direction.
CLOSE = 1e-3


def segment(folder: Path, output: Path, files: Sequence[Path]) -> None:
    """Write the labels of a case.

    Args:
        folder: Of a fold, with leader.onnx and follower.onnx; model.json lies beside it.
        output: Image of the labels, with the geometry of the first file.
        files: Of the modalities, in the order of model.json.
    """
    description = folder.parent / "model.json"
    for path in (description, folder / "leader.onnx", folder / "follower.onnx", output.absolute().parent):
        if not path.exists():
            sys.exit(f"{path} is missing: name the folder of a fold that f4s_export_model --onnx wrote, and an output in a "
                     "folder that exists")
    model = json.loads(description.read_text())
    given, order = _read(files, [told["name"] for told in model["channels"]]), model["transpose_forward"]
    spacing = [given[0].GetSpacing()[::-1][axis] for axis in order][-len(model["patch_size"]):]
    if not np.allclose(spacing, model["spacing"], atol=CLOSE):
        sys.exit(f"spacing {spacing} is not the model's: resample to {model['spacing']} mm first")
    images = np.stack([sitk.GetArrayFromImage(image) for image in given]).astype(np.float32)
    images = images.transpose(0, *(axis + 1 for axis in order))
    mask = binary_fill_holes((images != 0).any(axis=0))
    where = _box(mask)
    channels = _normalised(images[where], mask[where[1:]], model)
    fused = np.rint(255 * _through(folder / "leader.onnx", channels, model["patch_size"]))
    fused = np.where((fused > 0).any(axis=0), fused.clip(1, 255), 0).astype(np.float32) / 255
    seen = _box(fused.any(axis=0))
    logits = _through(folder / "follower.onnx", fused[seen], model["patch_size"])
    whole = np.zeros(images.shape[1:], np.uint8)
    whole[where[1:]][seen[1:]] = _labels(logits, model)
    written = sitk.GetImageFromArray(whole.transpose(np.argsort(order)))
    written.CopyInformation(given[0])
    sitk.WriteImage(written, str(output))


def _read(files: Sequence[Path], names: Sequence[str]) -> list[sitk.Image]:
    """One image for each channel, all on one grid."""
    if len(files) != len(names):
        sys.exit(f"{len(files)} image(s) given: the model takes {len(names)}, {', '.join(names)}")
    images = []
    for file in files:
        try:
            images.append(sitk.ReadImage(str(file)))
        except RuntimeError:
            sys.exit(f"{file} is missing, or cannot be read as an image")
    first = images[0]
    for file, image in zip(files, images, strict=True):
        if image.GetSize() != first.GetSize() or not all(np.allclose(one, other, atol=CLOSE) for one, other in (
                (image.GetSpacing(), first.GetSpacing()), (image.GetOrigin(), first.GetOrigin()),
                (image.GetDirection(), first.GetDirection()))):
            sys.exit(f"{file} has another grid than {files[0]}: resample it to that one first")
    return images


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Smallest part of an image of channels that holds a mask."""
    return (slice(None), *(slice(found.min(), found.max() + 1) for found in np.nonzero(mask)))


def _normalised(channels: np.ndarray, mask: np.ndarray, model: dict[str, Any]) -> np.ndarray:
    """Z-scores of each channel, as model.json says."""
    for channel, told in zip(channels, model["channels"], strict=True):
        if told["normalization"] != "ZScoreNormalization":
            sys.exit(f"this program does not know the normalisation {told['normalization']}")
        kept = mask if told["within_mask"] else np.full_like(mask, True)
        channel[kept] = (channel[kept] - channel[kept].mean()) / max(channel[kept].std(), 1e-8)
        channel[~kept] = 0
    return channels


def _labels(logits: np.ndarray, model: dict[str, Any]) -> np.ndarray:
    """Label values; of regions, the later one where several are found."""
    if not model["regions_class_order"]:
        return logits.argmax(axis=0)
    labels = np.zeros(logits.shape[1:], np.uint8)
    for value, region in zip(model["regions_class_order"], logits, strict=True):
        labels[region > 0] = value
    return labels


def _through(network: Path, image: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """What a network makes of a whole image (C, Z, Y, X), in windows that overlap by half and are blended by a Gaussian."""
    session = onnxruntime.InferenceSession(str(network))
    images = image.transpose(1, 0, 2, 3) if len(patch) == 2 else image[None]
    lack = [max(0, size - extent) for size, extent in zip(patch, images.shape[2:], strict=True)]
    padded = np.pad(images, [(0, 0), (0, 0), *((n // 2, n - n // 2) for n in lack)])
    weight, total, weights = _weight(patch), None, np.zeros(padded.shape[2:], np.float32)
    starts = [_starts(size, extent) for size, extent in zip(patch, padded.shape[2:], strict=True)]
    for corner in product(*starts):
        window = (..., *(slice(first, first + size) for first, size in zip(corner, patch, strict=True)))
        found = np.concatenate([session.run(None, {session.get_inputs()[0].name: part[None]})[0] for part in padded[window]])
        total = np.zeros((*found.shape[:2], *weights.shape), np.float32) if total is None else total
        total[window] += found * weight
        weights[window] += weight
    inside = (..., *(slice(n // 2, n // 2 + extent) for n, extent in zip(lack, images.shape[2:], strict=True)))
    found = (total / weights)[inside]
    return found.transpose(1, 0, 2, 3) if len(patch) == 2 else found[0]


def _starts(size: int, extent: int) -> list[int]:
    """Where windows begin along an axis."""
    steps = int(np.ceil((extent - size) / (size / 2))) + 1
    return [round(n * (extent - size) / max(steps - 1, 1)) for n in range(steps)]


def _weight(patch: Sequence[int]) -> np.ndarray:
    """The Gaussian by which windows are blended."""
    weight = np.float32(1)
    for size in patch:
        line = np.exp(-0.5 * ((np.arange(size) - size // 2) / (size / 8)) ** 2)
        weight = np.multiply.outer(weight, line).astype(np.float32)
    return np.maximum(weight, 1e-6)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    segment(*map(Path, sys.argv[1:3]), [Path(name) for name in sys.argv[3:]])
