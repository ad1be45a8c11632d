"""Files of 8 bits a channel, channel by channel through nnU-Net's readers, which know the order of axes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from fuse4seg.colour import luma
from fuse4seg.datasets.images import NIFTI, read_image, require_whole
from fuse4seg.errors import UnreadableImageError

TIFF = (".tif", ".tiff")


def read_channels(path: Path, reader: type[BaseReaderWriter]) -> tuple[np.ndarray, dict[str, Any]]:
    """Read an image of 8 bits a channel: red, green and blue, or grey.

    Args:
        path: The file; NIfTI, or what ITK reads.
        reader: nnU-Net's, for grey images of the same ending.

    Returns:
        uint8, shape (3, Z, Y, X), or (1, Z, Y, X) of a grey one; and the reader's properties.

    Raises:
        UnreadableImageError: It is missing, truncated, or no image.
    """
    try:
        require_whole(path)
        image = sitk.ReadImage(str(path))
    except (OSError, RuntimeError) as error:
        raise UnreadableImageError(path, str(error).splitlines()[-1]) from error
    count = image.GetNumberOfComponentsPerPixel()
    channels = [sitk.VectorIndexSelectionCast(image, index) for index in range(count)] if count > 1 else [image]
    ending = next((end for end in sorted(NIFTI, key=len, reverse=True) if path.name.endswith(end)), path.suffix)
    with tempfile.TemporaryDirectory() as folder:
        read = []
        for index, channel in enumerate(channels):
            # Named like the channel of a case: by that nnU-Net's reader of TIFF files finds the spacing beside it.
            part = Path(folder, f"{index}_0000{ending}")
            sitk.WriteImage(channel, str(part))
            if ending in TIFF and (beside := path.with_suffix(".json")).is_file():
                shutil.copyfile(beside, Path(folder, f"{index}.json"))
            read.append(read_image(part, reader))
    return np.concatenate([part.voxels for part in read]).astype(np.uint8), read[0].properties


def grey_levels(channels: np.ndarray) -> np.ndarray:
    """Luma, uint8, shape (*S), of levels (C, *S); of one channel, that channel."""
    return np.rint(luma(channels[None].astype(np.float32))[0, 0]).astype(np.uint8)
