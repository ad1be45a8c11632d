"""DDcGAN: its size, its content losses by NumPy, and its game."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fuse4seg.leaders.ddcgan import DDcGAN
from fuse4seg.networks.pair_leader import Fold
from fuse4seg.recipes.reading import read_recipe
from fuse4seg.steps.fusion import FusionStep
from tests.leaders.pairs import maker_of

Images = Callable[..., torch.Tensor]
leader = maker_of(DDcGAN)


def test_has_the_parameters_that_later_papers_count() -> None:
    """1.098 million; the paper's deconvolutions, which images of one resolution do not need, would be some dozens."""
    count = sum(parameter.numel() for parameter in leader().parameters())
    kernels = 9 * (48 * (2 + 48 * (1 + 2 + 3 + 4)) + 240 * 240 + 240 * 128 + 128 * 64 + 64 * 32 + 32)
    # Each feature has a bias, and a scale and a shift in its normalisation, but for the image.
    assert count == kernels + 3 * (5 * 48 + 240 + 128 + 64 + 32) + 1
    assert count == pytest.approx(1.098e6, rel=0.001)


class TestForward:
    def test_takes_the_reference_for_the_image_whose_texture_is_kept(self, sources: Images) -> None:
        images = sources(1, 2, 8, 8)
        folds = [leader(reference=reference)(images).own[0] for reference in (0, 1)]
        assert torch.equal(folds[0].first, images[:, :1])
        assert torch.equal(folds[1].first, images[:, 1:])


class TestLosses:
    @pytest.mark.parametrize("size", [(6, 9), (3, 5, 4)])
    def test_are_the_paper_s(self, sources: Images, size: tuple[int, ...]) -> None:
        first, second, fused = (sources(2, 1, *size, seed=seed) for seed in range(3))
        losses = leader(len(size), texture=1.2).pair_losses(Fold(first, second, fused, None))
        difference = (fused - first).numpy()
        variation = sum(np.abs(np.diff(difference, axis=axis)).sum() for axis in range(2, difference.ndim))
        assert losses["intensities"].item() == pytest.approx(np.square((fused - second).numpy()).mean(), rel=1e-5)
        assert losses["texture"].item() == pytest.approx(1.2 * variation / difference.size, rel=1e-5)

    def test_allow_any_brightness_beside_the_texture(self, sources: Images) -> None:
        """The image of the least loss has the texture of one and the mean of the other."""
        first, second = sources(1, 1, 8, 8) / 2, sources(1, 1, 8, 8, seed=1) / 2 + 0.5
        ideal = first - first.mean() + second.mean()
        assert leader().pair_losses(Fold(first, second, ideal, None))["texture"].item() == pytest.approx(0, abs=1e-6)

    def test_have_the_published_proportion_to_the_adversarial_loss(self) -> None:
        """Half of norms that are sums over 84 x 84 pixels; here means."""
        recipe = read_recipe("ddcgan")
        assert recipe.leader.texture == 1.2
        assert recipe.losses.own / recipe.losses.adversarial == pytest.approx(0.5 * 84**2, rel=0.02)

    def test_fall_in_training_by_the_recipe(self, fusion_step: Callable[..., FusionStep], sources: Images) -> None:
        step, batch = fusion_step("ddcgan", "leader.rate=1e-3"), sources(2, 2, 16, 16)
        reports = [step(batch) for _ in range(12)]
        assert reports[-1]["fusion"] < 0.7 * reports[0]["fusion"]
        assert reports[-1]["discriminator"] < reports[0]["discriminator"]


class TestAdversary:
    def test_is_undecided_at_first(self, sources: Images) -> None:
        """Logits of 0: log 1/2 of each is what the leader gets, and log 4 of each what the discriminators pay."""
        adversary = leader().adversary()
        for discriminator in (adversary.visible, adversary.infrared):
            nn.init.zeros_(discriminator.layers[-1].weight)
            nn.init.zeros_(discriminator.layers[-1].bias)
        fused, images = sources(2, 1, 16, 16), sources(2, 2, 16, 16, seed=1)
        assert adversary.generator_loss(fused, images).item() == pytest.approx(2 * math.log(1 / 2))
        assert adversary.discriminator_loss(fused, images).item() == pytest.approx(2 * math.log(4))

    def test_weighs_by_the_probabilities_of_a_tanh(self, sources: Images) -> None:
        adversary = leader().adversary().eval()
        fused, images = sources(2, 1, 16, 16), sources(2, 2, 16, 16, seed=1)
        made, real = 0.0, 0.0
        for discriminator, source in zip((adversary.visible, adversary.infrared), images.split(1, dim=1), strict=True):
            chances = [(discriminator(image).tanh() / 2 + 0.5).detach().numpy() for image in (fused, source)]
            made += np.log(1 - chances[0]).mean()
            real += np.log(chances[1]).mean()
        assert adversary.generator_loss(fused, images).item() == pytest.approx(made, rel=1e-5)
        assert adversary.discriminator_loss(fused, images).item() == pytest.approx(-made - real, rel=1e-5)

    @pytest.mark.parametrize("reference", [0, 1])
    def test_knows_which_is_which(self, sources: Images, reference: int) -> None:
        """Where the infrared one is sure of the reference and of nothing else, it is found out."""
        adversary = leader(reference=reference).adversary()
        images = sources(2, 2, 16, 16)
        optimiser = torch.optim.Adam(adversary.parameters(), 1e-3)
        for _ in range(30):
            optimiser.zero_grad()
            adversary.discriminator_loss(torch.zeros(2, 1, 16, 16), images).backward()
            optimiser.step()
        values = [[discriminator(images[:, index:index + 1]).mean() for index in (reference, 1 - reference)]
                  for discriminator in (adversary.visible, adversary.infrared)]
        assert values[0][0] > 0
        assert values[1][1] > 0

    def test_leaves_out_what_is_absent(self, sources: Images) -> None:
        adversary = leader(modalities=3).adversary().eval()
        fused, images = sources(2, 1, 16, 16), sources(2, 3, 16, 16, seed=1)
        present = torch.tensor([[True, False, True], [False, True, False]])
        spoilt = images.masked_fill(~present.view(2, 3, 1, 1), 0.7)
        for loss in (adversary.generator_loss, adversary.discriminator_loss):
            torch.testing.assert_close(loss(fused, spoilt, present), loss(fused, images, present))
            assert not torch.equal(loss(fused, spoilt, present), loss(fused, images))

    def test_counts_on_the_meta_device(self) -> None:
        adversary = leader(3).adversary().to("meta")
        fused, images = (torch.empty(2, channels, 8, 8, 8, device="meta") for channels in (1, 2))
        adversary.discriminator_loss(fused, images).backward()
        assert all(parameter.grad is not None for parameter in adversary.parameters())
