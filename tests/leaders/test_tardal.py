"""TarDAL's fusion: its size, its saliency, its losses by NumPy and scikit-image, and its game."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import nn

from fuse4seg.leaders.tardal import TarDAL, divergence, saliency, targets
from fuse4seg.losses.filters import gradient_magnitude
from fuse4seg.networks.pair_leader import Fold
from fuse4seg.steps.fusion import FusionStep
from tests.leaders.pairs import maker_of

Images = Callable[..., torch.Tensor]
leader = maker_of(TarDAL)


def contrast(image: np.ndarray) -> np.ndarray:
    """Mean distance to all voxels, of grey levels."""
    levels = np.rint(image * 255) / 255
    return np.abs(levels[..., None] - levels.ravel()).mean(axis=-1)


def test_has_the_parameters_that_later_papers_count() -> None:
    """0.297 million."""
    count = sum(parameter.numel() for parameter in leader().parameters())
    kernels = 9 * (32 * (2 + 32 * (1 + 2 + 3)) + 128 * 128 + 128 * 64 + 64 * 32 + 32)
    # Each feature has a bias, and a scale and a shift in its normalisation, but for the image.
    assert count == kernels + 3 * (4 * 32 + 128 + 64 + 32) + 1
    assert count == pytest.approx(0.297e6, rel=0.001)


class TestSaliency:
    @pytest.mark.parametrize("size", [(9, 7), (3, 4, 5)])
    def test_is_the_mean_distance_to_all_grey_levels(self, sources: Images, size: tuple[int, ...]) -> None:
        images = sources(2, 3, *size).double()
        expected = [[contrast(image) for image in case] for case in images.numpy()]
        np.testing.assert_allclose(saliency(images).numpy(), expected, atol=1e-6)

    def test_is_as_precise_under_autocast(self, sources: Images) -> None:
        images = sources(1, 2, 12, 12)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = saliency(images)
        assert torch.equal(found, saliency(images))

    def test_finds_the_bright_spot_on_a_dark_ground(self) -> None:
        image = torch.full((1, 1, 10, 10), 0.1)
        image[..., 4:6, 3:5] = 0.9
        assert torch.equal(targets(image), (image > 0.5).float())

    def test_finds_nothing_in_an_image_that_is_not_there(self) -> None:
        assert not targets(torch.zeros(1, 2, 6, 6)).any()


class TestLosses:
    def test_are_the_paper_s(self, sources: Images) -> None:
        images, fused = sources(2, 2, 20, 18), sources(2, 1, 20, 18, seed=1)
        losses = leader(pixel=20.0).pair_losses(Fold(images[:, :1], images[:, 1:], fused, None))
        structure = pixel = 0.0
        for case, made in zip(images.double().numpy(), fused.double().numpy()[:, 0], strict=True):
            weights = np.stack([contrast(source) for source in case])
            weights /= weights.sum(axis=0)
            for weight, source in zip(weights, case, strict=True):
                similarity = structural_similarity(made, source, gaussian_weights=True, use_sample_covariance=False,
                                                   sigma=1.5, data_range=1, full=True)[1][5:-5, 5:-5].mean()
                structure += (1 - similarity) / 2 / 2
                pixel += 20 * (weight * np.abs(made - source)).mean() / 2
        assert losses["structure"].item() == pytest.approx(structure, abs=1e-5)
        assert losses["pixel"].item() == pytest.approx(pixel, abs=1e-4)

    def test_are_finite_without_any_contrast(self) -> None:
        black = torch.zeros(1, 1, 16, 16)
        losses = leader().pair_losses(Fold(black, black, torch.full_like(black, 0.5), None))
        assert losses["pixel"].item() == pytest.approx(20 * 0.5)

    def test_fall_in_training_by_the_recipe(self, fusion_step: Callable[..., FusionStep], sources: Images) -> None:
        step, batch = fusion_step("tardal", "leader.rate=1e-3"), sources(2, 2, 16, 16)
        reports = [step(batch) for _ in range(12)]
        assert reports[-1]["own"] < 0.7 * reports[0]["own"]
        assert reports[-1]["discriminator"] < reports[0]["discriminator"]


class TestAdversary:
    def test_looks_at_targets_and_at_gradients_around_them(self, sources: Images) -> None:
        adversary = leader(reference=1).adversary()
        fused, images = sources(2, 1, 16, 16), sources(2, 2, 16, 16, seed=1)
        infrared, visible = images.split(1, dim=1)
        mask = targets(infrared)
        assert 0 < mask.mean() < 1
        target = infrared * mask, fused * mask
        detail = gradient_magnitude(visible) * (1 - mask), gradient_magnitude(fused) * (1 - mask)
        expected = -adversary.target(target[1]).mean() - adversary.detail(detail[1]).mean()
        torch.testing.assert_close(adversary.generator_loss(fused, images), expected)
        paid = divergence(adversary.target, *target).mean() + divergence(adversary.detail, *detail).mean()
        torch.testing.assert_close(adversary.discriminator_loss(fused, images), paid)

    def test_penalises_the_slope(self) -> None:
        """Of a plane of slope a in each of V voxels the norm to the sixth power is (a^2 V)^3."""

        class Plane(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.steepness = nn.Parameter(torch.tensor(0.3))

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return self.steepness * images.flatten(2).sum(dim=2)

        plane = Plane()
        real, made = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
        found = divergence(plane, real, made)
        expected = 0.3 * (made - real).sum(dim=(2, 3)) + 2 * (0.3**2 * 20) ** 3
        torch.testing.assert_close(found, expected)
        slope, = torch.autograd.grad(found.sum(), plane.steepness)
        assert slope.item() == pytest.approx(((made - real).sum() + 6 * 2 * 6 * 0.3**5 * 20**3).item(), rel=1e-4)

    def test_leaves_out_what_is_absent(self, sources: Images) -> None:
        adversary = leader(modalities=3).adversary()
        fused, images = sources(2, 1, 16, 16), sources(2, 3, 16, 16, seed=1)
        present = torch.tensor([[True, False, True], [False, True, False]])
        there = images.masked_fill(~present.view(2, 3, 1, 1), 0)
        found = adversary.generator_loss(fused, there, present)
        masks = targets(there[:, 1:])
        around = 1 - masks.amax(dim=1, keepdim=True)
        target = (adversary.target(fused * masks)[0, 1] + adversary.target(fused * masks)[1, 0]) / 2
        torch.testing.assert_close(found, -target - adversary.detail(gradient_magnitude(fused) * around)[0, 0])

    def test_learns_to_tell_images_apart(self, sources: Images) -> None:
        adversary = leader().adversary()
        optimiser = torch.optim.Adam(adversary.parameters(), 1e-3)
        fused, images = sources(2, 1, 16, 16) / 4, sources(2, 2, 16, 16, seed=1)
        paid = []
        for _ in range(20):
            optimiser.zero_grad()
            paid.append(adversary.discriminator_loss(fused, images))
            paid[-1].backward()
            optimiser.step()
        assert paid[-1].item() < paid[0].item() - 0.05

    def test_counts_on_the_meta_device(self) -> None:
        adversary = leader(3).adversary().to("meta")
        fused, images = (torch.empty(2, channels, 8, 8, 8, device="meta") for channels in (1, 2))
        adversary.discriminator_loss(fused, images).backward()
        assert all(parameter.grad is not None for parameter in adversary.parameters())
