"""Brains: extracted by HD-BET from images that still have a skull, and as 8-bit slices."""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from fuse4seg.colour import windowed
from fuse4seg.errors import BrainExtractionError

log = logging.getLogger(__name__)

#: Air around a head is noise; around an extracted brain it is exactly 0. So much of it at least, in every modality at once.
BLANK_PART = 0.1
#: Percentiles of the brain that become the darkest and the brightest grey level.
PERCENTILES = (0.05, 99.95)
RULE = (f"0 outside the brain (where all modalities are 0); inside, 1..255 linear between the brain's {PERCENTILES[0]} and "
        f"{PERCENTILES[1]} percentiles of the modality, clipped")
#: Axes of a volume (Z, Y, X) in patient orientation LPS, by the plane that is cut across them.
AXES = {"axial": 0, "coronal": 1, "sagittal": 2}


def is_skull_stripped(modalities: np.ndarray) -> bool:
    """Whether a tenth of the voxels is exactly 0 in all modalities, shape (N, Z, Y, X)."""
    return float((modalities == 0).all(axis=0).mean()) >= BLANK_PART


def extract_brain(image: Path, *, device: str) -> np.ndarray:
    """Brain mask of a head, by the command hd-bet.

    Args:
        image: T1-weighted, NIfTI.
        device: "cuda" or "cpu".

    Returns:
        bool, shape (Z, Y, X).

    Raises:
        BrainExtractionError: HD-BET is not installed, or failed.

    Source: Isensee et al., Automated brain extraction of multisequence MRI using artificial neural networks, 2019.
    """
    command = shutil.which("hd-bet")
    if command is None:
        raise BrainExtractionError(image, "hd-bet is not installed. Install it with: pip install 'fuse4seg[brats]'")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "brain.nii.gz"
        ended = subprocess.run([command, "-i", str(image), "-o", str(target), "-device", device, "--save_bet_mask",
                                "--no_bet_image"], capture_output=True, text=True, check=False)
        masks = sorted(Path(folder).glob("*.nii.gz"))
        if ended.returncode or not masks:
            said = (ended.stderr.strip().splitlines() or ["it gave no mask"])[-1]
            raise BrainExtractionError(image, f"hd-bet failed: {said}. Run it by hand to see more.")
        log.info("%s: brain extracted by hd-bet", image)
        return sitk.GetArrayFromImage(sitk.ReadImage(str(masks[0]))) > 0


def to_8_bit(voxels: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Grey levels of a volume by RULE.

    Args:
        voxels: Any finite intensities.
        brain: bool of the same shape.

    Returns:
        uint8 of that shape; a brain of one intensity becomes 1.
    """
    levels = np.zeros(voxels.shape, np.uint8)
    if not brain.any():
        return levels
    low, high = np.percentile(voxels[brain], PERCENTILES)
    levels[brain] = np.rint(1 + 254 * windowed(voxels[brain].astype(np.float64), low, high)) if high > low else 1
    return levels


def telling_slices(brain: np.ndarray, axis: int) -> list[int]:
    """Indices along ``axis`` of the slices that hold brain."""
    return np.flatnonzero(brain.any(axis=tuple(other for other in range(brain.ndim) if other != axis))).tolist()
