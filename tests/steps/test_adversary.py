"""Discriminators of one modality each: who judges which samples, what the leader and they minimise, and how they learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fuse4seg.losses.adversarial import discriminator_loss, generator_loss
from fuse4seg.steps.adversary import OnePerModality, teach

#: Of three samples, each of which lacks another of the first two of three modalities, and the third one.
PRESENT = torch.tensor([[True, False, False], [False, True, False], [True, True, False]])


def adversary(modalities: int = 2, *, axes: int = 2) -> OnePerModality:
    """In evaluation mode, where spectral normalisation does not move: the same weights give the same logits."""
    torch.manual_seed(0)
    return OnePerModality(modalities, axes=axes).eval()


class TestOnePerModality:
    @pytest.mark.parametrize("size", [(16, 12), (8, 8, 8)])
    def test_asks_each_about_the_same_image(self, size: tuple[int, ...]) -> None:
        judges, fused, sources = adversary(axes=len(size)), torch.rand(2, 1, *size), torch.rand(2, 2, *size)
        fake = [judge(fused) for judge in judges.each]
        real = [judge(sources[:, index:index + 1]) for index, judge in enumerate(judges.each)]
        assert torch.equal(judges.generator_loss(fused, sources), generator_loss(fake))
        assert torch.equal(judges.discriminator_loss(fused, sources), discriminator_loss(real, fake))

    def test_may_be_shown_an_image_for_each(self) -> None:
        judges, sources = adversary(), torch.rand(2, 2, 16, 16)
        fakes = torch.rand(2, 2, 16, 16).split(1, dim=1)
        fake = [judge(image) for judge, image in zip(judges.each, fakes, strict=True)]
        real = [judge(image) for judge, image in zip(judges.each, sources.split(1, dim=1), strict=True)]
        assert torch.equal(judges.against_fakes(fakes), generator_loss(fake))
        assert torch.equal(judges.loss_of_fakes(fakes, sources), discriminator_loss(real, fake))
        assert judges.against_fakes(fakes) != judges.against_fakes(fakes[::-1])

    def test_shows_each_the_samples_that_have_its_modality(self) -> None:
        judges, fused, sources = adversary(3), torch.rand(3, 1, 16, 16), torch.rand(3, 3, 16, 16)
        first, second, _ = judges.each
        fake = [first(fused[[0, 2]]), second(fused[[1, 2]])]
        real = [first(sources[[0, 2], :1]), second(sources[[1, 2], 1:2])]
        assert torch.equal(judges.generator_loss(fused, sources, PRESENT), generator_loss(fake))
        assert torch.equal(judges.discriminator_loss(fused, sources, PRESENT), discriminator_loss(real, fake))

    def test_leaves_the_one_whose_modality_no_sample_has_as_it_is(self) -> None:
        judges = adversary(3)
        judges.discriminator_loss(torch.rand(3, 1, 16, 16), torch.rand(3, 3, 16, 16), PRESENT).backward()
        taught = [any(weight.grad is not None for weight in judge.parameters()) for judge in judges.each]
        assert taught == [True, True, False]

    def test_judges_what_it_learns_from_in_full_precision(self) -> None:
        judges, fused, sources = adversary(), torch.rand(2, 1, 16, 16), torch.rand(2, 2, 16, 16)
        half = judges.discriminator_loss(fused.bfloat16(), sources.bfloat16())
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, judges.discriminator_loss(fused.bfloat16().float(), sources.bfloat16().float()))


class TestTeach:
    def test_makes_discriminators_better_with_every_step_on_the_same_images(self) -> None:
        judges = adversary()
        optimiser = torch.optim.SGD(judges.parameters(), lr=1e-2)
        sources, fakes = torch.rand(2, 2, 16, 16), [torch.rand(2, 1, 16, 16) / 2] * 2
        losses = [teach(optimiser, judges.loss_of_fakes(fakes, sources)) for _ in range(5)]
        assert losses == sorted(losses, reverse=True)
        assert not losses[0].requires_grad

    def test_gives_the_loss_before_the_step_follows_its_gradient_alone_and_leaves_none(self) -> None:
        weight = nn.Parameter(torch.tensor(3.0))
        weight.grad = torch.tensor(100.0)  # as a leader's loss leaves one
        assert teach(torch.optim.SGD([weight], lr=0.1), weight**2) == 9
        assert weight.item() == pytest.approx(3 - 0.1 * 6)
        assert weight.grad is None
