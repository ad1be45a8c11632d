"""Learning rate of the leader and of the discriminators."""

from __future__ import annotations

import torch

#: nnU-Net's.
EXPONENT = 0.9


def polynomial_rate(start: float, epoch: int, *, epochs: int) -> float:
    r"""Learning rate of ``epoch``: :math:`start \, (1 - epoch / epochs)^{0.9}`, as nnU-Net's for the follower.

    The paper halves the leader's every 20 of 140 epochs. In a short training that leaves a leader which stands still by the time
    the follower has found the rare classes; with the follower's own schedule neither level outlives the other.

    Args:
        start: Rate of the first epoch.
        epoch: From 0.
        epochs: Of the whole stage.
    """
    return start * (1 - epoch / epochs) ** EXPONENT


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate
