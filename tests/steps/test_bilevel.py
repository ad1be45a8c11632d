"""The bi-level step: which half moves which level, and what mixed precision and clipping change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fuse4seg.colour import luma
from fuse4seg.losses.adversarial import discriminator_loss, generator_loss
from fuse4seg.losses.chroma import chroma_loss
from fuse4seg.losses.fusion import fusion_loss
from fuse4seg.networks.decoder import AuxiliaryHead
from fuse4seg.networks.fuse_then_segment import FuseThenSegment, Seen
from fuse4seg.networks.leader import Fused
from fuse4seg.networks.pair_leader import Fold
from fuse4seg.recipes.reading import read_recipe
from fuse4seg.recipes.recipe import Losses
from fuse4seg.steps.adversary import OnePerModality
from fuse4seg.steps.bilevel import (
    MAX_NORM,
    AuxiliaryLoss,
    BilevelStep,
    Level,
    Samples,
    background_of,
    fusion_loss_of,
    half,
)
from fuse4seg.steps.hypergradients import DETACHED, ESTIMATORS, NEEDS_HALVES
from fuse4seg.steps.viewing import UNCHANGED, as_viewed

MakeModel = Callable[..., FuseThenSegment]
#: Deep supervision's heads have no part in one logit image.
UNUSED = {"allow_unused": True, "materialize_grads": True}
PAPER = Losses.only(intensity=1, texture=5, decomposition=0.1, adversarial=0.01)
every_estimator = pytest.mark.parametrize("hypergradient", ESTIMATORS)
#: Those under which the leader learns from the task.
every_teaching_estimator = pytest.mark.parametrize("hypergradient", [name for name in ESTIMATORS if name not in DETACHED])


class RecordingSGD(torch.optim.SGD):
    """SGD that remembers the gradients it was given last."""

    given: list[torch.Tensor]

    def step(self, closure: Any = None) -> Any:
        given = [parameter for group in self.param_groups for parameter in group["params"] if parameter.grad is not None]
        self.given = [parameter.grad.clone() for parameter in given]
        return super().step(closure)


def step_of(model: FuseThenSegment, *, leader_rate: float = 1e-3, follower_rate: float = 1e-2,
            loss: Callable[..., torch.Tensor] = cross_entropy, adversary: OnePerModality | None = None,
            auxiliary: AuxiliaryLoss | None = None, scaler: torch.amp.GradScaler | None = None, autocast: Any = None,
            losses: Losses = PAPER, **settings: Any) -> BilevelStep:
    chosen = replace(read_recipe("fuse4seg").bilevel, **{"hypergradient": "joint", "fusion_weight": 0.1, **settings})
    of_the_head = list(auxiliary.head.parameters()) if auxiliary is not None else []
    levels = [Level(parameters, RecordingSGD(parameters, lr=rate, momentum=0.9))
              for parameters, rate in (([*model.fusion.parameters(), *of_the_head], leader_rate),
                                       (list(model.segmentation.parameters()), follower_rate))]
    optimiser = RecordingSGD(adversary.parameters(), lr=1e-2) if adversary is not None else None
    extra = {} if autocast is None else {"autocast": autocast}
    return BilevelStep(model, loss, leader=levels[0], follower=levels[1], adversary=adversary,
                       discriminator_optimiser=optimiser, auxiliary=auxiliary, settings=chosen, losses=losses,
                       scaler=scaler, **extra)


def with_channel(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy on labels (B, 1, *S), as nnU-Net keeps them."""
    return cross_entropy(logits, labels[:, 0].long())


def auxiliary_loss() -> AuxiliaryLoss:
    torch.manual_seed(5)
    return AuxiliaryLoss(AuxiliaryHead(nn.Conv2d, 4, classes=2), with_channel)


def norm_of(gradients: list[torch.Tensor]) -> float:
    return torch.cat([gradient.flatten() for gradient in gradients]).norm().item()


def assert_same(gradients: list[torch.Tensor], expected: tuple[torch.Tensor, ...], *, relative: float = 1e-4) -> None:
    """Equal up to a part of the largest expected value."""
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=relative * max(part.abs().max() for part in expected))


def gradient_of(loss: torch.Tensor, module: nn.Module) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, list(module.parameters()), **UNUSED)


def fusion_objective(model: FuseThenSegment, batch: torch.Tensor) -> torch.Tensor:
    seen = model.fuse(batch)
    return fusion_loss(seen.fused.image, seen.sources, streams=(seen.fused.low, seen.fused.high), weights=PAPER,
                       tissue=seen.inside)[0]


class TestHalf:
    @pytest.mark.parametrize("size", [2, 3, 4, 7])
    def test_the_two_are_disjoint_interleaved_and_all_there_is(self, size: int) -> None:
        batch = torch.arange(size).view(size, 1)
        whole = Samples(batch, batch + 100, present=batch % 3 > 0, flips=batch % 5 > 2, viewing=batch / 7)
        lower, upper = (half(whole, offset=offset) for offset in (0, 1))
        assert lower.batch.flatten().tolist() == list(range(0, size, 2))
        assert upper.batch.flatten().tolist() == list(range(1, size, 2))
        for part in (lower, upper):
            assert torch.equal(part.targets, part.batch + 100)
            assert torch.equal(part.present, part.batch % 3 > 0)
            assert torch.equal(part.flips, part.batch % 5 > 2)
            assert torch.equal(part.viewing, part.batch / 7)

    def test_splits_every_resolution_of_deep_supervision(self) -> None:
        targets = [torch.arange(4), torch.arange(4) + 10]
        split = half(Samples(torch.rand(4, 1), targets), offset=1)
        assert (split.present, split.flips, split.viewing) == (None, None, None)
        assert [part.tolist() for part in split.targets] == [[1, 3], [11, 13]]

    def test_goes_into_whatever_a_leader_s_own_losses_look_at(self) -> None:
        """Folds of a pair leader are named tuples in a tuple; another leader may give a dictionary, or a name."""
        numbers = torch.arange(4)
        fold = Fold(numbers, numbers + 10, numbers + 20, own={"deep": [numbers + 30], "none": None, "name": "a"})
        seen = Seen(numbers, numbers, Fused(numbers, own=(fold, fold)), numbers)
        (first, second), odd = half(seen, offset=1).fused.own, torch.tensor([1, 3])
        assert isinstance(first, Fold)
        assert [part.tolist() for part in (first.first, first.second, first.image)] == [[1, 3], [11, 13], [21, 23]]
        assert first.own.keys() == {"deep", "none", "name"}
        assert torch.equal(second.own["deep"][0], odd + 30)
        assert (first.own["none"], first.own["name"], half(None, offset=0)) == (None, "a", None)


class TestFlips:
    def test_follower_sees_fused_image_and_labels_mirrored(self, tiny_model: MakeModel, batch: torch.Tensor,
                                                           targets: torch.Tensor) -> None:
        model, flips = tiny_model(), torch.tensor([[False, True], [True, False]]).repeat(2, 1)
        with torch.no_grad():
            lower, upper = (cross_entropy(model.segment(model.fuse(batch[offset::2]).fused.image.flip(axis)),
                                          targets[offset::2].flip(axis - 1)).item() for offset, axis in ((0, 3), (1, 2)))
        report = step_of(model, loss=with_channel, hypergradient="gauss_newton")(batch, targets[:, None], flips=flips)
        assert (report["lower"], report["upper"]) == pytest.approx((lower, upper), rel=1e-5)

    def test_every_resolution_of_the_labels_is_mirrored(self) -> None:
        labels = [torch.rand(2, 1, 4, 4), torch.rand(2, 1, 2, 2)]
        seen = Samples(torch.rand(2, 1, 4, 4), labels, flips=torch.tensor([[True, True]] * 2)).seen_targets
        assert all(torch.equal(part, whole.flip(2, 3)) for part, whole in zip(seen, labels, strict=True))


#: Of four samples; without noise, so that nothing is drawn in the step.
VIEWING = torch.tensor([[0.9, 1.2, 1.0, 0.0, 0.0], [0.0, 0.8, 1.1, -0.05, 0.0], [0.5, 1.0, 0.9, 0.05, 0.0], [*UNCHANGED]])


class TestViewing:
    @every_estimator
    def test_changes_what_the_follower_sees_and_nothing_else(self, hypergradient: str, tiny_model: MakeModel,
                                                             batch: torch.Tensor, targets: torch.Tensor) -> None:
        """The fusion losses look at the image as it is exported."""
        model, halves = tiny_model(), hypergradient in NEEDS_HALVES
        below, above = (slice(0, None, 2), slice(1, None, 2)) if halves else (slice(None),) * 2
        with torch.no_grad():
            viewed = as_viewed(model.fuse(batch).fused.image, VIEWING)
            lower, upper = (cross_entropy(model.segment(viewed[part]), targets[part]).item() for part in (below, above))
            plain = cross_entropy(model(batch[below]), targets[below]).item()
            fusion = fusion_objective(model, batch[above]).item()
        assert abs(lower - plain) > 1e-4
        report = step_of(model, loss=with_channel, hypergradient=hypergradient)(batch, targets[:, None], viewing=VIEWING)
        assert (report["upper"], report["fusion"]) == pytest.approx((upper, fusion), rel=1e-5)
        assert report.get("lower") == (pytest.approx(lower, rel=1e-5) if halves else None)

    def test_comes_before_mirroring(self, tiny_model: MakeModel, batch: torch.Tensor, targets: torch.Tensor) -> None:
        model, flips = tiny_model(), torch.tensor([[True, False]] * 4)
        with torch.no_grad():
            viewed = as_viewed(model.fuse(batch).fused.image, VIEWING)
            task = cross_entropy(model.segment(viewed.flip(2)), targets.flip(1)).item()
        report = step_of(model, loss=with_channel)(batch, targets[:, None], flips=flips, viewing=VIEWING)
        assert report["upper"] == pytest.approx(task, rel=1e-5)

    @every_estimator
    def test_that_changes_nothing_is_none(self, hypergradient: str, tiny_model: MakeModel, batch: torch.Tensor,
                                          targets: torch.Tensor) -> None:
        models = [tiny_model(), tiny_model()]
        reports = [step_of(model, hypergradient=hypergradient)(batch, targets, viewing=viewing)
                   for model, viewing in zip(models, (None, torch.tensor([UNCHANGED] * 4)), strict=True)]
        assert reports[0] == pytest.approx(reports[1], rel=1e-6)
        for weight, wanted in zip(models[1].parameters(), models[0].parameters(), strict=True):
            torch.testing.assert_close(weight, wanted)

    def test_leaves_the_leader_the_task_s_gradient(self, tiny_model: MakeModel, batch: torch.Tensor,
                                                   targets: torch.Tensor) -> None:
        model = tiny_model()
        task = cross_entropy(model.segment(as_viewed(model.fuse(batch).fused.image, VIEWING)), targets)
        expected = gradient_of(task, model.fusion)
        step = step_of(model, fusion_weight=0)
        step(batch, targets, viewing=VIEWING)
        assert_same(step.leader.optimiser.given, expected)


class TestTissue:
    @pytest.mark.parametrize("several", [False, True])
    def test_is_where_no_label_holds_anything(self, several: bool) -> None:
        """Labels are one channel, regions are several; under deep supervision the finest count."""
        labels = torch.tensor([[[0, 2, 0]], [[1, 0, -1]]])[:, :, None]
        assert background_of(labels).tolist() == [[[[True, False, True]]], [[[False, True, False]]]]
        regions = torch.tensor([[[0, 1, 0]], [[0, 1, 1]]]).movedim(0, 1)[:, :, None]
        found = background_of([regions, regions[..., :1]] if several else regions)
        assert found.tolist() == [[[[True, False, False]]]]

    @pytest.mark.parametrize("labelled", [True, False])
    def test_is_the_image_s_background_or_all_of_it_without_labels(self, labelled: bool, tiny_model: MakeModel,
                                                                   batch: torch.Tensor, targets: torch.Tensor) -> None:
        model = tiny_model()
        batch[..., :4] = 0
        with torch.no_grad():
            seen = model.fuse(batch)
            _, parts = fusion_loss_of(model, seen, None, weights=read_recipe("fuse4seg").losses,
                                      targets=targets[:, None] if labelled else None)
        background = torch.arange(16) >= 4 if not labelled else (torch.arange(16) >= 4) & (targets[:, None] == 0)
        assert parts["chroma"] == chroma_loss(seen.fused.image, background.expand(4, 1, 16, 16).float())
        assert set(parts) == {"edges", "balance", "scd", "chroma"}

    def test_in_a_step_is_that_of_the_leader_s_samples(self, tiny_model: MakeModel, batch: torch.Tensor,
                                                       targets: torch.Tensor) -> None:
        for hypergradient, part in (("joint", slice(None)), ("gauss_newton", slice(1, None, 2))):
            model = tiny_model()
            with torch.no_grad():
                seen = model.fuse(batch[part])
                expected = chroma_loss(seen.fused.image, (targets[part, None] == 0).float()).item()
            report = step_of(model, loss=with_channel, hypergradient=hypergradient,
                             losses=read_recipe("fuse4seg").losses)(batch, targets[:, None])
            assert report["chroma"] == pytest.approx(expected, rel=1e-5)


class TestReport:
    def test_losses_are_those_of_each_half_before_the_step(self, tiny_model: MakeModel, batch: torch.Tensor,
                                                          targets: torch.Tensor) -> None:
        model = tiny_model()
        with torch.no_grad():
            lower, upper = (cross_entropy(model(batch[offset::2]), targets[offset::2]).item() for offset in (0, 1))
            fusion = fusion_objective(model, batch[1::2]).item()
        report = step_of(model, hypergradient="gauss_newton")(batch, targets)
        assert (report["lower"], report["upper"], report["fusion"]) == pytest.approx((lower, upper, fusion), rel=1e-5)

    @pytest.mark.parametrize("hypergradient", ["joint", "none"])
    def test_loss_of_both_levels_on_one_batch_is_that_of_the_whole_and_told_once(self, hypergradient: str, tiny_model: MakeModel,
                                                                       batch: torch.Tensor, targets: torch.Tensor) -> None:
        model = tiny_model()
        with torch.no_grad():
            task, fusion = cross_entropy(model(batch), targets).item(), fusion_objective(model, batch).item()
        report = step_of(model, hypergradient=hypergradient)(batch, targets)
        assert (report["upper"], report["fusion"]) == pytest.approx((task, fusion), rel=1e-5)
        assert "lower" not in report

    @pytest.mark.parametrize(("hypergradient", "adversarial", "more"), [
        ("joint", False, set()), ("joint", True, {"adversarial", "discriminator"}),
        ("none", False, set()), ("none", True, {"adversarial", "discriminator"}),
        ("gauss_newton", False, {"lower", "ratio"}), ("gauss_newton", True, {"adversarial", "discriminator", "lower", "ratio"}),
    ])
    def test_names_every_loss(self, hypergradient: str, adversarial: bool, more: set[str], tiny_model: MakeModel,
                              batch: torch.Tensor, targets: torch.Tensor) -> None:
        adversary = OnePerModality(2, axes=2) if adversarial else None
        report = step_of(tiny_model(), hypergradient=hypergradient, adversary=adversary)(batch, targets)
        assert set(report) == {"upper", "fusion", "intensity", "texture", "decomposition"} | more
        assert all(isinstance(value, float) for value in report.values())


class TestLearning:
    @every_estimator
    def test_lowers_the_upper_loss_of_a_fixed_batch(self, hypergradient: str, tiny_model: MakeModel, batch: torch.Tensor,
                                                    targets: torch.Tensor) -> None:
        step = step_of(tiny_model(), hypergradient=hypergradient)
        losses = [step(batch, targets)["upper"] for _ in range(15)]
        assert losses[-1] < 0.9 * losses[0]

    @every_teaching_estimator
    def test_leader_alone_lowers_its_objective(self, hypergradient: str, tiny_model: MakeModel, batch: torch.Tensor,
                                               targets: torch.Tensor) -> None:
        # The leader's steps are so long that whole levels are passed.
        step = step_of(tiny_model(), hypergradient=hypergradient, leader_rate=1e-2, follower_rate=1e-7, fusion_weight=0.5)
        reports = [step(batch, targets) for _ in range(10)]
        objectives = [report["upper"] + 0.5 * report["fusion"] for report in reports]
        # Up by no more than what rounding to levels adds or takes.
        assert np.diff(objectives).max() < 2e-4
        assert objectives[-1] < objectives[0] - 2e-3

    def test_works_under_deep_supervision(self, tiny_model: MakeModel, batch: torch.Tensor, targets: torch.Tensor) -> None:
        def deep_loss(outputs: list[torch.Tensor], labels: list[torch.Tensor]) -> torch.Tensor:
            return sum(cross_entropy(output, label) for output, label in zip(outputs, labels, strict=True))

        step = step_of(tiny_model(deep_supervision=True), loss=deep_loss)
        losses = [step(batch, [targets, targets[:, ::2, ::2]])["upper"] for _ in range(15)]
        assert losses[-1] < 0.9 * losses[0]

    def test_hands_a_cascade_s_channels_to_the_follower(self, tiny_model: MakeModel, batch: torch.Tensor,
                                                        targets: torch.Tensor) -> None:
        step = step_of(tiny_model(extra=1))
        first = torch.cat([batch, targets[:, None].float()], dim=1)
        losses = [step(first, targets)["upper"] for _ in range(15)]
        assert losses[-1] < 0.9 * losses[0]


class TestGradients:
    @every_estimator
    def test_follower_gets_those_of_all_samples(self, hypergradient: str, tiny_model: MakeModel, batch: torch.Tensor,
                                                   targets: torch.Tensor) -> None:
        model = tiny_model()
        whole = gradient_of(cross_entropy(model(batch), targets), model.segmentation)
        step = step_of(model, hypergradient=hypergradient)
        step(batch, targets)
        assert norm_of(whole) < MAX_NORM
        assert_same(step.follower.optimiser.given, whole)

    @every_teaching_estimator
    def test_of_the_task_alone_reach_every_part_of_the_leader(self, hypergradient: str, tiny_model: MakeModel,
                                                              batch: torch.Tensor, targets: torch.Tensor) -> None:
        model = tiny_model()
        step = step_of(model, hypergradient=hypergradient, fusion_weight=0)
        step(batch, targets)
        names = [name for name, _ in model.fusion.named_parameters()]
        reached = {name.split(".")[0] for name, gradient in zip(names, step.leader.optimiser.given, strict=True)
                   if gradient.abs().sum() > 0}
        assert reached == {name.split(".")[0] for name in names}

    @pytest.mark.parametrize("fusion_weight", [0, 0.1])
    def test_gauss_newton_leader_follows_the_follower_s_answer(self, fusion_weight: float, tiny_model: MakeModel,
                                                               batch: torch.Tensor, targets: torch.Tensor) -> None:
        """Against autograd from each half's losses to all parameters."""
        model, batch = tiny_model().double(), batch.double()

        def task(offset: int) -> torch.Tensor:
            return cross_entropy(model(batch[offset::2]), targets[offset::2])

        above, below = task(1) + fusion_weight * fusion_objective(model, batch[1::2]), task(0)
        upper_y, lower_y = (torch.cat([part.flatten() for part in torch.autograd.grad(
            loss, list(model.segmentation.parameters()), retain_graph=True, **UNUSED)]).numpy() for loss in (above, below))
        ratio = upper_y @ lower_y / (lower_y @ lower_y + 0.01)
        expected = [direct - ratio * indirect for direct, indirect
                    in zip(gradient_of(above, model.fusion), gradient_of(below, model.fusion), strict=True)]
        step = step_of(model, hypergradient="gauss_newton", fusion_weight=fusion_weight, damping=0.01)
        assert step(batch, targets)["ratio"] == pytest.approx(ratio, rel=1e-9)
        assert_same(step.leader.optimiser.given, expected, relative=1e-9)

    @pytest.mark.parametrize("fusion_weight", [0, 0.1, 2.0])
    def test_joint_leader_gets_the_upper_objective_s(self, fusion_weight: float, tiny_model: MakeModel,
                                                     batch: torch.Tensor, targets: torch.Tensor) -> None:
        model = tiny_model()
        objective = cross_entropy(model(batch), targets) + fusion_weight * fusion_objective(model, batch)
        expected = gradient_of(objective, model.fusion)
        step = step_of(model, fusion_weight=fusion_weight)
        step(batch, targets)
        assert_same(step.leader.optimiser.given, expected)

    @pytest.mark.parametrize("fusion_weight", [0, 0.1, 2.0])
    def test_detached_leader_gets_the_fusion_losses_alone(self, fusion_weight: float, tiny_model: MakeModel,
                                                          batch: torch.Tensor, targets: torch.Tensor) -> None:
        """And the follower what it gets beside a leader that learns from the task, mirrored and viewed or not."""
        model, flips = tiny_model(), torch.tensor([[True, False]] * 4)
        expected = gradient_of(fusion_weight * fusion_objective(model, batch), model.fusion)
        step = step_of(model, hypergradient="none", fusion_weight=fusion_weight, loss=with_channel)
        step(batch, targets[:, None], flips=flips, viewing=VIEWING)
        assert_same(step.leader.optimiser.given, expected)
        assert any(gradient.any() for gradient in step.leader.optimiser.given) == (fusion_weight > 0)
        taught = step_of(tiny_model(), fusion_weight=fusion_weight, loss=with_channel)
        taught(batch, targets[:, None], flips=flips, viewing=VIEWING)
        assert_same(step.follower.optimiser.given, tuple(taught.follower.optimiser.given))

    def test_detached_leader_without_fusion_losses_stays_and_the_follower_learns(self, tiny_model: MakeModel,
                                                                                batch: torch.Tensor,
                                                                                targets: torch.Tensor) -> None:
        model = tiny_model()
        before = {name: weight.clone() for name, weight in model.fusion.state_dict().items()}
        step = step_of(model, hypergradient="none", fusion_weight=0)
        losses = [step(batch, targets)["upper"] for _ in range(15)]
        assert losses[-1] < 0.9 * losses[0]
        assert all(torch.equal(weight, before[name]) for name, weight in model.fusion.state_dict().items())

    @every_estimator
    def test_without_any_fusion_loss_are_those_of_weight_0(self, hypergradient: str, tiny_model: MakeModel, batch: torch.Tensor,
                                                           targets: torch.Tensor) -> None:
        without, weightless = (step_of(tiny_model(), hypergradient=hypergradient, **chosen)
                               for chosen in ({"losses": Losses.only()}, {"fusion_weight": 0.0}))
        without(batch, targets), weightless(batch, targets)
        for given, wanted in zip(without.leader.optimiser.given, weightless.leader.optimiser.given, strict=True):
            torch.testing.assert_close(given, wanted)

    @every_estimator
    @pytest.mark.parametrize("offset", [0, 1])
    def test_every_sample_moves_the_leader(self, offset: int, hypergradient: str, tiny_model: MakeModel, batch: torch.Tensor,
                                           targets: torch.Tensor) -> None:
        other, other_targets = batch.clone(), targets.clone()
        other[offset::2], other_targets[offset::2] = -other[offset::2], 1 - other_targets[offset::2]
        steps = [step_of(tiny_model(), hypergradient=hypergradient) for _ in range(2)]
        steps[0](batch, targets)
        steps[1](other, other_targets)
        given = [step.leader.optimiser.given for step in steps]
        assert not all(torch.equal(*pair) for pair in zip(*given, strict=True))

    def test_equal_halves_leave_a_gauss_newton_leader_the_fusion_losses_alone(
            self, tiny_model: MakeModel, batch: torch.Tensor, targets: torch.Tensor) -> None:
        model = tiny_model()
        twice, twice_targets = batch.repeat_interleave(2, dim=0), targets.repeat_interleave(2, dim=0)
        task = gradient_of(cross_entropy(model(batch), targets), model.fusion)
        expected = gradient_of(0.1 * fusion_objective(model, batch), model.fusion)
        step = step_of(model, hypergradient="gauss_newton", damping=1e-12, fusion_weight=0.1)
        report = step(twice, twice_targets)
        assert report["ratio"] == pytest.approx(1, abs=1e-4)
        rounding = 1e-3 * max(part.abs().max() for part in task)
        for gradient, wanted in zip(step.leader.optimiser.given, expected, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=0, atol=rounding)
        assert norm_of(expected) > 10 * rounding

    @every_estimator
    def test_are_clipped_for_each_level(self, hypergradient: str, tiny_model: MakeModel, batch: torch.Tensor,
                                        targets: torch.Tensor) -> None:
        # The follower is too slow for its answer to run away on so steep a loss; a detached leader sees the fusion losses alone.
        step = step_of(tiny_model(), hypergradient=hypergradient, follower_rate=1e-9,
                       fusion_weight=1e6 if hypergradient in DETACHED else 0.1,
                       loss=lambda logits, labels: 1e6 * cross_entropy(logits, labels))
        step(batch, targets)
        for level in (step.leader, step.follower):
            assert norm_of(level.optimiser.given) == pytest.approx(MAX_NORM, rel=1e-3)

    @every_estimator
    def test_leave_the_model_its_own_parameters(self, hypergradient: str, tiny_model: MakeModel, batch: torch.Tensor,
                                                targets: torch.Tensor) -> None:
        """Also where a U-Net holds its encoder twice and its losses were looked at with other weights."""
        model = tiny_model()
        before = list(model.parameters())
        step_of(model, hypergradient=hypergradient)(batch, targets)
        assert all(now is then for now, then in zip(model.parameters(), before, strict=True))

    def test_are_gone_after_the_step(self, tiny_model: MakeModel, batch: torch.Tensor, targets: torch.Tensor) -> None:
        model = tiny_model()
        step_of(model)(batch, targets)
        assert all(parameter.grad is None for parameter in model.parameters())


class TestAuxiliaryHead:
    @every_teaching_estimator
    def test_adds_its_loss_to_the_leader_s_objective_and_to_no_other(self, hypergradient: str, tiny_model: MakeModel,
                                                                     batch: torch.Tensor, targets: torch.Tensor) -> None:
        labels, model, auxiliary = targets[:, None], tiny_model(), auxiliary_loss()
        of_leader = slice(1, None, 2) if hypergradient in NEEDS_HALVES else slice(None)
        loss = auxiliary(model.fuse(batch[of_leader]).fused.decoded, labels[of_leader])
        extra = gradient_of(0.7 * loss, nn.ModuleList([model.fusion, auxiliary.head]))
        helped = step_of(model, loss=with_channel, hypergradient=hypergradient, auxiliary=auxiliary, auxiliary_weight=0.7)
        alone = step_of(tiny_model(), loss=with_channel, hypergradient=hypergradient)
        alone(batch, labels)
        report = helped(batch, labels)
        assert report["auxiliary"] == pytest.approx(loss.item(), rel=1e-5)
        without = [*alone.leader.optimiser.given, *(torch.zeros_like(weight) for weight in auxiliary.head.parameters())]
        expected = tuple(first + second for first, second in zip(without, extra, strict=True))
        assert_same(helped.leader.optimiser.given, expected)
        assert_same(helped.follower.optimiser.given, tuple(alone.follower.optimiser.given))

    def test_learns_with_the_leader(self, tiny_model: MakeModel, batch: torch.Tensor, targets: torch.Tensor) -> None:
        step = step_of(tiny_model(), loss=with_channel, auxiliary=auxiliary_loss(), leader_rate=2e-2)
        losses = [step(batch, targets[:, None])["auxiliary"] for _ in range(60)]
        assert losses[-1] < 0.9 * losses[0]

    def test_is_left_out_where_the_leader_is_detached_from_the_task(self, tiny_model: MakeModel, batch: torch.Tensor,
                                                                  targets: torch.Tensor) -> None:
        """Else the leader would learn from the task through it."""
        labels, auxiliary = targets[:, None], auxiliary_loss()
        step, alone = (step_of(tiny_model(), loss=with_channel, auxiliary=used, hypergradient="none")
                       for used in (auxiliary, None))
        assert step(batch, labels) == alone(batch, labels)
        for given, wanted in zip(step.leader.optimiser.given, alone.leader.optimiser.given, strict=False):
            assert torch.equal(given, wanted)

    def test_is_left_out_with_weight_0(self, tiny_model: MakeModel, batch: torch.Tensor, targets: torch.Tensor) -> None:
        labels, auxiliary = targets[:, None], auxiliary_loss()
        before = {name: weight.clone() for name, weight in auxiliary.head.state_dict().items()}
        step, alone = (step_of(tiny_model(), loss=with_channel, auxiliary=used, auxiliary_weight=0) for used in (auxiliary, None))
        assert step(batch, labels) == alone(batch, labels)
        assert all(torch.equal(weight, before[name]) for name, weight in auxiliary.head.state_dict().items())
        for given, wanted in zip(step.leader.optimiser.given, alone.leader.optimiser.given, strict=False):
            assert torch.equal(given, wanted)


def step_with_all_losses(model: FuseThenSegment, hypergradient: str) -> BilevelStep:
    torch.manual_seed(7)
    return step_of(model, loss=with_channel, hypergradient=hypergradient, adversary=OnePerModality(2, axes=2).eval(),
                   auxiliary=auxiliary_loss())


class TestAbsentModalities:
    @every_estimator
    def test_do_not_matter_whatever_stands_in_their_channel(self, hypergradient: str, tiny_model: MakeModel, batch: torch.Tensor,
                                                            targets: torch.Tensor) -> None:
        present = torch.tensor([[True, False], [False, True], [True, True], [True, False]])
        other, models = batch.clone(), [tiny_model(), tiny_model()]
        other[~present] = torch.nan
        reports = [step_with_all_losses(model, hypergradient)(images, targets[:, None], present)
                   for model, images in zip(models, (batch, other), strict=True)]
        assert reports[0] == reports[1]
        first, second = (model.state_dict() for model in models)
        assert all(torch.equal(first[name], second[name]) for name in first)

    @every_estimator
    def test_that_are_none_change_no_bit(self, hypergradient: str, tiny_model: MakeModel, batch: torch.Tensor,
                                         targets: torch.Tensor) -> None:
        models = [tiny_model(), tiny_model()]
        reports = [step_with_all_losses(model, hypergradient)(batch, targets[:, None], present)
                   for model, present in zip(models, (None, torch.ones(4, 2, dtype=torch.bool)), strict=True)]
        assert reports[0] == reports[1]
        first, second = (model.state_dict() for model in models)
        assert all(torch.equal(first[name], second[name]) for name in first)

    @every_estimator
    @pytest.mark.parametrize("rows", list(product([(True, False), (False, True)], repeat=2)))
    def test_leave_every_loss_and_weight_finite(self, rows: tuple[tuple[bool, bool], ...], hypergradient: str,
                                                tiny_model: MakeModel, batch: torch.Tensor, targets: torch.Tensor) -> None:
        """Each half has one modality alone, so that a discriminator may have nothing to judge."""
        model = tiny_model()
        step = step_with_all_losses(model, hypergradient)
        judged = rows[1:] if hypergradient in NEEDS_HALVES else rows
        idle = [judge for modality, judge in enumerate(step.adversary.each) if not any(row[modality] for row in judged)]
        before = [parameter.clone() for judge in idle for parameter in judge.parameters()]
        report = step(batch, targets[:, None], torch.tensor([*rows, *rows]))
        assert all(math.isfinite(value) for value in report.values())
        taught = set() if hypergradient in DETACHED else {"auxiliary"}
        assert {"adversarial", "discriminator", "decomposition", *taught} <= set(report)
        assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
        after = [parameter for judge in idle for parameter in judge.parameters()]
        assert all(torch.equal(*pair) for pair in zip(after, before, strict=True))

    def test_are_not_shown_to_their_discriminator_nor_is_what_was_fused_without_them(
            self, tiny_model: MakeModel, batch: torch.Tensor, targets: torch.Tensor) -> None:
        """The last sample lacks the second modality."""
        present = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
        model = tiny_model()
        step = step_with_all_losses(model, "joint")
        with torch.no_grad():
            seen = model.fuse(batch, present=present)
            images = [luma(seen.fused.image), luma(seen.fused.image)[:3]]
            fake = [judge(image) for judge, image in zip(step.adversary.each, images, strict=True)]
            real = [step.adversary.each[0](seen.sources[:, :1]), step.adversary.each[1](seen.sources[:3, 1:])]
        report = step(batch, targets[:, None], present)
        assert report["adversarial"] == pytest.approx(generator_loss(fake).item(), rel=1e-5)
        assert report["discriminator"] == pytest.approx(discriminator_loss(real, fake).item(), rel=1e-5)


class TestMixedPrecision:
    @every_estimator
    @pytest.mark.parametrize("autocast", [None, partial(torch.autocast, "cpu", dtype=torch.bfloat16)],
                             ids=["float32", "bfloat16"])
    def test_scaling_changes_nothing(self, hypergradient: str, autocast: Any, tiny_model: MakeModel, batch: torch.Tensor,
                                     targets: torch.Tensor) -> None:
        models = [tiny_model(), tiny_model()]
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        steps = [step_of(model, hypergradient=hypergradient, scaler=used, autocast=autocast)
                 for model, used in zip(models, (None, scaler), strict=True)]
        reports = [[step(batch, targets) for _ in range(3)] for step in steps]
        assert reports[1] == [pytest.approx(report, rel=1e-4) for report in reports[0]]
        start = tiny_model().state_dict()
        plain, scaled = (model.state_dict() for model in models)
        for name in plain:
            torch.testing.assert_close(scaled[name], plain[name], rtol=1e-5, atol=1e-6)
        assert not any(torch.equal(plain[name], start[name]) for name in plain if "conv.weight" in name)

    def test_clips_unscaled_gradients(self, tiny_model: MakeModel, batch: torch.Tensor, targets: torch.Tensor) -> None:
        step = step_of(tiny_model(), loss=lambda logits, labels: 1e4 * cross_entropy(logits, labels),
                       scaler=torch.amp.GradScaler("cpu", init_scale=2.0**12))
        step(batch, targets)
        assert norm_of(step.leader.optimiser.given) == pytest.approx(MAX_NORM, rel=1e-3)

    @every_estimator
    def test_overflow_skips_the_step_and_halves_the_scale(self, hypergradient: str, tiny_model: MakeModel,
                                                          batch: torch.Tensor, targets: torch.Tensor) -> None:
        def overflowing(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return 1e34 * cross_entropy(logits, labels)

        model, scaler = tiny_model(), torch.amp.GradScaler("cpu", init_scale=2.0**16)
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        report = step_of(model, hypergradient=hypergradient, loss=overflowing, scaler=scaler)(batch, targets)
        assert report["upper"] < float("inf")
        moved = {name.split(".")[0] for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
        # A detached leader's own gradients do not overflow with the task's.
        assert moved == ({"fusion"} if hypergradient in DETACHED else set())
        assert scaler.get_scale() == 2.0**15
        step_of(model, hypergradient=hypergradient, scaler=scaler)(batch, targets)
        assert not torch.equal(model.fusion.fuse_low.weight, before["fusion.fuse_low.weight"])
        assert scaler.get_scale() == 2.0**15


class TestDiscriminators:
    def adversary(self) -> OnePerModality:
        # In evaluation mode spectral normalisation does not move, so that the same weights give the same logits.
        return OnePerModality(2, axes=2).eval()

    def test_learn_from_their_own_loss_alone(self, tiny_model: MakeModel, batch: torch.Tensor,
                                             targets: torch.Tensor) -> None:
        model, adversary = tiny_model(), self.adversary()
        with torch.no_grad():
            seen = model.fuse(batch)
        loss = discriminator_loss([network(seen.sources[:, index:index + 1]) for index, network in enumerate(adversary.each)],
                                  [network(luma(seen.fused.image)) for network in adversary.each])
        expected = gradient_of(loss, adversary)
        step = step_of(model, adversary=adversary)
        assert step(batch, targets)["discriminator"] == pytest.approx(loss.item(), rel=1e-5)
        assert_same(step.discriminator_optimiser.given, expected)

    def test_push_the_leader_by_their_weight(self, tiny_model: MakeModel, batch: torch.Tensor,
                                             targets: torch.Tensor) -> None:
        given = []
        for adversarial in (0.01, 5.0):
            step = step_of(tiny_model(), adversary=self.adversary(), fusion_weight=1.0,
                           losses=replace(PAPER, adversarial=adversarial))
            step(batch, targets)
            given.append(step.leader.optimiser.given)
        assert not all(torch.allclose(*pair, rtol=1e-3) for pair in zip(*given, strict=True))

    def test_stay_as_they_are_with_weight_0(self, tiny_model: MakeModel, batch: torch.Tensor,
                                            targets: torch.Tensor) -> None:
        adversary = self.adversary().train()
        before = {name: weight.clone() for name, weight in adversary.state_dict().items()}
        report = step_of(tiny_model(), adversary=adversary, losses=replace(PAPER, adversarial=0))(batch, targets)
        assert not {"adversarial", "discriminator"} & set(report)
        assert all(torch.equal(weight, before[name]) for name, weight in adversary.state_dict().items())
