"""What moves the follower: nnU-Net's SGD, or the AdamW of nnU-Net's own variant."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

#: Names, and the first learning rate of each over SGD's: nnUNetTrainer has 0.01, nnUNetTrainerAdam1en3 has 0.001.
RATE_OVER_SGD = {"sgd": 1.0, "adamw": 0.1}
#: Tensors of a parameter's size that each keeps of it: momentum; two moments, and the second's maximum.
MOMENTS = {"sgd": 1, "adamw": 3}
#: Of nnU-Net's SGD, with Nesterov.
MOMENTUM = 0.99


def make_follower_optimiser(name: str, parameters: Iterable[nn.Parameter], *, sgd_rate: float,
                            weight_decay: float) -> torch.optim.Optimizer:
    """Optimiser of a segmentation network.

    Args:
        name: Of RATE_OVER_SGD.
        parameters: What it moves.
        sgd_rate: nnU-Net's first learning rate, which is SGD's; the others' follows from it.
        weight_decay: nnU-Net's.

    Returns:
        ``sgd`` as nnUNetTrainer builds it, ``adamw`` as nnUNetTrainerAdam1en3 does (amsgrad).
    """
    rate = sgd_rate * RATE_OVER_SGD[name]
    if name == "adamw":
        return torch.optim.AdamW(parameters, rate, weight_decay=weight_decay, amsgrad=True)
    return torch.optim.SGD(parameters, rate, momentum=MOMENTUM, nesterov=True, weight_decay=weight_decay)
