"""The content loss: against numpy and scikit-image, summed over the modalities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from fuse4seg.losses.content import content_loss

RandomImages = Callable[..., torch.Tensor]


class TestContentLoss:
    @pytest.mark.parametrize("shape", [(1, 3, 16, 18), (1, 2, 12, 13, 14)])
    def test_is_the_sum_of_each_modality_by_numpy_and_scikit_image(self, random_images: RandomImages,
                                                                   shape: tuple[int, ...]) -> None:
        sources, reconstructed = random_images(*shape), random_images(*shape, seed=1)
        expected = 0.0
        for one, other in zip(sources[0].double().numpy(), reconstructed[0].double().numpy(), strict=True):
            similarity = structural_similarity(one, other, gaussian_weights=True, use_sample_covariance=False,
                                               data_range=1)
            expected += np.mean((one - other) ** 2) + 1 - similarity
        assert content_loss(reconstructed, sources).item() == pytest.approx(expected, abs=1e-5)

    def test_is_zero_for_a_perfect_reconstruction(self, random_images: RandomImages) -> None:
        sources = random_images(2, 2, 16, 16)
        assert content_loss(sources.clone(), sources).item() == pytest.approx(0, abs=1e-5)

    def test_does_not_change_when_the_batch_is_repeated(self, random_images: RandomImages) -> None:
        sources, reconstructed = random_images(1, 2, 16, 16), random_images(1, 2, 16, 16, seed=1)
        repeated = content_loss(reconstructed.repeat(3, 1, 1, 1), sources.repeat(3, 1, 1, 1))
        torch.testing.assert_close(repeated, content_loss(reconstructed, sources))

    def test_refuses_a_reconstruction_of_another_shape(self, random_images: RandomImages) -> None:
        with pytest.raises(ValueError, match="one shape"):
            content_loss(random_images(1, 1, 16, 16), random_images(1, 2, 16, 16))
