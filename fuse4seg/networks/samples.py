"""Some samples of a batch, out of whatever holds tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def samples_of(whole: Any, chosen: slice | Tensor) -> Any:
    """Those samples of a tensor, or of lists, dictionaries and (named) tuples of tensors; anything else stays as it is.

    Args:
        whole: Its tensors have the batch's axis first.
        chosen: A slice of that axis, or bool of shape (B,).

    Example:
        >>> import torch
        >>> samples_of({"a": torch.arange(4), "b": None}, slice(1, None, 2))
        {'a': tensor([1, 3]), 'b': None}
    """
    if isinstance(whole, Tensor):
        return whole[chosen]
    if isinstance(whole, dict):
        return {name: samples_of(part, chosen) for name, part in whole.items()}
    if not isinstance(whole, (list, tuple)):
        return whole
    parts = [samples_of(part, chosen) for part in whole]
    return type(whole)(*parts) if hasattr(whole, "_fields") else type(whole)(parts)
