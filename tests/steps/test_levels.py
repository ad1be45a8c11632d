"""Levels: who is moved by what."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fuse4seg.leaders.gate import GateLeader
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.recipes.reading import changed, read_recipe
from fuse4seg.steps.adversary import OnePerModality
from fuse4seg.steps.levels import Levels, build_levels, fused_on, on_any_device
from tests.conftest import FOLLOWER, LEADER

MakeModel = Callable[..., FuseThenSegment]


@pytest.fixture
def levels(tiny_model: MakeModel) -> Levels:
    return build_levels(tiny_model(), classes=4, recipe=changed(read_recipe("fuse4seg"), ["losses.adversarial=0.01"]))


def moved_by(levels: Levels, step: Callable[[], object]) -> set[str]:
    """Which parts have a parameter that ``step`` changes."""
    parts = {"fusion": levels.network.fusion, "segmentation": levels.network.segmentation,
             "auxiliary head": levels.auxiliary_head, "discriminators": levels.adversary}
    before = {name: [value.clone() for value in part.parameters()] for name, part in parts.items()}
    step()
    return {name for name, part in parts.items()
            if any(not torch.equal(value, old) for value, old in zip(part.parameters(), before[name], strict=True))}


class TestBuildLevels:
    def test_gives_every_parameter_to_one_optimiser(self, levels: Levels) -> None:
        optimisers = (levels.leader.optimiser, levels.follower.optimiser, levels.discriminator_optimiser)
        given = [id(value) for one in optimisers for group in one.param_groups for value in group["params"]]
        assert sorted(given) == sorted({id(value) for module in levels.modules() for value in module.parameters()})

    def test_is_written_without_weights(self, levels: Levels) -> None:
        """nnU-Net writes what a trainer has into debug.json."""
        assert "GateLeader" in repr(levels)
        assert "tensor" not in repr(levels)

    def test_moves_the_follower_as_nnunet_does(self, levels: Levels) -> None:
        (group,) = levels.follower.optimiser.param_groups
        assert isinstance(levels.follower.optimiser, torch.optim.SGD)
        assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (1e-2, 0.99, True, 3e-5)

    def test_moves_the_follower_by_adamw_where_its_recipe_says_so(self, tiny_model: MakeModel) -> None:
        recipe = changed(read_recipe("fuse4seg"), ["follower.optimiser=adamw", "follower.rate=1e-4", "follower.momentum=0",
                                                   "follower.nesterov=false", "follower.weight_decay=0.05"])
        levels = build_levels(tiny_model(), classes=4, recipe=recipe)
        (group,) = levels.follower.optimiser.param_groups
        assert isinstance(levels.follower.optimiser, torch.optim.AdamW)
        assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-4, 0.05, (0.9, 0.999))
        assert group["params"] == levels.follower.parameters

    def test_takes_no_memory_for_a_head_that_is_only_counted(self) -> None:
        """Of this width it would be 36 TB."""
        leader = {**LEADER, "arch_kwargs": {**LEADER["arch_kwargs"], "detail_features": 10**6}}
        with torch.device("meta"):
            network = FuseThenSegment(2, 2, conv_op=nn.Conv2d, strides=FOLLOWER["arch_kwargs"]["strides"],
                                      windows=[[-2.0, 2.0]] * 2, leader=leader, follower=FOLLOWER)
        head = build_levels(network, classes=2, recipe=read_recipe("fuse4seg")).auxiliary_head
        assert all(weight.is_meta for weight in head.parameters())

    def test_has_no_head_for_a_leader_without_features(self, tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(GateLeader, "has_features", False)
        levels = build_levels(tiny_model(), classes=4, recipe=read_recipe("fuse4seg"))
        assert levels.auxiliary_head is None
        assert levels.modules() == [levels.network, levels.adversary]
        assert levels.leader.parameters == list(levels.network.fusion.parameters())
        assert levels.bilevel_step(cross_entropy, loss_at_one_resolution=cross_entropy).auxiliary is None

    def test_moves_of_a_leader_in_stage_2_what_it_says_and_in_stage_1_all(self, tiny_model: MakeModel,
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(GateLeader, "taught_parameters", lambda leader: list(leader.gate.parameters()))
        levels = build_levels(tiny_model(), classes=4, recipe=read_recipe("fuse4seg"))
        gate, head = levels.network.fusion.gate, levels.auxiliary_head
        assert levels.leader.parameters == [*gate.parameters(), *head.parameters()]
        (group,) = levels.pretraining_step().optimiser.param_groups
        assert group["params"] == list(levels.network.fusion.parameters())

    def test_lets_a_leader_bring_an_adversary_of_its_own(self, tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
        own = OnePerModality(1, axes=2)
        monkeypatch.setattr(GateLeader, "adversary", lambda leader: own)
        levels = build_levels(tiny_model(), classes=4, recipe=changed(read_recipe("fuse4seg"), ["losses.adversarial=0.01"]))
        assert levels.adversary is own
        assert levels.fusion_step().adversary is own
        (group,) = levels.discriminator_optimiser.param_groups
        assert group["params"] == list(own.parameters())

    def test_has_one_discriminator_per_modality_on_the_networks_device(self, tiny_model: MakeModel) -> None:
        levels = build_levels(tiny_model().to("meta"), classes=4, recipe=read_recipe("fuse4seg"))
        assert len(levels.adversary.each) == 2
        assert all(value.is_meta for module in levels.modules() for value in module.parameters())


class TestKernels:
    def test_are_on_a_cpu_those_that_pytorch_chooses(self, levels: Levels) -> None:
        optimisers = (levels.leader.optimiser, levels.follower.optimiser, levels.discriminator_optimiser)
        assert [group["fused"] for one in optimisers for group in one.param_groups] == [None] * 3
        assert fused_on([torch.empty(1, device="meta")]) is None

    @pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
    def test_that_are_fused_move_alike_to_rounding(self, tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch,
                                                   optimiser: str) -> None:
        adamw = ["follower.optimiser=adamw", "follower.momentum=0", "follower.nesterov=false"] if optimiser == "adamw" else []
        recipe = changed(read_recipe("fuse4seg"), adamw)
        moved = []
        for fused in (None, True):
            monkeypatch.setattr("fuse4seg.steps.levels.fused_on", lambda _parameters, fused=fused: fused)
            torch.manual_seed(0)
            levels = build_levels(tiny_model(), classes=4, recipe=recipe)
            for _ in range(3):
                for level in (levels.leader, levels.follower):
                    for parameter in level.parameters:
                        parameter.grad = torch.randn_like(parameter)
                    level.optimiser.step()
            assert levels.leader.optimiser.param_groups[0]["fused"] is levels.follower.optimiser.param_groups[0]["fused"] is fused
            moved.append(list(levels.network.parameters()))
        start = list(tiny_model().parameters())
        assert all(not torch.equal(*pair) for pair in zip(moved[1], start, strict=True))
        for fused, plain in zip(*moved[::-1], strict=True):
            torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("own", "saved"), [(None, True), (True, None)])
    def test_are_a_trainings_own_whatever_a_checkpoint_was_made_by(self, own: bool | None, saved: bool | None) -> None:
        def moved_once(fused: bool | None) -> torch.optim.Optimizer:
            parameter = torch.nn.Parameter(torch.ones(3))
            optimiser = on_any_device(torch.optim.Adam([parameter], 0.1, fused=fused))
            parameter.grad = torch.tensor([1.0, 2.0, 3.0])
            optimiser.step()
            return optimiser

        mine, other = moved_once(own), moved_once(saved)
        other.param_groups[0]["lr"] = 0.3
        mine.load_state_dict(other.state_dict())
        (group,) = mine.param_groups
        assert (group["fused"], group["lr"]) == (own, 0.3)
        (state,) = mine.state.values()
        assert torch.equal(state["exp_avg"], next(iter(other.state.values()))["exp_avg"])
        mine.step()
        assert state["step"] == 2


class TestSteps:
    def test_each_move_what_they_should(self, levels: Levels) -> None:
        batch, targets = torch.randn(4, 2, 32, 32), torch.randint(2, (4, 1, 32, 32))

        def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return cross_entropy(logits, labels[:, 0].long())

        bilevel = levels.bilevel_step(loss, loss_at_one_resolution=loss)
        assert moved_by(levels, lambda: bilevel(batch, targets)) == {"fusion", "segmentation", "auxiliary head", "discriminators"}
        pretraining = levels.pretraining_step()
        assert moved_by(levels, lambda: pretraining(batch)) == {"fusion", "discriminators"}
        fusion = levels.fusion_step()
        assert moved_by(levels, lambda: fusion(batch)) == {"fusion", "discriminators"}
