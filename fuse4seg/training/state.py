"""Everything that a training goes on from, as its checkpoints hold it: weights, optimisers, and random numbers."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fuse4seg.recipes.reading import to_plain
from fuse4seg.steps.levels import Levels
from fuse4seg.training.epoch import Epoch

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
        "auxiliary_head": None if levels.auxiliary_head is None else levels.auxiliary_head.state_dict(),
        "discriminators": levels.adversary.state_dict(),
        "discriminator_optimizer_state": levels.discriminator_optimiser.state_dict(),
        "grad_scaler_state": scaler.state_dict() if scaler is not None else None,
        "logging": trainer.logger.get_checkpoint(),
        "_best_ema": trainer._best_ema,
        "current_epoch": epochs_done,
        "epochs": trainer.num_epochs,
        "reports": reports,
        # At the beginning, the seed decides.
        "random_states": random_states(trainer.device) if epochs_done or reports else None,
        "init_args": trainer.my_init_kwargs,
        "trainer_name": trainer.base_name,
        "inference_allowed_mirroring_axes": trainer.inference_allowed_mirroring_axes,
        "recipe": to_plain(trainer.recipe),
        "seed": trainer.seed,
        "fine_tuned_from": trainer.fine_tuned_from,
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
    if levels.auxiliary_head is not None:
        levels.auxiliary_head.load_state_dict(state["auxiliary_head"])
    levels.adversary.load_state_dict(state["discriminators"])
    levels.discriminator_optimiser.load_state_dict(state["discriminator_optimizer_state"])
    if trainer.grad_scaler is not None and state["grad_scaler_state"] is not None:
        trainer.grad_scaler.load_state_dict(state["grad_scaler_state"])
    trainer.logger.load_checkpoint(state["logging"])
    trainer._best_ema, trainer.current_epoch = state["_best_ema"], state["current_epoch"]
    if trainer.current_epoch == state["epochs"]:
        # Fewer than the recipe's where the time ended it: its rates have reached their end.
        trainer.num_epochs = state["epochs"]
    trainer.inference_allowed_mirroring_axes = state["inference_allowed_mirroring_axes"]
    trainer.fine_tuned_from = state["fine_tuned_from"]


def require_finite_weights(levels: Levels, epoch: Epoch) -> None:
    """Make sure that the last step left weights that are worth saving.

    Raises:
        NonFiniteLossError: It did not: its loss was finite, but its gradients were not.
    """
    weights = [weight for module in levels.modules() for weight in module.parameters()]
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
        raise epoch.non_finite()


def random_states(device: torch.device) -> dict[str, Any]:
    """States of Python's, NumPy's and PyTorch's generators; of PyTorch the CPU's, and that of ``device`` if it is CUDA."""
    name, words, *rest = np.random.get_state()
    states = {"python": random.getstate(), "numpy": (name, words.tolist(), *rest), "torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Undo :func:`random_states`; a state of CUDA is left out where training goes on elsewhere."""
    random.setstate(states["python"])
    name, words, *rest = states["numpy"]
    np.random.set_state((name, np.array(words, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def seed_all(*entropy: int) -> None:
    """Seed them all, on every device, from whole numbers from 0 on."""
    words = np.random.SeedSequence(entropy).generate_state(2, dtype=np.uint32)
    random.seed(int(words[0]))
    np.random.seed(words)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))
