"""How close the fused images of a fold's validation cases are to their sources, where no labels say more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fuse4seg.colour import luma
from fuse4seg.inference.sliding_window import fuse_whole_image
from fuse4seg.losses.fusion import OF_EACH, OF_THE_STRONGEST, image_losses
from fuse4seg.progress import progress
from fuse4seg.training.pretraining import mean_of

if TYPE_CHECKING:
    from fuse4seg.networks.fuse_then_segment import FuseThenSegment
    from fuse4seg.training.trainer import Fuse4SegTrainer


def fusion_losses_of_fold(trainer: Fuse4SegTrainer) -> dict[str, float]:
    """Mean of each loss between images, trained or not, over the validation cases, each fused whole, as f4s_predict fuses it.

    Args:
        trainer: Initialised.
    """
    _, cases = trainer.do_split()
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, cases)
    model, reports = trainer.network.eval(), []
    for case in progress(list(dataset.identifiers), "validating", unit="case"):
        channels = torch.from_numpy(dataset.load_case(case)[0][:].copy())
        reports.append(_losses(model, channels, trainer.configuration_manager.patch_size, trainer.device))
    return mean_of(reports)


@torch.no_grad()
def _losses(model: FuseThenSegment, channels: Tensor, patch_size: list[int], device: torch.device) -> dict[str, float]:
    """Of one preprocessed case (C, Z, Y, X), whose slices count one by one in 2D."""
    fused = fuse_whole_image(model, channels, patch_size=patch_size, device=device).fused
    flat = len(patch_size) == 2
    image, whole = (part.transpose(0, 1) if flat else part.unsqueeze(0) for part in (fused, channels))
    sources, _ = model.window(whole.to(device))
    parts = image_losses(luma(image.to(device)), sources, [*OF_THE_STRONGEST, *OF_EACH])
    return {name: float(part) for name, part in parts.items()}
