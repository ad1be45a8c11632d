"""What makes a training faster and its steps no others: compiled networks, and mixed precision of either half type."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from fuse4seg.errors import OptionError, first_line
from fuse4seg.inference.model import AUTO, choose_precision
from fuse4seg.networks.fuse_then_segment import FuseThenSegment

FLAG = "--compile"
#: nnU-Net's switch, which a training that stock nnU-Net starts has instead of the flag; and what turns it on.
VARIABLE, ON = "nnUNet_compile", ("true", "1", "t")
#: PyTorch's own compiler.
INDUCTOR = "inductor"
#: What PyTorch says, in a plain RuntimeError, where a gradient of a compiled network's gradient is asked for.
TWICE = "double backward"


@dataclass(frozen=True)
class Acceleration:
    """How the steps of a training are computed.

    Attributes:
        compile: Whether leader and follower are compiled in stage 2.
        precision: "auto", "float32", "float16" or "bfloat16"; see :func:`training_precision`.
    """

    compile: bool = False
    precision: str = AUTO

    @classmethod
    def of_environment(cls) -> Acceleration:
        """That of a training without flags: compiled only if nnUNet_compile asks for it.

        nnU-Net compiles on a GPU unless told not to; here nothing has been measured on one yet.
        """
        return cls(compile=os.environ.get(VARIABLE, "").lower() in ON)

    def require(self, device: torch.device) -> None:
        """Make sure that a device can do it, before any work.

        Raises:
            OptionError: It cannot.
        """
        training_precision(self.precision, device)
        if self.compile:
            require_compiler(device)


def training_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The number format of a training's forward passes.

    Args:
        wanted: "auto" is float16 on CUDA, as nnU-Net's, and float32 elsewhere.
        device: Where it trains.

    Raises:
        OptionError: The device lacks the precision.

    Example:
        >>> training_precision("auto", torch.device("cpu"))
        torch.float32
    """
    return choose_precision("float32" if wanted == AUTO and device.type != "cuda" else wanted, device)


def autocast_of(precision: torch.dtype, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """What makes the context of forward passes.

    On CUDA also of float32: nnU-Net's steps turn autocast on, which then takes its type from the context around it.
    """
    if device.type != "cuda" and precision == torch.float32:
        return nullcontext
    return partial(torch.autocast, device.type, dtype=precision)


def scaler_of(precision: torch.dtype, device: torch.device) -> torch.amp.GradScaler | None:
    """What keeps small gradients above float16's smallest number; bfloat16 and float32 reach far lower and need none."""
    return torch.amp.GradScaler(device.type) if precision == torch.float16 else None


def require_compiler(device: torch.device, *, backend: str = INDUCTOR) -> None:
    """Make sure that PyTorch can compile for a device: a C++ compiler on the CPU, triton on CUDA. Compiles one sum.

    Args:
        device: Where it is to run.
        backend: PyTorch's name of the compiler.

    Raises:
        OptionError: It cannot.
    """
    if device.type == "mps":
        raise OptionError(FLAG, "PyTorch compiles for CUDA and the CPU. Leave it out on -device mps.")
    needed = "a C++ compiler and Python's headers, and for CUDA triton"
    with _explained(mend=f"Install what compiling needs ({needed}), or leave it out."), torch.no_grad():
        torch.compile(lambda numbers: numbers + 1, backend=backend)(torch.zeros(2, device=device))


@contextmanager
def compiled(network: FuseThenSegment, *, on: bool = True, backend: str = INDUCTOR) -> Iterator[None]:
    """Within the block, leader and follower are compiled when they are first called, once for each shape.

    Only the calls of both networks are: losses, the rounding to whole levels and the step itself stay as they are. Parameters
    keep their names.

    Args:
        network: Its ``fusion`` and ``segmentation``.
        on: Nothing is done if False.
        backend: PyTorch's name of the compiler.

    Raises:
        OptionError: They cannot be compiled, or the leader's own losses differentiate them twice.
    """
    levels = (network.fusion, network.segmentation) if on else ()
    for level in levels:
        level.compile(backend=backend, dynamic=False)
    try:
        with _explained() if on else nullcontext():
            yield
    finally:
        for level in levels:
            level._compiled_call_impl = None  # which Module.compile has set, and nothing public unsets


@contextmanager
def _explained(*, mend: str = "Leave it out.") -> Iterator[None]:
    """One line for what PyTorch raises where it cannot compile."""
    try:
        yield
    except TorchDynamoException as error:
        raise OptionError(FLAG, f"PyTorch cannot compile here ({first_line(error, kind=True)}). {mend}") from error
    except RuntimeError as error:
        if TWICE not in str(error):
            raise
        raise OptionError(FLAG, "a loss of these networks holds a gradient of theirs, and what is compiled cannot be "
                                "differentiated twice. Leave it out.") from error
