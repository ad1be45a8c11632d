"""U2Fusion: its size, what weighs its sources, and its losses by NumPy, SciPy and scikit-image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from scipy.special import softmax
from skimage.metrics import structural_similarity

from fuse4seg.leaders.u2fusion import U2Fusion, information
from fuse4seg.networks.pair_leader import Fold
from fuse4seg.steps.fusion import FusionStep
from tests.leaders.pairs import maker_of

Images = Callable[..., torch.Tensor]
leader = maker_of(U2Fusion)


def laplacian_energy(image: np.ndarray) -> float:
    """Mean over five scales, the last ones of which may be a single voxel."""
    energy = 0.0
    for _ in range(5):
        kernel = np.full([3] * image.ndim, 1 / (3**image.ndim - 1))
        kernel[(1,) * image.ndim] = -1
        energy += np.square(convolve(image, kernel, mode="nearest")).mean() / 5
        for axis in range(image.ndim):
            length = image.shape[axis] // 2 * 2
            if length:
                even = image.take(range(length), axis=axis)
                image = (even.take(range(0, length, 2), axis=axis) + even.take(range(1, length, 2), axis=axis)) / 2
    return energy


def test_has_the_parameters_that_later_papers_count() -> None:
    """0.659 million."""
    count = sum(parameter.numel() for parameter in leader().parameters())
    kernels = 9 * (44 * (2 + 44 * (1 + 2 + 3 + 4 + 5)) + 264 * 128 + 128 * 64 + 64 * 32 + 32)
    assert count == kernels + 6 * 44 + 128 + 64 + 32 + 1
    assert count == pytest.approx(0.659e6, rel=0.001)


class TestForward:
    def test_of_a_case_that_lacks_one_is_the_other(self, sources: Images) -> None:
        images = sources(2, 2, 8, 9)
        fused = leader()(images, present=torch.tensor([[True, False], [True, True]])).image
        assert torch.equal(fused[0], images[0, :1])
        assert not torch.equal(fused[1], images[1, :1])


class TestInformation:
    @pytest.mark.parametrize("size", [(32, 48), (17, 9), (8, 16, 5), (1, 12)])
    def test_is_the_energy_of_the_laplacian_on_five_scales(self, sources: Images, size: tuple[int, ...]) -> None:
        images = sources(2, 3, *size).double()
        expected = [[laplacian_energy(image.numpy()) for image in case] for case in images]
        np.testing.assert_allclose(information(images).numpy(), expected, rtol=1e-10)

    def test_grows_with_the_square_of_contrast(self, sources: Images) -> None:
        images = sources(1, 1, 16, 16)
        torch.testing.assert_close(information(images / 3), information(images) / 9)


class TestLosses:
    @pytest.mark.parametrize("evenness", [0.01, 1.0])
    def test_are_the_paper_s(self, sources: Images, evenness: float) -> None:
        images, fused = sources(2, 2, 20, 18), sources(2, 1, 20, 18, seed=1)
        images[:, 1] = images[:, 1] ** 3
        losses = leader(evenness=evenness).pair_losses(Fold(images[:, :1], images[:, 1:], fused, None))
        structure = intensities = 0.0
        for case, made in zip(images.double().numpy(), fused.double().numpy()[:, 0], strict=True):
            weights = softmax([laplacian_energy(source) / evenness for source in case])
            for weight, source in zip(weights, case, strict=True):
                similarity = structural_similarity(made, source, gaussian_weights=True, use_sample_covariance=False,
                                                   sigma=1.5, data_range=1, full=True)[1][5:-5, 5:-5].mean()
                structure += weight * (1 - similarity) / 2
                intensities += 20 * weight * np.square(made - source).mean() / 2
        assert losses["structure"].item() == pytest.approx(structure, abs=1e-5)
        assert losses["intensities"].item() == pytest.approx(intensities, abs=1e-5)

    def test_pull_towards_the_source_that_has_more_to_tell(self, sources: Images) -> None:
        sharp = sources(1, 1, 24, 24)
        flat = sharp.mean().expand_as(sharp)
        near_sharp, near_flat = (sum(leader(evenness=1e-3).pair_losses(Fold(sharp, flat, image, None)).values())
                                 for image in (sharp, flat))
        assert near_sharp < near_flat

    def test_are_zero_where_all_are_alike(self, sources: Images) -> None:
        image = sources(1, 1, 16, 16)
        assert sum(leader().pair_losses(Fold(image, image, image, None)).values()).item() == pytest.approx(0, abs=1e-5)

    def test_do_not_teach_by_the_weights(self, sources: Images) -> None:
        """Of a later fold the first image is a fused one: it is not to become smooth so as to count less."""
        network = leader(modalities=3)
        fold = network(sources(1, 3, 12, 12)).own[1]
        assert fold.first.requires_grad
        assert not information(fold.first).requires_grad

    def test_fall_in_training_by_the_recipe(self, fusion_step: Callable[..., FusionStep], sources: Images) -> None:
        step, batch = fusion_step("u2fusion", "leader.rate=1e-3"), sources(2, 2, 16, 16)
        losses = [step(batch)["fusion"] for _ in range(12)]
        assert losses[-1] < 0.7 * losses[0]

    def test_count_on_the_meta_device(self) -> None:
        network, images = leader().to("meta"), torch.empty(2, 2, 16, 16, device="meta")
        sum(network.losses(network(images), images).values()).backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
