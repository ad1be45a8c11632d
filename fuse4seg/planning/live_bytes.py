"""Memory that a computation takes, counted on the meta device: every tensor for as long as it lives, in its own type."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


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
        result = _result(operation, args, kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result


def _changes_nothing(operation: Any, args: Sequence[Any]) -> bool:
    """Whether it writes values into a tensor that has none; meta tensors would take their time over it."""
    name = operation._schema.name
    return (name.endswith("_") and name not in ("aten::resize_", "aten::set_") and torch.Tag.inplace_view not in operation.tags
            and bool(args) and isinstance(args[0], Tensor) and args[0].is_meta)


class _Layout(NamedTuple):
    """All that a meta tensor is."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def make(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device="meta")


#: Stands for an argument that a layout does not say all of.
_OTHER = object()


def _result(operation: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What ``operation`` gives; on the meta device as remembered, since PyTorch's own shapes take most of a count's time."""
    if not _gives_new_tensors(operation):
        return operation(*args, **kwargs)
    described = _describe([*args, *kwargs.values()])
    found = None if described is _OTHER else _layouts(operation, described, tuple(kwargs))
    if found is None:
        return operation(*args, **kwargs)
    made = tuple(None if layout is None else layout.make() for layout in found)
    return made if len(operation._schema.returns) > 1 else made[0]


@cache
def _gives_new_tensors(operation: Any) -> bool:
    """Whether it takes something, writes into no argument, gives no view of one, and gives tensors one by one."""
    schema = operation._schema
    return (bool(schema.arguments) and all(entry.alias_info is None for entry in (*schema.arguments, *schema.returns))
            and all(str(entry.type) == "Tensor" for entry in schema.returns))


def _describe(value: Any) -> Any:
    """An argument as what can be looked up: layouts for meta tensors, numbers with their types."""
    if isinstance(value, Tensor):
        whole = value.is_meta and not value.storage_offset()
        return _Layout(tuple(value.shape), value.stride(), value.dtype) if whole else _OTHER
    if isinstance(value, (list, tuple)):
        entries = [_describe(entry) for entry in value]
        return _OTHER if _OTHER in entries else tuple(entries)
    return (value, type(value)) if isinstance(value, Hashable) else _OTHER


def _make(described: Any) -> Any:
    if isinstance(described, _Layout):
        return described.make()
    if len(described) == 2 and isinstance(described[1], type):
        return described[0]
    return [_make(entry) for entry in described]


@lru_cache(maxsize=100_000)
def _layouts(operation: Any, described: tuple[Any, ...], names: tuple[str, ...]) -> list[_Layout | None] | None:
    """Layouts of the tensors that an operation gives; None where these do not say it all."""
    values = [_make(entry) for entry in described]
    first = len(values) - len(names)
    result = operation(*values[:first], **dict(zip(names, values[first:], strict=True)))
    given = list(result) if isinstance(result, tuple) else [result]
    layouts = [None if tensor is None else _describe(tensor) for tensor in given]
    if _OTHER in layouts or len({tensor.untyped_storage()._cdata for tensor in given if tensor is not None}) < sum(
            tensor is not None for tensor in given):
        return None
    return layouts if all(tensor is None or tensor.untyped_storage().nbytes() == layout.make().untyped_storage().nbytes()
                          for tensor, layout in zip(given, layouts, strict=True)) else None


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


#: Operations in half precision, and in float32, as PyTorch documents them for CUDA ("CUDA Ops that can autocast"), of
#: those that our networks and losses use.
IN_HALF = frozenset({"conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul", "bmm", "__matmul__", "addmm",
                     "scaled_dot_product_attention", "prelu"})
IN_FLOAT = frozenset({"layer_norm", "group_norm", "binary_cross_entropy_with_logits", "cross_entropy", "nll_loss", "mse_loss",
                      "l1_loss", "smooth_l1_loss", "exp", "log", "log1p", "pow", "__pow__", "reciprocal", "rsqrt", "softplus",
                      "cosine_similarity", "norm", "normalize"})
#: These sum in float32 without a copy of what they sum.
TO_FLOAT = frozenset({"softmax", "log_softmax", "sum", "prod", "cumsum", "cumprod"})


class HalfPrecision(TorchFunctionMode):
    """While active, operations take and give the types that ``torch.autocast("cuda")`` would give them.

    A parameter is cast once, as autocast's cache does, and its cast is kept until the mode ends.

    Source: PyTorch, "Automatic Mixed Precision package", operation reference.
    """

    def __init__(self) -> None:
        super().__init__()
        self._cast: dict[int, Tensor] = {}

    def __torch_function__(self, function: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        """Run ``function`` on what autocast would hand it."""
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        if name in IN_HALF:
            args, kwargs = tree_map(self._to_half, (args, kwargs))
        elif name in IN_FLOAT:
            args, kwargs = tree_map(_to_float, (args, kwargs))
        elif name in TO_FLOAT and args and _is_half(args[0]) and kwargs.get("dtype") is None:
            kwargs = {**kwargs, "dtype": torch.float32}
        return function(*args, **kwargs)

    def _to_half(self, value: object) -> object:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not isinstance(value, nn.Parameter):
            return value.half()
        if id(value) not in self._cast:
            self._cast[id(value)] = value.half()
        return self._cast[id(value)]


def _is_half(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float16


def _to_float(value: object) -> object:
    return value.float() if _is_half(value) else value
