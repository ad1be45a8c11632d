"""How learning rates fall over the epochs of a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

#: nnU-Net's.
EXPONENT = 0.9
#: The paper halves the leader's rate every so many of its 140 epochs.
HALVED_EVERY = 20

#: Share of the first rate that is left in an epoch (from 0) of so many, by the names in recipes.
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "polynomial": lambda epoch, epochs: (1 - epoch / epochs) ** EXPONENT,
    "halved": lambda epoch, epochs: 0.5 ** (epoch // HALVED_EVERY),
    "constant": lambda epoch, epochs: 1.0,
}


class Schedule:
    """Sets the learning rates of optimisers at the start of every epoch; nnU-Net's trainer calls ``step``.

    Args:
        optimisers: All get the same rate.
        start: Rate of the first epoch.
        epochs: Of the whole stage.
        shape: One of SCHEDULES. In a short training a leader whose rate is halved stands still by the time the follower has found
            the rare classes; with the follower's own schedule neither level outlives the other.

    Example:
        >>> moved = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> Schedule([moved], start=0.5, epochs=100, shape="halved").step(40)
        >>> moved.param_groups[0]["lr"]
        0.125
    """

    def __init__(self, optimisers: Iterable[torch.optim.Optimizer], *, start: float, epochs: int, shape: str) -> None:
        self.optimisers, self.start, self.epochs, self.share = list(optimisers), start, epochs, SCHEDULES[shape]

    def step(self, epoch: int) -> None:
        """Set the rates of ``epoch``, from 0."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.start * self.share(epoch, self.epochs)
