"""What tests of converters and writers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The raw root."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return tmp_path / "raw"


@pytest.fixture
def shear() -> Callable[[Path, Sequence[float]], np.ndarray]:
    """Function that gives all NIfTI files below a folder a spacing and a shear of 1e-3 by sform alone, and gives that."""

    def write(folder: Path, spacing: Sequence[float]) -> np.ndarray:
        sheared = np.diag([*spacing, 1.0])
        sheared[:3, 3], sheared[0, 1] = (5, 6, 7), 1e-3
        for path in folder.rglob("*.nii.gz"):
            image = nibabel.Nifti1Image(np.asanyarray(nibabel.load(path).dataobj), None)
            image.set_sform(sheared, 1)
            nibabel.save(image, path)
        return sheared

    return write
