"""What CUDA's mixed precision does to types, for tensors that it does not reach: those on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

#: Operations in half precision, and in float32, as PyTorch documents them for CUDA ("CUDA Ops that can autocast"), of
#: those that our networks and losses use.
IN_HALF = frozenset({"conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul", "bmm", "__matmul__", "addmm",
                     "scaled_dot_product_attention"})
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
