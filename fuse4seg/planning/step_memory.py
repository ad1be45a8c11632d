"""Memory of training a plan: the real steps, on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor

from fuse4seg.networks.follower import follower_kind
from fuse4seg.planning.live_bytes import HalfPrecision, LiveBytes, count_bytes
from fuse4seg.planning.memory_target import GIGABYTE
from fuse4seg.recipes.recipe import Recipe
from fuse4seg.steps.levels import Levels, build_levels
from fuse4seg.steps.viewing import UNCHANGED

#: Share of what is counted that is left to what cannot be: cuDNN's workspace, and gaps between the allocator's blocks.
ALLOWANCE = 0.1

#: A step on a batch, its labels, and what is drawn for it.
Move = Callable[[Tensor, list[Tensor], Tensor, Tensor], object]


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training, by what they are for.

    Attributes:
        parameters: Of both levels, auxiliary head and discriminators, with their buffers.
        optimisers: States that the optimisers of stage 2 keep.
        batch: Input and labels.
        stage_1: All else that is alive at the worst moment of a pre-training step, its optimisers' states among it.
        stage_2: The same of a bi-level step (without labels, a step of the fusion losses), without ``optimisers``:
            activations of both levels, gradients, and the vectors of the hypergradient.
    """

    parameters: int
    optimisers: int
    batch: int
    stage_1: int
    stage_2: int

    @property
    def counted(self) -> int:
        """All of it at the worst moment."""
        return self.parameters + self.batch + max(self.stage_1, self.optimisers + self.stage_2)

    @property
    def total(self) -> int:
        """With the allowance for cuDNN's workspace and the allocator's gaps."""
        return round(self.counted * (1 + ALLOWANCE))

    def to_plain(self) -> dict[str, float]:
        """In gigabytes (1e9 bytes), for the plans."""
        return {name: round(size / GIGABYTE, 4) for name, size in {**asdict(self), "total": self.total}.items()}


@dataclass(frozen=True)
class CountedTraining:
    """What a training's memory depends on beside its plan.

    Attributes:
        channels: Input channels of the dataset.
        classes: Outputs of the follower; 1 where there is nothing to segment.
        recipe: What is trained.
        mixed_precision: As on a GPU; else as on a CPU.
    """

    channels: int
    classes: int
    recipe: Recipe
    mixed_precision: bool = True

    @property
    def deep_supervision(self) -> bool:
        """Whether the follower gives outputs at several resolutions."""
        return follower_kind(self.recipe.follower.network).deep_supervision


def count_memory(architecture: Mapping[str, Any], patch_size: Sequence[int], batch_size: int,
                 training: CountedTraining) -> StepMemory:
    """Count a training's memory without allocating it.

    A step of each stage runs on the meta device, with the optimisers' states in place.

    Args:
        architecture: Of a configuration in our plans: network_class_name, arch_kwargs, _kw_requires_import.
        patch_size: Voxels per axis.
        batch_size: Samples, even.
        training: What else it depends on.

    Source: design.md, "Memory".
    """
    with torch.device("meta"):
        batch = torch.empty(batch_size, training.channels, *patch_size)
        sizes = _output_sizes(patch_size, architecture["arch_kwargs"]["strides"]) if training.deep_supervision else [patch_size]
        targets = [torch.empty(batch_size, 1, *size, dtype=torch.int16) for size in sizes]
        flips = torch.empty(batch_size, len(patch_size), dtype=torch.bool)
        viewing = torch.empty(batch_size, len(UNCHANGED))
    levels = _build(architecture, training)
    fusion, own = levels.network.fusion, training.recipe.pretraining.own
    # Also where there are no epochs of it, as a training may be given some.
    stage_1 = _stage_1(levels, batch) if (fusion.reconstructs if own else fusion.rebuilds) else 0
    step = (_bilevel_step(levels, training, outputs=len(targets)) if training.recipe.segments
            else _fusion_step(levels, training))
    optimisers = [levels.leader.optimiser, levels.discriminator_optimiser]
    if training.recipe.segments:
        optimisers.append(levels.follower.optimiser)
    stage_2 = _alive(partial(step, batch, targets, flips, viewing), optimisers,
                     [*_tensors(levels), batch, *targets, flips, viewing])
    return StepMemory(parameters=_bytes(_tensors(levels)), optimisers=stage_2.live, batch=_bytes([batch, *targets]),
                      stage_1=stage_1, stage_2=stage_2.peak - stage_2.live)


def _build(architecture: Mapping[str, Any], training: CountedTraining) -> Levels:
    with torch.device("meta"):
        network = get_network_from_plans(architecture["network_class_name"], architecture["arch_kwargs"],
                                         architecture["_kw_requires_import"], training.channels, training.classes,
                                         allow_init=False, deep_supervision=training.deep_supervision)
    # Spectral normalisation finds its first vectors faster on the CPU, and draws random numbers for it.
    with torch.random.fork_rng(devices=[]):
        return build_levels(network, classes=training.classes, recipe=training.recipe)


def _stage_1(levels: Levels, batch: Tensor) -> int:
    """Bytes of a step of stage 1 beyond the levels and the batch."""
    step = levels.pretraining_step()
    alive = _alive(partial(step.move, batch), [step.optimiser, step.discriminator_optimiser], [*_tensors(levels), batch])
    # Stage 2 is counted from its own beginning.
    step.discriminator_optimiser.state.clear()
    return alive.peak


def _output_sizes(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> list[list[int]]:
    """Sizes of nnU-Net's labels, one per output under deep supervision: every stage but the coarsest."""
    return [[extent // step for extent, step in zip(patch_size, steps, strict=True)]
            for steps in np.cumprod(strides, axis=0)[:-1]]


def _bilevel_step(levels: Levels, training: CountedTraining, *, outputs: int) -> Move:
    """Step under nnU-Net's loss, which weighs its outputs 1, 1/2, 1/4, ... and the coarsest 0."""
    loss = DC_and_CE_loss({"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}, {},
                          dice_class=MemoryEfficientSoftDiceLoss)
    weights = [0.5**index for index in range(outputs)]
    if outputs > 1:
        weights[-1] = 0.0
    whole = DeepSupervisionWrapper(loss, weights) if training.deep_supervision else loss
    step = levels.bilevel_step(whole, loss_at_one_resolution=loss, autocast=_precision(training))

    def move(batch: Tensor, targets: list[Tensor], flips: Tensor, viewing: Tensor) -> object:
        return step.move(batch, targets if training.deep_supervision else targets[0], flips=flips, viewing=viewing)

    return move


def _fusion_step(levels: Levels, training: CountedTraining) -> Move:
    step = levels.fusion_step(autocast=_precision(training))
    return lambda batch, *_drawn: step.move(batch)


def _precision(training: CountedTraining) -> Callable[[], object]:
    return HalfPrecision if training.mixed_precision else nullcontext


def _alive(step: Callable[[], object], optimisers: Iterable[torch.optim.Optimizer], known: Sequence[Tensor]) -> LiveBytes:
    """Bytes beyond ``known`` during a step (peak) and after it (live), with the states of ``optimisers`` in place."""
    def moves() -> None:
        for optimiser in optimisers:
            _make_states(optimiser)
        step()

    return count_bytes(moves, known)


def _make_states(optimiser: torch.optim.Optimizer) -> None:
    """What an optimiser keeps, as after a first step."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def _tensors(levels: Levels) -> list[Tensor]:
    return [tensor for module in levels.modules() for tensor in (*module.parameters(), *module.buffers())]


def _bytes(tensors: Iterable[Tensor]) -> int:
    storages = {storage._cdata: storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storages.values())
