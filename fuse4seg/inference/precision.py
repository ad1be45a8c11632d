"""Number format that the segmentation network computes in at prediction."""

from __future__ import annotations

import torch

from fuse4seg.errors import OptionError

#: By name; "auto" is the fastest that the device has hardware for.
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
AUTO = "auto"


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The number format for a device.

    Args:
        wanted: One of PRECISIONS, or "auto": float16 on a GPU, as nnU-Net; bfloat16 on a processor that has it; else float32.
        device: Where the network computes.

    Raises:
        OptionError: The device has no hardware for it, or there is no such format.
    """
    fast = {"cuda": ("float16", "bfloat16"), "cpu": ("bfloat16",) if has_bfloat16() else ()}.get(device.type, ())
    if wanted == AUTO:
        return PRECISIONS[fast[0] if fast else "float32"]
    if wanted not in ("float32", *fast):
        raise OptionError("--precision", f"{wanted} is not to be had on {device.type} here. "
                                         f"Choose one of: {', '.join([AUTO, 'float32', *fast])}.")
    return PRECISIONS[wanted]


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16; elsewhere PyTorch imitates it, slower than float32."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name)() for name in asked if hasattr(torch.cpu, name))
