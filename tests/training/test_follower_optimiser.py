"""The follower's optimisers move weights as those of nnU-Net's trainers do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam
from torch import nn

from fuse4seg.training.follower_optimiser import MOMENTS, RATE_OVER_SGD, make_follower_optimiser

#: nnU-Net's first rate and weight decay.
SGD_RATE, WEIGHT_DECAY = 1e-2, 3e-5
#: nnU-Net's trainers, and their first rates.
THEIRS = {"sgd": (nnUNetTrainer, 1e-2), "adamw": (nnUNetTrainerAdam, 1e-3)}


def moved(network: nn.Module, optimiser: torch.optim.Optimizer) -> torch.Tensor:
    """The weights after three steps under gradients of different sizes."""
    for step in range(1, 4):
        for number, weights in enumerate(network.parameters(), 1):
            weights.grad = torch.full_like(weights, (-1)**step * 0.1**number * step) + weights.detach()
        optimiser.step()
    return torch.cat([weights.detach().flatten() for weights in network.parameters()])


@pytest.mark.parametrize("name", RATE_OVER_SGD)
def test_moves_weights_as_nnunets_trainer_does(name: str) -> None:
    trainer, rate = THEIRS[name]
    networks = [nn.Linear(3, 2), nn.Linear(3, 2)]
    networks[1].load_state_dict(networks[0].state_dict())
    settings = SimpleNamespace(network=networks[1], initial_lr=rate, weight_decay=WEIGHT_DECAY, num_epochs=10)
    theirs, _ = trainer.configure_optimizers(settings)
    ours = make_follower_optimiser(name, networks[0].parameters(), sgd_rate=SGD_RATE, weight_decay=WEIGHT_DECAY)
    assert torch.equal(moved(networks[0], ours), moved(networks[1], theirs))


@pytest.mark.parametrize("name", RATE_OVER_SGD)
def test_keeps_as_many_moments_as_it_says(name: str) -> None:
    network = nn.Linear(3, 2)
    optimiser = make_follower_optimiser(name, network.parameters(), sgd_rate=SGD_RATE, weight_decay=WEIGHT_DECAY)
    moved(network, optimiser)
    kept = [value for value in optimiser.state[network.weight].values() if value is not None and value.shape == (2, 3)]
    assert len(kept) == MOMENTS[name]
