"""How much memory a computation takes: every tensor it makes is counted for as long as it lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While active, counts the bytes of all storages that operations make, and of those among them that are still alive.

    Forward, backward and optimiser steps are all operations. On the meta device nothing is computed or stored, and the count is
    that of the CPU if :class:`FlashAttention` is active, too. What a kernel needs inside is not seen.

    Source: design.md, "Memory".

    Args:
        known: Tensors that were there before, which are not counted when an operation gives them back.

    Attributes:
        live: Bytes of the storages that are alive.
        peak: The largest value that ``live`` had.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._storages: dict[int, int] = {}
        for tensor in known:
            self._count(tensor, size=0)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, so PyTorch need not wrap every operation against it."""
        return False

    def _count(self, tensor: Tensor, *, size: int | None = None) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._storages:
            return
        self._storages[storage._cdata] = storage.nbytes() if size is None else size
        self.live += self._storages[storage._cdata]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, storage: int) -> None:
        self.live -= self._storages.pop(storage)

    def __torch_dispatch__(self, operation: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        """Run ``operation`` and count what it gives."""
        if _changes_nothing(operation, args):
            return args[0]
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result


def _changes_nothing(operation: Any, args: Sequence[Any]) -> bool:
    """Whether it writes values into a tensor that has none; meta tensors would take their time over it."""
    name = operation._schema.name
    return (name.endswith("_") and name not in ("aten::resize_", "aten::set_") and torch.Tag.inplace_view not in operation.tags
            and bool(args) and isinstance(args[0], Tensor) and args[0].is_meta)


class FlashAttention(TorchFunctionMode):
    """While active, attention on the meta device keeps no scores, as on real devices; left alone, it would."""

    def __torch_function__(self, function: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        """Run ``function``, attention by the kernel whose shapes the meta device knows."""
        if function is functional.scaled_dot_product_attention and args[0].is_meta:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, **(kwargs or {}))[0]
        return function(*args, **(kwargs or {}))


def count_bytes(compute: Callable[[], object], known: Iterable[Tensor]) -> LiveBytes:
    """Bytes beyond ``known`` that are alive while ``compute`` runs, at the most and in the end.

    Args:
        compute: Runs operations; on the meta device, for nothing.
        known: Tensors that are there already, such as parameters and the batch.
    """
    with FlashAttention(), LiveBytes(known) as count:
        compute()
    return count
