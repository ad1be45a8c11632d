"""What is looked at every few epochs: one validation patch, or some slices, as the leader shows and the follower sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fuse4seg.colour import WHITE
from fuse4seg.datasets.dataset_json import channel_names, foreground_classes, may_lack_channels
from fuse4seg.evaluation.visibility import RING, visibility
from fuse4seg.inference.panel import panel_as_array
from fuse4seg.training.data import WATCHED_STREAM, SeededBatches, batch_makers

if TYPE_CHECKING:
    from fuse4seg.training.trainer import Fuse4SegTrainer

#: Epochs between two looks; the last epoch is looked at besides.
EVERY = 5
#: In 2D so many slices at most, as one alone may hold too little of a class.
SLICES = 8


class WatchedPatch:
    """A patch of the fold's validation cases, in 2D some, by the seed alone; looking at it draws no random numbers.

    Args:
        trainer: Initialised.
    """

    def __init__(self, trainer: Fuse4SegTrainer) -> None:
        self.trainer = trainer
        batch = SeededBatches(batch_makers(trainer)[1], seed=trainer.seed, stream=WATCHED_STREAM,
                              modalities=trainer.network.modalities, incomplete=may_lack_channels(trainer.dataset_json))[0]
        target = batch["target"]
        # nnU-Net puts what surely holds foreground at a batch's end.
        chosen = slice(-1 if batch["data"].ndim == 5 else -SLICES, None)
        self.channels = batch["data"][chosen]
        self.present = batch["present"][chosen] if "present" in batch else None
        self.target = (target[0] if isinstance(target, list) else target)[chosen]

    def is_due(self, epoch: int) -> bool:
        """Whether ``epoch`` of stage 2, from 0, is looked at."""
        return epoch % EVERY == 0 or epoch == self.trainer.num_epochs - 1

    @torch.no_grad()
    def look(self) -> dict[str, Any]:
        """A panel of sources, fused image and, with labels, segmentation and label, and the visibility of each boundary.

        Returns:
            "panel": uint8 of shape (Y, X, 3), without modalities that the patch does not have; "visibility/ONE-OTHER": see
            :func:`~fuse4seg.evaluation.visibility.visibility`; boundaries that the patch does not have are left out.
        """
        trainer = self.trainer
        network = trainer.network.eval()
        with trainer.autocast():
            seen = network.fuse(self.channels.to(trainer.device), present=self.present)
            logits = network.segment(seen.fused.image, seen.extra) if trainer.segments else None
        sources, fused = (_as_volumes(part) for part in (seen.sources, WHITE * seen.fused.image))
        shown = range(network.modalities) if self.present is None else self.present.any(dim=0).nonzero().flatten().tolist()
        sources, names = sources[list(shown)], [channel_names(trainer.dataset_json)[modality] for modality in shown]
        if logits is None:
            return {"panel": panel_as_array(sources=sources, names=names, fused=fused, segmentation=None)}
        truth = self._truth()
        panel = panel_as_array(sources=sources, names=names, fused=fused, reference=truth,
                               segmentation=self._segmented(logits[0] if isinstance(logits, list) else logits))
        spaced = [_apart(part) if self.channels.ndim == 4 else part for part in (fused, truth[None], _as_volumes(seen.inside))]
        boundaries = visibility(spaced[0], spaced[1][0], spaced[2][0] > 0, classes=self._classes(truth))
        return {"panel": panel, **{f"visibility/{name.replace('|', '-')}": value for name, value in boundaries.items()}}

    def _segmented(self, logits: Tensor) -> np.ndarray:
        manager = self.trainer.label_manager
        return self._labels(torch.stack([manager.apply_inference_nonlin(one) for one in logits.float().cpu()]))

    def _truth(self) -> np.ndarray:
        """Labels, shape (Z, Y, X); of regions as they are written, 0 where the label is to be ignored."""
        manager = self.trainer.label_manager
        if manager.has_regions:
            return self._labels(self.target[:, :manager.num_segmentation_heads].float())
        labels = _as_volumes(self.target)[0].astype(np.int16)
        return np.where(labels == manager.ignore_label, 0, labels) if manager.has_ignore_label else labels

    def _labels(self, probabilities: Tensor) -> np.ndarray:
        """Labels (Z, Y, X) of probabilities (B, L, *S)."""
        found = [self.trainer.label_manager.convert_probabilities_to_segmentation(one)[None] for one in probabilities]
        return _as_volumes(torch.stack(found))[0].astype(np.int16)

    def _classes(self, truth: np.ndarray) -> dict[str, int]:
        """Names of labels; of regions, which overlap, their values."""
        if self.trainer.label_manager.has_regions:
            return {str(value): int(value) for value in np.unique(truth[truth > 0])}
        return foreground_classes(self.trainer.dataset_json)


def _as_volumes(images: Tensor) -> np.ndarray:
    """Slices (B, C, Y, X) as one volume, a patch (1, C, Z, Y, X) as it is: arrays (C, Z, Y, X)."""
    array = images.float().cpu().numpy()
    return array[0] if array.ndim == 5 else np.moveaxis(array, 0, 1)


def _apart(slices: np.ndarray) -> np.ndarray:
    """Slices (C, Z, Y, X) with so many black ones between that none lies around another's labels."""
    spaced = np.zeros((len(slices), (RING + 1) * slices.shape[1], *slices.shape[2:]), slices.dtype)
    spaced[:, ::RING + 1] = slices
    return spaced
