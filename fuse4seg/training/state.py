"""Everything that stage 2 goes on from, as its checkpoints hold it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fuse4seg.training.epoch import Epoch
from fuse4seg.training.levels import Levels
from fuse4seg.training.random_states import random_states

if TYPE_CHECKING:
    from fuse4seg.training.trainer import Fuse4SegTrainer


def training_state(trainer: Fuse4SegTrainer, *, epochs_done: int, reports: list[dict[str, float]]) -> dict[str, Any]:
    """What a checkpoint holds; learning rates follow from the epoch, batches from seed and iteration.

    Args:
        trainer: Initialised.
        epochs_done: Whole epochs.
        reports: Of the iterations that are done in the next one.
    """
    levels, scaler = trainer.levels, trainer.grad_scaler
    return {
        "network_weights": trainer.network.state_dict(),
        "optimizer_state": trainer.optimizer.state_dict(),
        "leader_optimizer_state": levels.leader.optimiser.state_dict(),
        "auxiliary_head": levels.auxiliary_head.state_dict(),
        "discriminators": levels.discriminators.state_dict(),
        "discriminator_optimizer_state": levels.discriminator_optimiser.state_dict(),
        "grad_scaler_state": scaler.state_dict() if scaler is not None else None,
        "logging": trainer.logger.get_checkpoint(),
        "_best_ema": trainer._best_ema,
        "current_epoch": epochs_done,
        "reports": reports,
        "random_states": random_states(trainer.device),
        "init_args": trainer.my_init_kwargs,
        "trainer_name": type(trainer).__name__,
        "inference_allowed_mirroring_axes": trainer.inference_allowed_mirroring_axes,
        "options": trainer.options.to_plain(),
    }


def take_up_training(trainer: Fuse4SegTrainer, state: dict[str, Any]) -> None:
    """Undo :func:`training_state`, but for the random states, which come last of all.

    Raises:
        RuntimeError, KeyError, ValueError: The state is of another network.
    """
    levels = trainer.levels
    trainer.network.load_state_dict(state["network_weights"])
    trainer.optimizer.load_state_dict(state["optimizer_state"])
    levels.leader.optimiser.load_state_dict(state["leader_optimizer_state"])
    levels.auxiliary_head.load_state_dict(state["auxiliary_head"])
    levels.discriminators.load_state_dict(state["discriminators"])
    levels.discriminator_optimiser.load_state_dict(state["discriminator_optimizer_state"])
    if trainer.grad_scaler is not None and state["grad_scaler_state"] is not None:
        trainer.grad_scaler.load_state_dict(state["grad_scaler_state"])
    trainer.logger.load_checkpoint(state["logging"])
    trainer._best_ema, trainer.current_epoch = state["_best_ema"], state["current_epoch"]
    trainer.inference_allowed_mirroring_axes = state["inference_allowed_mirroring_axes"]


def require_finite_weights(levels: Levels, epoch: Epoch) -> None:
    """Make sure that the last step left weights that are worth saving.

    Raises:
        NonFiniteLossError: It did not: its loss was finite, but its gradients were not.
    """
    weights = [weight for module in levels.modules() for weight in module.parameters()]
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
        raise epoch.non_finite()
