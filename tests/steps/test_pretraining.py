"""Stage 1: what moves, what it learns, and that Eq. 9 is what it minimises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from fuse4seg.leaders.gate import GateLeader
from fuse4seg.losses.adversarial import generator_loss
from fuse4seg.losses.decomposition import decomposition_loss
from fuse4seg.losses.ssim import content_loss
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.recipes.reading import read_recipe
from fuse4seg.recipes.recipe import Pretraining
from fuse4seg.steps.adversary import OnePerModality
from fuse4seg.steps.pretraining import PretrainingStep

MakeModel = Callable[..., FuseThenSegment]

USUAL = read_recipe("fuse4seg").pretraining


def step_of(model: FuseThenSegment, weights: Pretraining = USUAL, *, rate: float = 1e-2) -> PretrainingStep:
    adversary = OnePerModality(2, axes=2)
    return PretrainingStep(model, torch.optim.Adam(model.parameters(), lr=rate), adversary=adversary,
                           discriminator_optimiser=torch.optim.Adam(adversary.parameters(), lr=rate),
                           weights=weights)


def copy_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in module.state_dict().items()}


def moved(module: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, weight in module.state_dict().items() if not torch.equal(weight, before[name])}


class TestPretrainingStep:
    def test_learns_to_put_every_modality_together_again(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        step = step_of(tiny_model())
        contents = [step(batch)["content"] for _ in range(40)]
        assert contents[-1] < 0.7 * contents[0]

    def test_moves_encoder_and_decoder_and_nothing_else(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        # The optimiser holds the whole model: what has no part in stage 1 has no gradient either.
        model = tiny_model()
        before = copy_of(model)
        step_of(model)(batch)
        assert {".".join(name.split(".")[:2]) for name in moved(model, before)} == {"fusion.encoder", "fusion.decoder"}

    def test_minimises_eq_9(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        model = tiny_model()
        step = step_of(model, replace(USUAL, adversarial=0.3, decomposition=0.25))
        step.adversary.eval()
        with torch.no_grad():
            sources, _ = model.window(batch)
            images, low, high = model.fusion.reconstruct(sources)
            content, decomposition = content_loss(images, sources), decomposition_loss(low, high)
            adversarial = generator_loss([network(images[:, index:index + 1])
                                          for index, network in enumerate(step.adversary.each)])
        report = step(batch)
        total = 0.3 * adversarial + 0.25 * decomposition + 0.75 * content
        assert report["total"] == pytest.approx(total.item(), rel=1e-5)
        assert report["content"] == pytest.approx(content.item(), rel=1e-5)
        assert report["adversarial"] == pytest.approx(adversarial.item(), rel=1e-5)

    def test_teaches_each_discriminator_its_own_modality(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        step = step_of(tiny_model(), rate=3e-3)
        before = [copy_of(network) for network in step.adversary.each]
        losses = [step(batch)["discriminator"] for _ in range(20)]
        assert all(moved(network, old) for network, old in zip(step.adversary.each, before, strict=True))
        assert losses[-1] < losses[0]

    def test_leaves_discriminators_alone_with_weight_0(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        step = step_of(tiny_model(), replace(USUAL, adversarial=0))
        before = copy_of(step.adversary)
        assert set(step(batch)) == {"total", "content", "decomposition"}
        assert moved(step.adversary, before) == set()

    def test_teaches_by_the_leader_s_own_losses_where_the_recipe_says_so(self, tiny_model: MakeModel, batch: torch.Tensor,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
        def own(leader: GateLeader, sources: torch.Tensor, present: None = None) -> dict[str, torch.Tensor]:
            images, *_ = leader.reconstruct(sources)
            return {"near": (images - sources).square().mean(), "dark": 0.5 * images.mean()}

        monkeypatch.setattr(GateLeader, "pretraining_losses", own)
        model, twin = tiny_model(), tiny_model()
        wanted = own(twin.fusion, twin.window(batch)[0])
        step = step_of(model, replace(USUAL, own=True))
        before = copy_of(step.adversary)
        report = step(batch)
        assert report.keys() == {"total", "near", "dark"}
        values = {name: float(part) for name, part in {"total": sum(wanted.values()), **wanted}.items()}
        assert report == pytest.approx(values, rel=1e-5)
        assert moved(step.adversary, before) == set()
        losses = [step(batch)["total"] for _ in range(20)]
        assert losses[-1] < 0.8 * report["total"]

    def test_passes_over_what_stands_in_absent_modalities(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        present = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
        spoilt = torch.where(present[:, :, None, None], batch, torch.full_like(batch, torch.nan))
        reports, models = [], [tiny_model(), tiny_model()]
        for model, given in zip(models, (batch, spoilt), strict=True):
            torch.manual_seed(3)  # of the discriminators
            step = step_of(model)
            reports.append([step(given, present), step(given, present)])
        assert reports[0] == reports[1]
        for weight, wanted in zip(models[1].parameters(), models[0].parameters(), strict=True):
            assert torch.equal(weight, wanted)

    def test_changes_no_bit_where_nothing_is_absent(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        reports, models = [], [tiny_model(), tiny_model()]
        for model, present in zip(models, (None, torch.ones(4, 2, dtype=torch.bool)), strict=True):
            torch.manual_seed(3)
            reports.append(step_of(model)(batch, present))
        assert reports[0] == reports[1]
        for weight, wanted in zip(models[1].parameters(), models[0].parameters(), strict=True):
            assert torch.equal(weight, wanted)

    def test_does_not_look_at_a_cascade_s_channels(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        plain, cascaded = (step_of(tiny_model(extra=1), replace(USUAL, adversarial=0)) for _ in range(2))
        first, second = (torch.cat([batch, torch.full((4, 1, 16, 16), value)], dim=1) for value in (0.0, 1.0))
        assert plain(first) == cascaded(second)

    def test_leaves_no_gradients_behind(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        model = tiny_model()
        step_of(model)(batch)
        assert all(parameter.grad is None for parameter in model.parameters())
