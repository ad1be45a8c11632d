"""Brain extraction with HD-BET, for images that still have a skull."""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from fuse4seg.errors import BrainExtractionError

log = logging.getLogger(__name__)

#: Air around a head is noise; around an extracted brain it is exactly 0. So much of it at least, in every modality at once.
BLANK_PART = 0.1


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
