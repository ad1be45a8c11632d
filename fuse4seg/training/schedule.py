"""Learning rate of the leader and of the discriminators."""

from __future__ import annotations

import torch

#: The paper halves every 20 of 140 epochs.
HALVINGS = 7


def halving_rate(start: float, epoch: int, *, epochs: int) -> float:
    """Learning rate of ``epoch``: halved after every seventh of the training.

    Args:
        start: Rate of the first epoch.
        epoch: From 0.
        epochs: Of the whole stage; with the paper's 140, a halving every 20.

    Source: method.md, "Two stages".
    """
    return start * 0.5 ** (epoch * HALVINGS // epochs)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate
