"""Counted memory of a training against closed forms, and against the same steps on the CPU."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from fuse4seg.followers import unet
from fuse4seg.networks.follower import FollowerKind
from fuse4seg.planning.live_bytes import LiveBytes
from fuse4seg.planning.step_memory import ALLOWANCE, CountedTraining, StepMemory, count_memory
from fuse4seg.plans import NETWORK
from fuse4seg.recipes.reading import changed, read_recipe
from fuse4seg.recipes.recipe import Recipe
from fuse4seg.steps.hypergradients import ESTIMATORS
from fuse4seg.steps.levels import Levels, build_levels
from fuse4seg.steps.viewing import draw_viewing

PATCH, BATCH, CLASSES = (32, 48), 4, 3
#: As on a CPU.
USUAL = read_recipe("fuse4seg")
FULL = CountedTraining(2, CLASSES, USUAL, mixed_precision=False)


def architecture(follower: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    """Our network around ``follower``, as it stands in plans."""
    shared = {"strides": follower["arch_kwargs"]["strides"], "conv_op": follower["arch_kwargs"]["conv_op"]}
    return {"network_class_name": NETWORK, "_kw_requires_import": ["conv_op"],
            "arch_kwargs": {**shared, "windows": [[-2.0, 2.0]] * 2, "follower": follower,
                            "leader": {"network_class_name": "fuse4seg.leaders.gate.GateLeader", "_kw_requires_import": [],
                                       "arch_kwargs": arguments}}}


@pytest.fixture
def planned(tiny_follower: dict[str, Any]) -> dict[str, Any]:
    return architecture(tiny_follower)


def levels_on_cpu(planned: dict[str, Any], classes: int = CLASSES, recipe: Recipe = USUAL, *,
                  deep_supervision: bool = True) -> Levels:
    network = get_network_from_plans(planned["network_class_name"], planned["arch_kwargs"], planned["_kw_requires_import"],
                                     2, classes, allow_init=True, deep_supervision=deep_supervision)
    return build_levels(network, classes=classes, recipe=recipe)


def sizes(values: Any) -> int:
    return sum(value.numel() * value.element_size() for value in values)


class TestCountMemory:
    def test_counts_parameters_and_optimiser_states_in_closed_form(self, planned: dict[str, Any]) -> None:
        counted, levels = count_memory(planned, PATCH, BATCH, FULL), levels_on_cpu(planned)
        every = [value for module in levels.modules() for value in (*module.parameters(), *module.buffers())]
        # The buffers with the windows are not saved, but there.
        assert counted.parameters == sizes(every)
        adam = [*levels.leader.parameters, *levels.adversary.parameters()]
        steps = 4 * len(adam)
        assert counted.optimisers == 2 * sizes(adam) + steps + sizes(levels.follower.parameters)

    def test_counts_the_batch_and_its_labels_at_every_resolution(self, planned: dict[str, Any]) -> None:
        images, labels = BATCH * 2 * 32 * 48 * 4, BATCH * (32 * 48 + 16 * 24) * 2
        assert count_memory(planned, PATCH, BATCH, FULL).batch == images + labels

    @pytest.mark.parametrize("hypergradient", ESTIMATORS)
    def test_is_to_the_byte_that_of_the_second_step_on_the_cpu(self, planned: dict[str, Any], hypergradient: str) -> None:
        recipe = changed(USUAL, [f"bilevel.hypergradient={hypergradient}"])
        levels = levels_on_cpu(planned, recipe=recipe)
        loss = DC_and_CE_loss({"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}, {},
                              dice_class=MemoryEfficientSoftDiceLoss)
        step = levels.bilevel_step(DeepSupervisionWrapper(loss, [1.0, 0.0]), loss_at_one_resolution=loss)
        batch = torch.randn(BATCH, 2, *PATCH)
        targets = [torch.randint(CLASSES, (BATCH, 1, *size), dtype=torch.int16) for size in ((32, 48), (16, 24))]
        known = [value for module in levels.modules() for value in (*module.parameters(), *module.buffers())]
        flips, viewing = torch.rand(BATCH, 2) < 0.5, draw_viewing(np.random.default_rng(0), BATCH)
        with LiveBytes([*known, batch, *targets, flips, viewing]) as real:
            # As stage 1 leaves it; without an adversarial loss, stage 2 does not move the discriminators.
            for parameter in levels.adversary.parameters():
                parameter.grad = torch.zeros_like(parameter)
            levels.discriminator_optimiser.step()
            levels.discriminator_optimiser.zero_grad(set_to_none=True)
            step.move(batch, targets, flips=flips, viewing=viewing)
            step.move(batch, targets, flips=flips, viewing=viewing)
        counted = count_memory(planned, PATCH, BATCH, CountedTraining(2, CLASSES, recipe, mixed_precision=False))
        assert (counted.optimisers, counted.optimisers + counted.stage_2) == (real.live, real.peak)

    def test_without_deep_supervision_is_to_the_byte_that_of_the_second_step_on_the_cpu(
            self, planned: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        supervised = count_memory(planned, PATCH, BATCH, FULL)
        monkeypatch.setattr(unet, "FOLLOWER", FollowerKind(deep_supervision=False))
        counted = count_memory(planned, PATCH, BATCH, FULL)
        levels = levels_on_cpu(planned, deep_supervision=False)
        loss = DC_and_CE_loss({"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}, {},
                              dice_class=MemoryEfficientSoftDiceLoss)
        step = levels.bilevel_step(loss, loss_at_one_resolution=loss)
        batch, targets = torch.randn(BATCH, 2, *PATCH), torch.randint(CLASSES, (BATCH, 1, *PATCH), dtype=torch.int16)
        known = [value for module in levels.modules() for value in (*module.parameters(), *module.buffers())]
        flips, viewing = torch.rand(BATCH, 2) < 0.5, draw_viewing(np.random.default_rng(0), BATCH)
        with LiveBytes([*known, batch, targets, flips, viewing]) as real:
            for parameter in levels.adversary.parameters():
                parameter.grad = torch.zeros_like(parameter)
            levels.discriminator_optimiser.step()
            levels.discriminator_optimiser.zero_grad(set_to_none=True)
            step.move(batch, targets, flips=flips, viewing=viewing)
            step.move(batch, targets, flips=flips, viewing=viewing)
        assert (counted.optimisers, counted.optimisers + counted.stage_2) == (real.live, real.peak)
        assert (supervised.batch - counted.batch, counted.batch) == (BATCH * 16 * 24 * 2, BATCH * 32 * 48 * (2 * 4 + 2))

    def test_of_adamw_is_two_numbers_a_weight_and_a_step_each(self, planned: dict[str, Any]) -> None:
        recipe = changed(USUAL, ["follower.optimiser=adamw", "follower.momentum=0", "follower.nesterov=false"])
        by_sgd, by_adamw = (count_memory(planned, PATCH, BATCH, CountedTraining(2, CLASSES, one, mixed_precision=False))
                            for one in (USUAL, recipe))
        weights = levels_on_cpu(planned).follower.parameters
        assert by_adamw.optimisers - by_sgd.optimisers == sizes(weights) + 4 * len(weights)

    def test_grows_with_the_batch_in_a_straight_line(self, planned: dict[str, Any]) -> None:
        two, four, eight = (count_memory(planned, PATCH, batch, FULL) for batch in (2, 4, 8))
        for part in ("batch", "stage_1", "stage_2"):
            slopes = [getattr(four, part) - getattr(two, part), (getattr(eight, part) - getattr(four, part)) / 2]
            assert slopes[1] == pytest.approx(slopes[0], rel=0.02)
        assert (two.parameters, two.optimisers) == (eight.parameters, eight.optimisers)

    def test_of_mixed_precision_is_less_in_stage_2_alone(self, planned: dict[str, Any]) -> None:
        full, mixed = (count_memory(planned, (64, 96), 8, CountedTraining(2, CLASSES, USUAL, mixed_precision=half))
                       for half in (False, True))
        assert 0.4 * full.stage_2 < mixed.stage_2 < 0.8 * full.stage_2
        assert mixed.stage_1 == full.stage_1

    def test_covers_every_estimator(self, planned: dict[str, Any]) -> None:
        counted = {name: count_memory(planned, PATCH, BATCH, CountedTraining(2, CLASSES, changed(USUAL, [
            f"bilevel.hypergradient={name}"]))).stage_2 for name in ESTIMATORS}
        # No activation of the leader waits for the task's gradient, but all of the follower's do.
        assert counted["gauss_newton"] < counted["none"] <= counted["joint"]

    def test_leaves_the_follower_s_optimiser_out_where_there_is_nothing_to_segment(self, planned: dict[str, Any]) -> None:
        labelled, unlabelled = (count_memory(planned, PATCH, BATCH, CountedTraining(2, 1, recipe))
                                for recipe in (USUAL, read_recipe("fusion_alone")))
        assert labelled.optimisers - unlabelled.optimisers == sizes(levels_on_cpu(planned, classes=1).follower.parameters)

    def test_of_an_image_in_colour_is_more_than_of_grey(self, tiny_follower: dict[str, Any]) -> None:
        grey, colour = (count_memory(architecture(tiny_follower, colours=colours), PATCH, BATCH, FULL)
                        for colours in (1, 3))
        assert grey.stage_2 < colour.stage_2
        assert grey.batch == colour.batch
        # Two more channels enter the follower's first convolution, and two more leave the gate's three last layers.
        follower, gate = 2 * 4 * 9, 2 * 3 * 17
        preferences = 3 * 2 - 1 * 2
        assert colour.parameters - grey.parameters == 4 * (follower + gate + preferences)

    def test_leaves_plans_and_random_numbers_alone(self, planned: dict[str, Any]) -> None:
        before = json.dumps(planned)
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        count_memory(planned, PATCH, BATCH, FULL)
        assert torch.equal(torch.rand(3), expected)
        assert json.dumps(planned) == before


class TestStepMemory:
    def test_adds_the_worse_stage_and_the_allowance(self) -> None:
        first = StepMemory(parameters=100, optimisers=50, batch=20, stage_1=400, stage_2=300)
        assert first.counted == 520
        second = StepMemory(parameters=100, optimisers=50, batch=20, stage_1=400, stage_2=380)
        assert second.counted == 550
        assert second.total == round(550 * (1 + ALLOWANCE))

    def test_is_gigabytes_in_plans(self) -> None:
        plain = StepMemory(parameters=10**9, optimisers=10**9, batch=0, stage_1=0, stage_2=10**9).to_plain()
        assert plain == {"parameters": 1.0, "optimisers": 1.0, "batch": 0.0, "stage_1": 0.0, "stage_2": 1.0, "total": 3.3}
