"""Steps without labels: they minimise the fusion losses, and move the leader and the discriminators alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from fuse4seg.colour import luma
from fuse4seg.leaders.gate import GateLeader
from fuse4seg.losses.adversarial import generator_loss
from fuse4seg.losses.chroma import chroma_loss
from fuse4seg.losses.decomposition import decomposition_loss
from fuse4seg.losses.strongest_source import intensity_loss, texture_loss
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.networks.leader import Fused
from fuse4seg.recipes.recipe import Losses
from fuse4seg.steps.adversary import OnePerModality
from fuse4seg.steps.bilevel import MAX_NORM
from fuse4seg.steps.fusion import FusionStep

MakeModel = Callable[..., FuseThenSegment]
PAPER = Losses.only(intensity=1, texture=5, decomposition=0.1, adversarial=0.01)
READABLE = replace(PAPER, adversarial=0)


def step_of(model: FuseThenSegment, weights: Losses = PAPER, *, rate: float = 1e-2,
            scaler: torch.amp.GradScaler | None = None) -> FusionStep:
    torch.manual_seed(1)
    adversary = OnePerModality(2, axes=2)
    return FusionStep(model, torch.optim.Adam(model.parameters(), lr=rate), adversary=adversary,
                      discriminator_optimiser=torch.optim.Adam(adversary.parameters(), lr=3e-3), weights=weights,
                      scaler=scaler)


def weights_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in module.state_dict().items()}


def moved(module: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, weight in module.state_dict().items() if not torch.equal(weight, before[name])}


class TestFusionStep:
    def test_brings_the_fused_image_closer_to_its_sources(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        model = tiny_model()
        nn.init.constant_(model.fusion.gate.tint_share.bias, 1.0)  # most of the fused image is tint, and far from the sources
        step = step_of(model)
        before = step.score(batch)
        for _ in range(60):
            step(batch)
        assert step.score(batch) < 0.6 * before

    def test_moves_the_leader_alone(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        # The optimiser holds the follower, too: it has no part in the loss.
        model = tiny_model()
        before = weights_of(model)
        step_of(model)(batch)
        changed = moved(model, before)
        assert {name.split(".")[0] for name in changed} == {"fusion"}
        assert len(changed) > 0.9 * sum(name.startswith("fusion") for name, _ in model.named_parameters())

    def test_minimises_the_weighted_sum_of_the_fusion_losses(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        model = tiny_model()
        weights = Losses.only(intensity=2.0, texture=3.0, decomposition=0.5, adversarial=0.25, chroma=0.75)
        step = step_of(model, weights)
        step.adversary.eval()
        with torch.no_grad():
            seen = model.fuse(batch)
            image = luma(seen.fused.image)
            wanted = {"intensity": intensity_loss(image, seen.sources), "texture": texture_loss(image, seen.sources),
                      "decomposition": decomposition_loss(seen.fused.low, seen.fused.high),
                      "adversarial": generator_loss([network(image) for network in step.adversary.each]),
                      "chroma": chroma_loss(seen.fused.image, seen.inside)}
        readable = 2 * wanted["intensity"] + 3 * wanted["texture"] + 0.5 * wanted["decomposition"] + 0.75 * wanted["chroma"]
        assert step.score(batch) == pytest.approx(readable.item(), rel=1e-5)
        report = step(batch)
        assert report["fusion"] == pytest.approx((readable + 0.25 * wanted["adversarial"]).item(), rel=1e-5)
        assert {name: report[name] for name in wanted} == pytest.approx(
            {name: value.item() for name, value in wanted.items()}, rel=1e-5)

    def test_follows_the_clipped_gradient(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        heavy = Losses.only(intensity=1e4)
        model, twin = tiny_model(), tiny_model()
        step = FusionStep(model, torch.optim.SGD(model.fusion.parameters(), lr=0.5), weights=heavy)
        seen = twin.fuse(batch)
        parameters = list(twin.fusion.parameters())
        gradients = torch.autograd.grad(1e4 * intensity_loss(luma(seen.fused.image), seen.sources), parameters, allow_unused=True)
        norm = torch.stack([gradient.norm() for gradient in gradients if gradient is not None]).norm()
        assert norm > MAX_NORM
        step(batch)
        for weight, old, gradient in zip(model.fusion.parameters(), parameters, gradients, strict=True):
            expected = old if gradient is None else old - 0.5 * gradient * MAX_NORM / norm
            torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-6)

    def test_teaches_each_discriminator_unless_their_loss_is_left_out(self, tiny_model: MakeModel,
                                                                      batch: torch.Tensor) -> None:
        step = step_of(tiny_model(), rate=1e-5)
        discriminators = step.adversary.each
        before = [weights_of(network) for network in discriminators]
        losses = [step(batch)["discriminator"] for _ in range(20)]
        assert losses[-1] < losses[0]
        assert all(moved(network, old) for network, old in zip(discriminators, before, strict=True))
        assert not {"discriminator", "adversarial"} & step_of(tiny_model(), READABLE)(batch).keys()

    def test_passes_over_what_stands_in_absent_modalities(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        present = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
        spoilt = torch.where(present[:, :, None, None], batch, torch.full_like(batch, 50))
        models = [tiny_model(), tiny_model()]
        reports = [step_of(model)(given, present) for model, given in zip(models, (batch, spoilt), strict=True)]
        assert reports[0] == reports[1]
        for weight, wanted in zip(models[1].parameters(), models[0].parameters(), strict=True):
            assert torch.equal(weight, wanted)
        assert step_of(tiny_model())(batch)["fusion"] != reports[0]["fusion"]
        found, wanted, whole = (step_of(models[0]).score(*given) for given in ((spoilt, present), (batch, present), (batch,)))
        assert found == wanted != whole

    def test_is_the_same_under_a_gradient_scaler(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        plain, scaled = tiny_model(), tiny_model()
        step_of(plain)(batch)
        step_of(scaled, scaler=torch.amp.GradScaler("cpu"))(batch)
        for weight, wanted in zip(scaled.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(weight, wanted, rtol=1e-4, atol=1e-5)

    def test_adds_the_leader_s_own_losses_by_their_weight(self, tiny_model: MakeModel, batch: torch.Tensor,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
        """They are asked of what was fused, the sources, and who has which."""
        asked = []

        def own(_: GateLeader, fused: Fused, sources: torch.Tensor, present: torch.Tensor | None) -> dict[str, torch.Tensor]:
            asked.append((fused, sources, present))
            return {"dark": fused.image.mean(), "twice": 2 * sources.mean()}

        monkeypatch.setattr(GateLeader, "losses", own)
        model, present = tiny_model(), torch.tensor([[True, True], [True, False]] * 2)
        with torch.no_grad():
            seen = model.fuse(batch, present=present)
        wanted = float(seen.fused.image.mean() + 2 * seen.sources.mean())
        report = step_of(model, Losses.only(own=0.25))(batch, present)
        assert (report["own"], report["fusion"]) == pytest.approx((wanted, 0.25 * wanted), rel=1e-5)
        assert torch.equal(asked[0][1], seen.sources)
        assert torch.equal(asked[0][2], present)
        step_of(tiny_model(), READABLE)(batch)
        assert len(asked) == 1  # not of weight 0

    def test_score_moves_nothing(self, tiny_model: MakeModel, batch: torch.Tensor) -> None:
        model = tiny_model()
        step, before = step_of(model), weights_of(model)
        assert step.score(batch) == step.score(batch)
        assert moved(model, before) == set()
        assert all(weight.grad is None for weight in model.parameters())
