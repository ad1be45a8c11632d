"""Several processes train one model: how they find one another, and what must fit before any of them works."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from fuse4seg.errors import DeviceUnavailableError, Fuse4SegError, OptionError
from fuse4seg.inference.case_share import CaseShare
from fuse4seg.inference.validate_fold import VALIDATION
from fuse4seg.launch import ranks_here, stands_in_group, stop_with_launcher
from fuse4seg.machine import choose_device
from fuse4seg.model_errors import LostRankError, RanksError
from fuse4seg.networks.pair_leader import PairLeader
from fuse4seg.ranks import (
    is_first,
    mean_report,
    of_each,
    over_ranks,
    rank,
    summed,
    take_from_first,
    wait_for_all,
    world_size,
)
from fuse4seg.recipes.recipe import Recipe
from fuse4seg.steps.hypergradients import NEEDS_HALVES

if TYPE_CHECKING:
    from fuse4seg.networks.fuse_then_segment import FuseThenSegment
    from fuse4seg.training.trainer import Fuse4SegTrainer

Thing = TypeVar("Thing")

FLAG = "-num_gpus"
#: Control goes over the CPU, so that nothing waits for a device.
BACKENDS = {"cuda": "cpu:gloo,cuda:nccl", "cpu": "gloo"}
#: For the slowest to come to where the others wait: a first rank that unpacks or saves, a cold disk. Who started the processes
#: sees sooner that one has died.
WAITING = timedelta(hours=2)
#: GPUs whose memory differs by no more than this share count as equal: drivers keep different amounts.
EQUAL = 0.05
#: What gloo says, in a plain RuntimeError, when a peer has ended.
OF_GLOO = ("gloo", "closed by peer", "reset by peer")


@contextmanager
def joined(device: str | None) -> Iterator[None]:
    """Within the block, be one of the ranks that the environment names (RANK, WORLD_SIZE, ...); alone where it names none.

    Args:
        device: As the user gave it.

    Raises:
        OptionError: Here are fewer GPUs than ranks, or GPUs of different memory.
        LostRankError: Another rank ended.
    """
    if not stands_in_group():
        yield
        return
    stop_with_launcher()
    here = choose_own_device(device)
    try:
        dist.init_process_group(BACKENDS[here.type], timeout=WAITING)
        if here.type == "cuda":
            require_equal_memory(of_each(torch.cuda.get_device_properties(here).total_memory))
        yield
    except RuntimeError as error:
        if not tells_of_a_lost_rank(error):
            raise
        raise LostRankError from error
    _leave()


def _leave() -> None:
    if dist.is_initialized():
        wait_for_all()
        dist.destroy_process_group()


def leave_group(trainer: Fuse4SegTrainer) -> CaseShare:
    """End the group, so that nothing can time out while its ranks predict cases of their own; gives this rank's share of them."""
    share = CaseShare(trainer.local_rank, trainer.ranks)
    if share.number == 0:
        share.forget(Path(trainer.output_folder) / VALIDATION)
    _leave()
    return share


def tells_of_a_lost_rank(error: RuntimeError) -> bool:
    """Whether a collective failed because another rank is gone."""
    return isinstance(error, dist.DistError) or any(words in str(error) for words in OF_GLOO)


def choose_own_device(wanted: str | None) -> torch.device:
    """The device of this rank: a GPU of its own, or the CPU if that was named.

    Raises:
        OptionError: There are too few GPUs, or the device cannot be shared.
        DeviceUnavailableError: It is not on this machine.
    """
    if wanted == "mps":
        raise OptionError(FLAG, "on -device mps one process trains. Leave it out.")
    if wanted == "cpu":
        return choose_device(wanted)
    there, asked = torch.cuda.device_count(), ranks_here()
    if wanted is None and not there:
        raise OptionError(FLAG, f"{asked} GPUs are asked for, and none is visible here. Give -device cpu to train on the CPU in "
                                f"{asked} processes.")
    if not there:
        raise DeviceUnavailableError(wanted)
    if there < asked:
        raise OptionError(FLAG, f"{asked} GPUs are asked for, and {there} visible here. Give {there}, or show more of them "
                                f"(CUDA_VISIBLE_DEVICES).")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def require_equal_memory(memories: Sequence[int]) -> None:
    """Make sure that the GPUs of all ranks hold as much: each gets an equal part of the batch.

    Args:
        memories: Bytes of each rank's GPU.

    Raises:
        OptionError: One holds less than another.
    """
    if min(memories) < (1 - EQUAL) * max(memories):
        small, large = memories.index(min(memories)), memories.index(max(memories))
        raise OptionError(FLAG, f"the GPU of rank {small} has {memories[small] / 1e9:.1f} GB, that of rank {large} "
                                f"{memories[large] / 1e9:.1f} GB, and each gets an equal part of the batch. Choose equal ones "
                                f"with CUDA_VISIBLE_DEVICES.")


def agreed(make: Callable[[], Thing], *, tell: Callable[[Thing], Any] = lambda _thing: None) -> Thing:
    """What every rank makes before work starts; if one cannot, all end, and the first says why.

    Args:
        make: Makes it, or raises.
        tell: What of it must be the same on all ranks.

    Raises:
        Fuse4SegError: A rank raised one, or what ``tell`` tells differs.
    """
    if world_size() == 1:
        return make()
    thing = fault = told = None
    try:
        thing = make()
        told = tell(thing)
    except Fuse4SegError as error:
        fault = error
    faults = [None if one is None else str(one) for one in of_each(fault)]
    if not any(faults):
        begins = of_each(told)
        faults = [f"begins at {place}. Let all see the same results." for place in begins if len(set(begins)) > 1]
    if not any(faults):
        return thing
    if not is_first():
        raise LostRankError
    raise fault if fault is not None and len(set(faults)) == 1 else RanksError(by_rank(faults))


def by_rank(faults: Sequence[str | None]) -> str:
    """What the ranks said, each thing once; None where one has nothing to say.

    Example:
        >>> print(by_rank([None, "no disk", "no disk"]))
        rank 1, 2: no disk
    """
    said = dict.fromkeys(fault for fault in faults if fault is not None)
    return "\n".join(f"rank {', '.join(str(rank) for rank, other in enumerate(faults) if other == fault)}: {fault}"
                     for fault in said)


def require_shares(recipe: Recipe, batch: int, *, ranks: int) -> None:
    """Make sure that so many ranks can share a batch, each in equal parts, even ones where the levels need halves.

    Raises:
        OptionError: They cannot, or the method's losses are of samples that differ in number.
    """
    if ranks == 1:
        return
    halves = recipe.bilevel is not None and recipe.bilevel.hypergradient in NEEDS_HALVES
    unit = 2 if halves else 1
    if batch % (unit * ranks):
        possible = [count for count in range(1, batch // unit + 1) if batch % (unit * count) == 0]
        each = "equally many samples, an even number for gauss_newton" if halves else "equally many samples"
        raise OptionError(FLAG, f"the plans' batch of {batch} cannot be shared by {ranks}, which must get {each}. Give "
                                f"{' or '.join(map(str, possible))}, or plan for more with f4s_plan_experiment {FLAG} {ranks}.")


def require_distributable(recipe: Recipe, network: FuseThenSegment, device: torch.device, *, ranks: int,
                          incomplete: bool = False) -> None:
    """Make sure that several ranks give what one would give.

    Args:
        recipe: Of the training.
        network: That is trained.
        device: Where each rank computes.
        ranks: How many.
        incomplete: Whether cases may lack modalities.

    Raises:
        OptionError: They do not: the leader's losses are means over samples of which each rank has another number, or a network
            normalises over the batch, on the CPU, where PyTorch cannot do that over all of it.
    """
    if ranks == 1:
        return
    if device.type == "cpu" and any(isinstance(part, _BatchNorm) for part in network.modules()):
        raise OptionError(FLAG, "these networks normalise over the batch, which processes on the CPU cannot share. Train in one "
                                "process, or on GPUs.")
    if isinstance(network.fusion, PairLeader) and (recipe.training.modality_dropout or incomplete) and recipe.losses.own:
        mend = "Train in one" if incomplete else "Set training.modality_dropout=0, or train in one"
        raise OptionError(FLAG, f"leader {recipe.leader.network} is taught by the samples that have both images, of which each "
                                f"process has another number. {mend}.")


@contextmanager
def unwrapped(trainer: Fuse4SegTrainer, device: torch.device) -> Iterator[None]:
    """Undo what nnU-Net's trainer sets up, in the block, for DistributedDataParallel, which two levels' gradients go past.

    Args:
        trainer: Is being made.
        device: That it was given.

    Raises:
        OptionError: nnUNetv2_train has started the processes.
    """
    if world_size() > 1 and not stands_in_group():
        raise OptionError(f"nnUNetv2_train {FLAG}", f"wraps the network, which this method goes past. Use f4s_train {FLAG}.")
    with warnings.catch_warnings():
        # It believes that all ranks are on GPUs.
        warnings.filterwarnings("ignore", message=".*GradScaler is enabled")
        yield
    trainer.local_rank, trainer.ranks = rank(), world_size()
    if trainer.is_ddp:
        on_gpu = device.type == "cuda"
        trainer.is_ddp, trainer.device = False, torch.device("cuda", torch.cuda.current_device()) if on_gpu else device
        trainer.grad_scaler = trainer.grad_scaler if on_gpu else None


def share_networks(trainer: Fuse4SegTrainer) -> None:
    """Let networks that normalise over the batch do so over all ranks' samples."""
    if trainer.ranks > 1:
        for module in trainer.levels.modules():
            nn.SyncBatchNorm.convert_sync_batchnorm(module)


def begin_alike(trainer: Fuse4SegTrainer) -> None:
    """Let all ranks begin with the first one's weights: other processors draw others by the same seed."""
    take_from_first([tensor.data for module in trainer.levels.modules() for tensor in (*module.parameters(), *module.buffers())])


def share_loss(loss: nn.Module, *, ignored: bool, regions: bool) -> None:
    """Make nnU-Net's loss of a rank's samples that of the whole batch.

    Args:
        loss: For one resolution.
        ignored: Some voxels have no label, so that ranks average over other numbers of them.
        regions: Labels are channels, the last of which says what is ignored.
    """
    if world_size() == 1:
        return
    loss.dc.ddp = True
    if not ignored:
        return
    weight, label = loss.weight_ce, getattr(loss, "ignore_label", None)

    def weigh(module: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        target = inputs[1]
        known = (target[:, -1:].bool().logical_not() if regions else target != label).sum().float()
        module.weight_ce = weight * known / over_ranks(known).clamp(min=1 / world_size())

    loss.register_forward_pre_hook(weigh)


def of_whole_batches(outputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What nnU-Net's validation steps gave on all ranks' samples: mean losses, and sums of voxels."""
    if world_size() == 1:
        return list(outputs)
    return [{name: mean_report({name: torch.as_tensor(value)})[name] if name == "loss" else summed(torch.as_tensor(value)).numpy()
             for name, value in output.items()} for output in outputs]
