"""One validation patch that is looked at every few epochs: what the leader makes of it, and the follower of that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fuse4seg.colour import WHITE
from fuse4seg.datasets.dataset_json import channel_names, foreground_classes
from fuse4seg.evaluation.visibility import visibility
from fuse4seg.inference.panel import panel_as_array
from fuse4seg.training.data import WATCHED_STREAM, SeededBatches, batch_makers

if TYPE_CHECKING:
    from fuse4seg.training.trainer import Fuse4SegTrainer

#: Epochs between two looks; the last epoch is looked at besides.
EVERY = 5


class WatchedPatch:
    """A patch of the fold's validation cases, by the seed alone; looking at it draws no random numbers.

    Args:
        trainer: Initialised.
    """

    def __init__(self, trainer: Fuse4SegTrainer) -> None:
        self.trainer = trainer
        batch = SeededBatches(batch_makers(trainer)[1], seed=trainer.seed, stream=WATCHED_STREAM)[0]
        target = batch["target"]
        # nnU-Net puts what surely holds foreground at a batch's end.
        self.channels = batch["data"][-1:]
        self.target = (target[0] if isinstance(target, list) else target)[-1]

    def is_due(self, epoch: int) -> bool:
        """Whether ``epoch`` of stage 2, from 0, is looked at."""
        return epoch % EVERY == 0 or epoch == self.trainer.num_epochs - 1

    @torch.no_grad()
    def look(self) -> dict[str, Any]:
        """A panel of sources, fused image and, with labels, segmentation and label, and the visibility of each boundary.

        Returns:
            "panel": uint8 of shape (Y, X, 3); "visibility/ONE-OTHER": see :func:`~fuse4seg.evaluation.visibility.visibility`;
            boundaries that the patch does not have are left out.
        """
        trainer = self.trainer
        network = trainer.network.eval()
        with trainer.autocast():
            seen = network.fuse(self.channels.to(trainer.device))
            logits = network.segment(seen.fused.image, seen.extra) if trainer.segments else None
        sources, fused = (_as_volumes(part[0]) for part in (seen.sources, WHITE * seen.fused.image))
        names = channel_names(trainer.dataset_json)
        if logits is None:
            return {"panel": panel_as_array(sources=sources, names=names, fused=fused, segmentation=None)}
        truth = self._truth()
        panel = panel_as_array(sources=sources, names=names, fused=fused, reference=truth,
                               segmentation=self._segmented(logits[0] if isinstance(logits, list) else logits))
        boundaries = visibility(fused, truth, _as_volumes(seen.inside[0])[0] > 0, classes=self._classes(truth))
        return {"panel": panel, **{f"visibility/{name.replace('|', '-')}": value for name, value in boundaries.items()}}

    def _segmented(self, logits: Tensor) -> np.ndarray:
        manager = self.trainer.label_manager
        probabilities = manager.apply_inference_nonlin(logits[0].float().cpu())
        return _as_volumes(manager.convert_probabilities_to_segmentation(probabilities)[None])[0]

    def _truth(self) -> np.ndarray:
        """Labels, shape (Z, Y, X); of regions as they are written, 0 where the label is to be ignored."""
        manager = self.trainer.label_manager
        if manager.has_regions:
            regions = self.target[:manager.num_segmentation_heads].float()
            return _as_volumes(manager.convert_probabilities_to_segmentation(regions)[None])[0]
        labels = _as_volumes(self.target)[0].astype(np.int16)
        return np.where(labels == manager.ignore_label, 0, labels) if manager.has_ignore_label else labels

    def _classes(self, truth: np.ndarray) -> dict[str, int]:
        """Names of labels; of regions, which overlap, their values."""
        if self.trainer.label_manager.has_regions:
            return {str(value): int(value) for value in np.unique(truth[truth > 0])}
        return foreground_classes(self.trainer.dataset_json)


def _as_volumes(images: Tensor) -> np.ndarray:
    """Images (C, Y, X) or (C, Z, Y, X) as arrays (C, Z, Y, X)."""
    array = images.float().cpu().numpy()
    return array if array.ndim == 4 else array[:, None]
