"""Entropy of class probabilities against scipy's, and its mean over a boundary, whole and in blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, generate_binary_structure
from scipy.special import expit, softmax
from scipy.stats import entropy as scipys

from fuse4seg.inference.entropy import BoundaryEntropy, entropy, largest_entropy


def logits_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return 4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestEntropy:
    def test_of_a_softmax_is_scipys(self) -> None:
        logits = logits_of(4, 50)
        np.testing.assert_allclose(entropy(logits, regions=False), scipys(softmax(logits.double().numpy(), axis=0)), atol=1e-5)

    def test_of_regions_is_the_sum_of_theirs(self) -> None:
        logits = logits_of(3, 50)
        shares = expit(logits.double().numpy())
        np.testing.assert_allclose(entropy(logits, regions=True), scipys(np.stack([shares, 1 - shares])).sum(axis=0), atol=1e-5)

    @pytest.mark.parametrize("regions", [False, True])
    def test_runs_from_zero_to_the_largest_one(self, regions: bool) -> None:
        assert entropy(torch.zeros(3, 1), regions=regions).item() == pytest.approx(largest_entropy(3, regions=regions))
        sure = torch.tensor([[300.0], [-300.0], [-300.0]])
        assert entropy(sure, regions=regions).item() == 0
        assert (entropy(logits_of(3, 500), regions=regions) <= largest_entropy(3, regions=regions) + 1e-6).all()

    def test_the_largest_ones(self) -> None:
        assert largest_entropy(5, regions=False) == math.log(5)
        assert largest_entropy(5, regions=True) == 5 * math.log(2)


def boundary_mean(logits: torch.Tensor, labels: np.ndarray) -> float:
    """By dilation: a voxel is on the boundary where it touches, by a face, the outside of its own label."""
    faces = generate_binary_structure(labels.ndim, 1)
    boundary = np.any([(labels == value) & binary_dilation(labels != value, faces) for value in np.unique(labels)], axis=0)
    return float(entropy(logits.double(), regions=False).numpy()[boundary].mean())


class TestBoundaryEntropy:
    @given(st.integers(0, 1000), st.lists(st.integers(1, 3), min_size=1, max_size=5))
    @settings(deadline=None, max_examples=25)
    def test_is_the_mean_over_the_boundary_however_it_is_cut_into_blocks(self, seed: int, sizes: list[int]) -> None:
        logits = logits_of(3, sum(sizes), 5, 4, seed=seed)
        labels = np.random.default_rng(seed).integers(0, 3, logits.shape[1:], dtype=np.uint8)
        found, start = BoundaryEntropy(regions=False), 0
        for size in sizes:
            found.add(logits[:, start:start + size], labels[start:start + size])
            start += size
        assert found.mean == pytest.approx(boundary_mean(logits, labels), rel=1e-5)

    def test_looks_at_both_sides_of_the_boundary_and_nowhere_else(self) -> None:
        labels = np.zeros((1, 1, 6), np.uint8)
        labels[..., 3:] = 1
        logits = torch.full((2, 1, 1, 6), 0.0)
        logits[0] = torch.tensor([0.0, 0.0, 50.0, 0.0, 0.0, 0.0])
        found = BoundaryEntropy(regions=False)
        found.add(logits, labels)
        assert found.mean == pytest.approx(math.log(2) / 2)

    def test_is_none_without_a_boundary(self) -> None:
        found = BoundaryEntropy(regions=False)
        assert found.mean is None
        found.add(torch.zeros(2, 3, 4, 4), np.ones((3, 4, 4), np.uint8))
        assert found.mean is None
