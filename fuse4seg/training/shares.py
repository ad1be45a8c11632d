"""Whether so many processes can share a training, asked before they are started."""

from __future__ import annotations

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.training.distributed import require_shares
from fuse4seg.training.planned import planned_training
from fuse4seg.training.run import Training


def require_ranks(training: Training, ranks: int) -> None:
    """Make sure that the batch of a training's plans can be shared by so many processes.

    Raises:
        OptionError: It cannot; see :func:`~fuse4seg.training.distributed.require_shares`.
        Fuse4SegError: There is nothing to train on; see :func:`~fuse4seg.training.run.train`.
    """
    _, plans, recipe = planned_training(training)
    batch = PlansManager(dict(plans)).get_configuration(training.configuration).batch_size
    require_shares(recipe, batch, ranks=ranks)
