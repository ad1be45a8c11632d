"""Which modalities the samples of a batch have: those of their cases, less what modality dropout leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor
from torch.nn.functional import one_hot

from fuse4seg.datasets.presence import presence_of
from fuse4seg.networks.presence import fill_absent

#: Part of the samples that come from complete cases at least, if there are any.
LEAST_COMPLETE = 0.5


class NotingDataset:
    """A preprocessed dataset that notes which modalities the case has that it was asked for last.

    Args:
        dataset: nnU-Net's.
        modalities: How many there are.

    Attributes:
        present: Of that case, by its properties.
    """

    def __init__(self, dataset: nnUNetBaseDataset, modalities: int) -> None:
        self.dataset, self.modalities = dataset, modalities
        self.present: tuple[bool, ...] = ()

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """nnU-Net's: channels, segmentation, that of a previous stage, and properties."""
        loaded = self.dataset.load_case(identifier)
        self.present = presence_of(loaded[-1], self.modalities)
        return loaded


def sampling_probabilities(dataset: nnUNetBaseDataset, modalities: int) -> np.ndarray | None:
    """How often each training case is drawn, of sum 1: cases that lack nothing make up half of the samples at least.

    What cases with fewer modalities teach does not reach what complete ones tell, and few may be complete.

    Args:
        dataset: Preprocessed training cases.
        modalities: N.

    Returns:
        Float64, shape (cases,), in the order of the dataset's identifiers. None draws all alike, as nnU-Net does: where
        none is complete, or half of them are.
    """
    complete = np.array([all(presence_of(dataset.load_case(case)[-1], modalities)) for case in dataset.identifiers])
    if not complete.any() or complete.mean() >= LEAST_COMPLETE:
        return None
    return np.where(complete, LEAST_COMPLETE / complete.sum(), (1 - LEAST_COMPLETE) / (~complete).sum())


def draw_present(random_numbers: np.random.Generator, samples: int, *, modalities: int, dropout: float) -> Tensor:
    """Leave modalities out at random, each of each sample by itself; where none is left, one chosen at random stays.

    Args:
        random_numbers: Where the draws come from.
        samples: B.
        modalities: N, at least 1.
        dropout: Probability that a modality is left out, in [0, 1).

    Returns:
        True where a sample keeps a modality, bool of shape (B, N).
    """
    present = random_numbers.random((samples, modalities)) >= dropout
    survivors = np.arange(modalities) == random_numbers.integers(modalities, size=(samples, 1))
    return torch.from_numpy(np.where(present.any(axis=1, keepdims=True), present, survivors))


def what_is_left(there: Tensor, kept: Tensor, liking: Tensor) -> Tensor:
    """Modalities that samples have and keep; where that is none, the best liked one that they have.

    Args:
        there: True where a sample's case has a modality, bool of shape (B, N), one at least in each sample.
        kept: True where modality dropout keeps it, whether it is there or not, bool of shape (B, N).
        liking: Random numbers in [0, 1), shape (B, N).

    Returns:
        Bool of shape (B, N); of a sample whose case has all modalities ``kept``.

    Example:
        >>> there, kept = torch.tensor([[True, True], [True, False]]), torch.tensor([[False, True], [False, True]])
        >>> what_is_left(there, kept, torch.rand(2, 2))
        tensor([[False,  True],
                [ True, False]])
    """
    left = there & kept
    best = torch.where(there, liking, -1).argmax(dim=1)
    return torch.where(left.any(dim=1, keepdim=True), left, one_hot(best, there.shape[1]).bool())


def without_absent(channels: Tensor, there: Tensor) -> Tensor:
    """Channels (B, C, *S), 0 where one of the N modalities is not ``there``, (B, N): augmentation changes zeros, too."""
    modalities = there.shape[1]
    return torch.cat([fill_absent(channels[:, :modalities], there), channels[:, modalities:]], dim=1)


@contextmanager
def network_told(trainer: nnUNetTrainer, present: Tensor | None) -> Iterator[None]:
    """Within it nnU-Net's steps call a network that was told which modalities are there, (B, N); None for all."""
    network = trainer.network
    if present is not None:
        trainer.network = partial(network, present=present.to(trainer.device, non_blocking=True))
    try:
        yield
    finally:
        trainer.network = network
