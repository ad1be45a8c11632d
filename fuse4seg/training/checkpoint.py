"""Checkpoints: plain data that loads without running code, written whole."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuse4seg.errors import CheckpointError, CheckpointNotFoundError
from fuse4seg.files import written_whole


def to_plain(value: Any) -> Any:
    """Turn numpy scalars and arrays, paths and odd containers into what ``torch.load(weights_only=True)`` accepts.

    Raises:
        TypeError: A value has no plain form.
    """
    if isinstance(value, dict):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [to_plain(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str, bytes, torch.Tensor, torch.device)):
        return value
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write ``content`` as plain data, whole or not at all.

    Raises:
        UnwritableFolderError: The operating system refused to write.
    """
    with written_whole(path) as temporary:
        torch.save(to_plain(content), temporary)


def load_checkpoint(path: Path, *, device: torch.device | str = "cpu",
                    mend: str = "Train first, or check the path.") -> dict[str, Any]:
    """Read a checkpoint without running any code that it might hold.

    Args:
        path: File to read.
        device: Where its tensors go.
        mend: What the user can do if there is none.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: The file is damaged, or holds more than plain data.
    """
    if not path.is_file():
        raise CheckpointNotFoundError(path, mend)
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(path, f"damaged, or not plain data ({reason})") from error
