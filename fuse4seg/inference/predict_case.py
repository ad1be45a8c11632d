"""One case through a model: fused once per set of weights, and segmented from what is exported of that, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuse4seg.inference.doubt import Disagreement, votes_of
from fuse4seg.inference.input_space import read_levels, to_levels
from fuse4seg.inference.model import Model
from fuse4seg.inference.sliding_window import fuse_whole_image, segment_windows
from fuse4seg.networks.fuse_then_segment import FuseThenSegment, as_read

#: Voxels of slices that a 2D follower works on at a time.
VOXELS_IN_BLOCK = 2**21


@dataclass(frozen=True)
class CasePrediction:
    """What was made of a case.

    Attributes:
        logits: Mean over the sets of weights, float16, shape (K, Z', Y', X'); None of a model without labels.
        space: What brings the logits back to the input's geometry, as nnU-Net's preprocessor names it.
        fused: One image per set of weights, as exported: uint8, shape (C, *input shape).
        attention: One per set of weights, in preprocessed space, shape (N - 1, Z, Y, X); None unless asked for.
        disagreement: See :class:`~fuse4seg.inference.doubt.Disagreement`: between the sets of weights or, of a single
            one, between its mirrored copies; None where there are neither.
    """

    logits: np.ndarray | None
    space: dict[str, Any]
    fused: tuple[np.ndarray, ...]
    attention: tuple[np.ndarray | None, ...]
    disagreement: float | None = None


def predict_case(model: Model, channels: Tensor, properties: dict[str, Any], *, present: Sequence[bool] | None = None,
                 want_attention: bool = False) -> CasePrediction:
    """Fuse a case and, if the model was trained with labels, segment what was fused.

    Args:
        model: Loaded.
        channels: Preprocessed, shape (C, Z, Y, X); a cascade's labels lie behind the modalities.
        properties: The case's, as nnU-Net's preprocessor left them.
        present: Which modalities the case has; None for all.
        want_attention: Also give attention maps.
    """
    fused, attention, total = [], [], _Mean(model)
    for network in model.with_each_weights():
        levels, maps = _fuse(network, model, channels, properties, present=present, want_attention=want_attention)
        fused.append(levels)
        attention.append(maps)
        if model.description.segments:
            total.add(*_segment(network, model, fused[-1], properties["spacing"], channels[network.modalities:],
                                apart=total.of_copies))
    return CasePrediction(total.mean, {**properties, **total.space}, tuple(fused), tuple(attention), total.disagreement)


def fuse_case(model: Model, channels: Tensor, properties: dict[str, Any], *, present: Sequence[bool] | None = None) -> np.ndarray:
    """The fused image of a model's first set of weights, as exported, uint8, shape (C, *input shape); arguments as above."""
    return _fuse(next(model.with_each_weights()), model, channels, properties, present=present)[0]


def segment_fused(model: Model, fused: Sequence[np.ndarray], spacing: Sequence[float]) -> CasePrediction:
    """Segment a case from its exported fused images alone; the logits are those of :func:`predict_case`, bit for bit.

    Args:
        model: Trained with labels, no second stage of a cascade.
        fused: One image per set of weights, uint8, shape (C, Z, Y, X).
        spacing: Millimetres along Z, Y, X.
    """
    total = _Mean(model)
    for network, levels in zip(model.with_each_weights(), fused, strict=True):
        total.add(*_segment(network, model, levels, spacing, torch.empty(0), apart=total.of_copies))
    return CasePrediction(total.mean, total.space, tuple(fused), (None,) * len(fused), total.disagreement)


class _Mean:
    """Mean of logits, kept in half precision, as nnU-Net keeps them: whole cases are large; and how far they are apart.

    Attributes:
        of_copies: Is told of mirrored copies; None where there are several sets of weights, which are compared themselves.
        space: Of the logits.
    """

    def __init__(self, model: Model) -> None:
        self._apart = Disagreement(regions=model.description.segments and model.description.label_manager.has_regions)
        self._sum: Tensor | None = None
        self._votes: Tensor | None = None
        self._count = 0
        self.of_copies = None if len(model.weights) > 1 else self._apart
        self.space: dict[str, Any] = {}

    def add(self, logits: Tensor, space: dict[str, Any]) -> None:
        if self.of_copies is None:
            self._add_votes(logits)
        self._sum = logits if self._sum is None else self._sum + logits
        self._count, self.space = self._count + 1, space

    def _add_votes(self, logits: Tensor) -> None:
        """Slice by slice, to bound memory: a byte for each voxel and class is kept."""
        if self._votes is None:
            classes = len(logits) - (not self._apart.regions)
            self._votes = torch.zeros(logits.shape[1], classes, *logits.shape[2:], dtype=torch.uint8)
        for votes, image in zip(self._votes, logits.unbind(dim=1), strict=True):
            votes += votes_of(image[None].float(), regions=self._apart.regions)[0]

    @property
    def mean(self) -> np.ndarray | None:
        return None if self._sum is None else (self._sum / self._count).numpy()

    @property
    def disagreement(self) -> float | None:
        """To be asked once, after the last set of weights."""
        if self._votes is not None:
            for votes in self._votes:
                self._apart.add(votes[None], voters=self._count)
        return self._apart.value


def _fuse(network: FuseThenSegment, model: Model, channels: Tensor, properties: dict[str, Any], *,
          present: Sequence[bool] | None = None, want_attention: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """The exported image, and the attention maps if wanted."""
    whole = fuse_whole_image(network, channels, patch_size=model.patch_size, device=model.device, present=present,
                             want_attention=want_attention)
    maps = None if whole.attention is None else whole.attention.numpy()
    return to_levels(whole.fused.numpy(), properties, description=model.description), maps


@torch.inference_mode()
def _segment(network: FuseThenSegment, model: Model, levels: np.ndarray, spacing: Sequence[float],
             extra: Tensor, *, apart: Disagreement | None) -> tuple[Tensor, dict[str, Any]]:
    """Logits (K, Z', Y', X') in half precision, and their space, of an exported image and a cascade's labels."""
    image, space = read_levels(levels, spacing, description=model.description)
    shown = torch.from_numpy(image)
    if len(extra):
        shown = torch.cat([shown, extra])
    logits, start = None, 0
    for block in shown.split(_slices_at_once(shown, model), dim=1):
        part = segment_windows(network.segmentation, block, patch_size=model.patch_size, step_size=model.step_size,
                               device=model.device, precision=model.precision, mirror_axes=model.mirror_axes,
                               read=partial(as_read, leader=network.fusion), apart=apart)
        if logits is None:
            logits = torch.empty(len(part), *shown.shape[1:], dtype=torch.half)
        logits[:, start:start + block.shape[1]] = part
        start += block.shape[1]
    return logits, space


def _slices_at_once(image: Tensor, model: Model) -> int:
    """Slices in a block, to bound memory: a 2D model sees each by itself, a 3D model the whole volume."""
    return image.shape[1] if len(model.patch_size) == 3 else max(1, VOXELS_IN_BLOCK // image[0, 0].numel())
