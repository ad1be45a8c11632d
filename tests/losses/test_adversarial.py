"""The adversarial losses: against the formula as written, and where that overflows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fuse4seg.losses.adversarial import discriminator_loss, generator_loss


def random_logits(*, seed: int, modalities: int = 3) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(2, 1, 4, 5 + modality, generator=random) for modality in range(modalities)]


def probabilities(logits: torch.Tensor) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.double().numpy()))


class TestGeneratorLoss:
    def test_matches_the_formula_summed_over_modalities(self) -> None:
        logits = random_logits(seed=0)
        expected = sum(np.log(1 - probabilities(made)).mean() for made in logits)
        assert generator_loss(logits).item() == pytest.approx(expected, rel=1e-5)

    def test_falls_as_the_discriminator_is_fooled(self) -> None:
        losses = [generator_loss([torch.full((1, 1, 2, 2), logit)]).item() for logit in (-5.0, 0.0, 5.0)]
        assert losses == sorted(losses, reverse=True)
        assert losses[1] == pytest.approx(-math.log(2))

    @pytest.mark.parametrize(("logit", "loss", "slope"), [(1e4, -1e4, -1.0), (-1e4, 0.0, 0.0)])
    def test_is_finite_for_extreme_logits(self, logit: float, loss: float, slope: float) -> None:
        logits = torch.full((1,), logit, requires_grad=True)
        value = generator_loss([logits])
        value.backward()
        assert (value.item(), logits.grad.item()) == (loss, slope)


class TestDiscriminatorLoss:
    def test_matches_the_formula_summed_over_modalities(self) -> None:
        real, fake = random_logits(seed=0), random_logits(seed=1)
        expected = -sum(np.log(probabilities(one)).mean() + np.log(1 - probabilities(other)).mean()
                        for one, other in zip(real, fake, strict=True))
        assert discriminator_loss(real, fake).item() == pytest.approx(expected, rel=1e-5)

    def test_is_log_four_per_modality_when_undecided(self) -> None:
        undecided = [torch.zeros(1, 1, 3, 3)] * 2
        assert discriminator_loss(undecided, undecided).item() == pytest.approx(2 * math.log(4))

    def test_is_finite_when_it_is_utterly_wrong(self) -> None:
        real, fake = torch.full((1,), -1e4, requires_grad=True), torch.full((1,), 1e4, requires_grad=True)
        value = discriminator_loss([real], [fake])
        value.backward()
        assert (value.item(), real.grad.item(), fake.grad.item()) == (2e4, -1.0, 1.0)

    def test_refuses_different_numbers_of_modalities(self) -> None:
        with pytest.raises(ValueError, match="shorter|longer"):
            discriminator_loss(random_logits(seed=0), random_logits(seed=1, modalities=2))
