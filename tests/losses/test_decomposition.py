"""The decomposition loss: correlation against numpy, its extremes, and constant features."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from fuse4seg.losses.decomposition import average_correlation, decomposition_loss


def random_features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestAverageCorrelation:
    @pytest.mark.parametrize("shape", [(2, 2, 3, 5, 6), (2, 4, 3, 4, 5, 6)])
    def test_matches_numpy_over_all_pairs_channels_and_cases(self, shape: tuple[int, ...]) -> None:
        features = random_features(*shape) + random_features(shape[0], 1, *shape[2:], seed=1)
        flat = features.flatten(3).numpy().astype(np.float64)
        expected = [np.corrcoef(case[first, channel], case[second, channel])[0, 1] for case in flat
                    for channel in range(shape[2]) for first, second in combinations(range(shape[1]), 2)]
        assert average_correlation(features).item() == pytest.approx(np.mean(expected), abs=1e-6)

    def test_is_one_for_features_that_differ_in_scale_and_offset(self) -> None:
        features = random_features(2, 1, 3, 6, 7)
        scaled = torch.cat([features, 3 * features + 5, 0.2 * features - 1], dim=1)
        assert average_correlation(scaled).item() == pytest.approx(1, abs=1e-5)

    def test_is_minus_one_for_opposite_features(self) -> None:
        features = random_features(2, 1, 3, 6, 7)
        assert average_correlation(torch.cat([features, -features], dim=1)).item() == pytest.approx(-1, abs=1e-5)

    def test_counts_a_constant_channel_as_zero(self) -> None:
        features = random_features(1, 1, 2, 6, 7).repeat(1, 2, 1, 1, 1)
        features[:, :, 1] = 0.7
        assert average_correlation(features).item() == pytest.approx(0.5, abs=1e-5)

    def test_keeps_its_precision_for_half_precision_features(self) -> None:
        features = random_features(1, 2, 4, 32, 32).half()
        torch.testing.assert_close(average_correlation(features), average_correlation(features.float()))


class TestAbsentModalities:
    def test_leave_the_mean_over_the_pairs_that_are_there(self) -> None:
        features = random_features(3, 4, 2, 5, 6) + random_features(3, 1, 2, 5, 6, seed=1)
        present = torch.tensor([[True, True, False, True], [False, True, True, False], [False, False, False, True]])
        flat = features.flatten(3).numpy().astype(np.float64)
        expected = [np.corrcoef(flat[case, first, channel], flat[case, second, channel])[0, 1] for case in range(3)
                    for channel in range(2) for first, second in combinations(np.flatnonzero(present[case].numpy()), 2)]
        assert len(expected) == 2 * (3 + 1)
        assert average_correlation(features, present).item() == pytest.approx(np.mean(expected), abs=1e-6)

    def test_that_are_none_change_nothing(self) -> None:
        features, everywhere = random_features(2, 3, 2, 5, 6), torch.ones(2, 3, dtype=torch.bool)
        torch.testing.assert_close(average_correlation(features, everywhere), average_correlation(features))

    def test_leave_nothing_of_single_modalities(self) -> None:
        low, high = (random_features(2, 2, 3, 4, 4, seed=seed).requires_grad_() for seed in (0, 1))
        loss = decomposition_loss(low, high, present=torch.tensor([[True, False], [False, True]]))
        loss.backward()
        assert loss == 0
        assert (low.grad == 0).all()
        assert (high.grad == 0).all()


class TestDecompositionLoss:
    def test_matches_the_formula(self) -> None:
        low, high = random_features(2, 3, 4, 5, 6), random_features(2, 3, 2, 10, 12, seed=1)
        expected = average_correlation(high) ** 2 / (average_correlation(low) + 1.01)
        torch.testing.assert_close(decomposition_loss(low, high), expected)

    def test_is_least_for_shared_low_and_unrelated_high_frequencies(self) -> None:
        shared, unrelated = random_features(1, 1, 2, 8, 8).repeat(1, 2, 1, 1, 1), torch.zeros(1, 2, 1, 2, 2)
        unrelated[0, 0, 0] = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
        unrelated[0, 1, 0] = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
        assert decomposition_loss(shared, unrelated).item() == pytest.approx(0, abs=1e-6)
        assert decomposition_loss(shared, shared).item() == pytest.approx(1 / 2.01, abs=1e-4)

    def test_is_zero_for_a_single_modality(self) -> None:
        assert decomposition_loss(random_features(2, 1, 3, 4, 4), random_features(2, 1, 3, 8, 8)) == 0

    def test_has_finite_gradients_for_constant_features(self) -> None:
        low, high = (torch.full((1, 2, 3, 4, 4), 0.4, requires_grad=True) for _ in range(2))
        decomposition_loss(low, high).backward()
        assert low.grad.isfinite().all()
        assert high.grad.isfinite().all()

    def test_gradients_agree_with_finite_differences(self) -> None:
        low, high = random_features(1, 3, 2, 3, 3).double(), random_features(1, 3, 2, 4, 4, seed=1).double()
        assert torch.autograd.gradcheck(decomposition_loss, (low.requires_grad_(), high.requires_grad_()))
