"""Followers to choose from: nnU-Net's own plans of each, with the fusion network counted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from fuse4seg.errors import RecipeError
from fuse4seg.followers import unet
from fuse4seg.networks.follower import FixedFollower, FollowerKind, follower_kind
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.planning.followers import nnunet_planner
from fuse4seg.planning.options import PlanOptions
from fuse4seg.planning.planner import Fuse4SegPlanner, plan_experiment
from fuse4seg.planning.step_memory import CountedTraining, count_memory
from fuse4seg.plans import planned_recipe, read_plans
from fuse4seg.recipes.kinds import network_names
from fuse4seg.recipes.reading import read_recipe

LARGE, SMALL = (128, 256, 256), (24, 40, 36)
RESENC = ("resenc_m", "resenc_l", "resenc_xl")
#: Where nnU-Net says what its networks fill (its planners' docstrings).
GIGABYTES = {"unet": 8, "resenc_m": 8, "resenc_l": 24, "resenc_xl": 40, "cnn_transformer": 8}
CLASSES = {"unet": "PlainConvUNet", "cnn_transformer": "CNNTransformer", **dict.fromkeys(RESENC, "ResidualEncoderUNet")}
MakeFingerprinted = Callable[..., Path]


def options(*changes: str, **others: Any) -> PlanOptions:
    """Changed entries of the recipe in plans of the usual name."""
    return PlanOptions(changes=changes, **{"plans_name": "Fuse4SegPlans", **others})


def following(name: str) -> tuple[str, ...]:
    """Changes that lead to a follower from the usual recipe."""
    return (f"follower.network={name}", *{"cnn_transformer": ["follower.blocks=4"]}.get(name, []))


def planned_follower(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    return plans["configurations"][configuration]["architecture"]["arch_kwargs"]["follower"]


@pytest.mark.parametrize("name", GIGABYTES)
class TestEveryFollower:
    def test_stands_in_the_plans_with_the_memory_it_is_planned_for(self, name: str,
                                                                   make_fingerprinted: MakeFingerprinted) -> None:
        path = make_fingerprinted(SMALL) / "Fuse4SegPlans.json"
        plan_experiment(991, options(*following(name)))
        plans = read_plans(path)

        assert plans["fuse4seg"]["recipe"]["follower"]["network"] == name
        assert plans["fuse4seg"]["gpu_memory_target"] == GIGABYTES[name]
        assert plans["experiment_planner_used"] == "Fuse4SegPlanner"
        for configuration in ("2d", "3d_fullres"):
            assert planned_follower(plans, configuration)["network_class_name"].endswith(f".{CLASSES[name]}")

    @pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
    def test_is_built_by_nnunet(self, name: str, configuration: str, make_fingerprinted: MakeFingerprinted) -> None:
        make_fingerprinted(SMALL)
        plans = plan_experiment(991, options(*following(name), "follower.features=4"))
        manager = PlansManager(plans).get_configuration(configuration)
        network = get_network_from_plans(manager.network_arch_class_name, manager.network_arch_init_kwargs,
                                         manager.network_arch_init_kwargs_req_import, 2, 3, deep_supervision=True)

        assert isinstance(network, FuseThenSegment)
        logits = network(torch.randn(1, 2, *manager.patch_size))
        # nnU-Net makes its targets from the strides of the plans.
        scales = [1.0] * len(manager.patch_size)
        for part, steps in zip(logits, manager.pool_op_kernel_sizes[:-1], strict=True):
            scales = [scale * step for scale, step in zip(scales, steps, strict=True)]
            size = tuple(int(extent / scale) for extent, scale in zip(manager.patch_size, scales, strict=True))
            assert part.shape == (1, 3, *size)

    def test_fits_into_the_memory_it_is_given(self, name: str, make_fingerprinted: MakeFingerprinted) -> None:
        make_fingerprinted((48, 96, 96), cases=100)
        plans = plan_experiment(991, options(*following(name), "follower.features=8", gpu_memory_target=0.5))

        assert plans["fuse4seg"]["gpu_memory_target"] == 0.5
        for memory in plans["fuse4seg"]["memory"].values():
            assert 0.2 < memory["total"] <= 0.5


class TestUnet:
    def test_is_the_default(self) -> None:
        assert [read_recipe(name).follower.network for name in ("fuse4seg", "fusion_alone", "grey")] == ["unet"] * 3

    def test_planner_refuses_options_of_another_follower(self, make_fingerprinted: MakeFingerprinted) -> None:
        make_fingerprinted(SMALL)
        with pytest.raises(ValueError, match="resenc_m"):
            Fuse4SegPlanner("991", options=options("follower.network=resenc_m"))


class TestResidualEncoders:
    @pytest.mark.parametrize("name", RESENC)
    def test_are_planned_as_by_nnunet_for_one_stacked_image(self, name: str, make_fingerprinted: MakeFingerprinted,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
        """By nnU-Net's estimate in place of the counted memory, both plans are the same but for the batch."""
        folder = make_fingerprinted(LARGE, cases=100)
        with torch.device("meta"):  # nnU-Net fills the weights of every network that it weighs
            stock = json.loads(json.dumps(nnunet_planner(name)("Dataset991_Small", plans_name="Stock").plan_experiment()))
        monkeypatch.setattr(Fuse4SegPlanner, "static_estimate_VRAM_usage",
                            staticmethod(nnunet_planner(name).static_estimate_VRAM_usage))
        monkeypatch.setattr(Fuse4SegPlanner, "_let_nnunet_count_bytes", lambda planner: None)
        monkeypatch.setattr(Fuse4SegPlanner, "_fit_batches", lambda planner, configurations: {})
        with torch.device("meta"):
            plan_experiment(991, options(f"follower.network={name}"))
        plans = read_plans(folder / "Fuse4SegPlans.json")

        for configuration in ("2d", "3d_fullres"):
            found, wanted = plans["configurations"][configuration], stock["configurations"][configuration]
            assert found["patch_size"] == wanted["patch_size"]
            assert planned_follower(plans, configuration) == wanted["architecture"]

    @pytest.mark.slow
    def test_grow_with_their_memory(self, make_fingerprinted: MakeFingerprinted) -> None:
        make_fingerprinted(LARGE, cases=100)
        medium, large, largest = (plan_experiment(991, options(f"follower.network={name}"))["configurations"]["3d_fullres"]
                                  for name in RESENC)
        assert math.prod(medium["patch_size"]) < math.prod(large["patch_size"]) <= math.prod(largest["patch_size"])


class TestCNNTransformer:
    def test_has_transunets_tokens_at_transunets_patch(self, make_fingerprinted: MakeFingerprinted) -> None:
        make_fingerprinted((30, 224, 224), cases=20)
        plans = plan_experiment(991, options(*following("cnn_transformer")))

        assert list(plans["configurations"]["2d"]["patch_size"]) == [224, 224]
        strides = planned_follower(plans, "2d")["arch_kwargs"]["strides"]
        assert [math.prod(steps) for steps in zip(*strides, strict=True)] == [16, 16]


class TestUnknownFollower:
    def test_is_refused_with_the_choices(self) -> None:
        choices = ", ".join(network_names("follower"))
        with pytest.raises(RecipeError, match=f"^--set: follower.network: there is no 'transunet'. Choose from: {choices}"):
            options("follower.network=transunet")

    def test_would_be_none_that_nnunet_lays_out(self) -> None:
        assert {name for name in network_names("follower") if not follower_kind(name).fixed} == GIGABYTES.keys() == CLASSES.keys()


class Pooled(FixedFollower):
    """Logits at an eighth of the resolution, brought up again: a follower as short as one can be."""

    def __init__(self, input_channels: int, num_classes: int, *, conv_op: type[nn.Module], strides: list[list[int]],
                 deep_supervision: bool = False) -> None:
        super().__init__(multiple=8)
        assert conv_op is nn.Conv2d
        self.given = deep_supervision
        self.down = conv_op(input_channels, num_classes, 8, stride=8)

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(self.down(images), scale_factor=8)


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes that name the U-Net mean the follower above, of fixed stages and for slices alone."""
    monkeypatch.setattr(unet, "FOLLOWER", FollowerKind(network=Pooled, fixed=True, axes=(2,), deep_supervision=False))


@pytest.mark.usefixtures("pooled")
class TestFollowerOfFixedStages:
    def test_is_planned_for_the_images_it_takes_and_the_rest_is_left_out_with_a_warning(
            self, make_fingerprinted: MakeFingerprinted, caplog: pytest.LogCaptureFixture) -> None:
        folder = make_fingerprinted(SMALL)
        plan_experiment(991, options())
        plans = read_plans(folder / "Fuse4SegPlans.json")
        assert plans["configurations"].keys() == plans["fuse4seg"]["memory"].keys() == {"2d"}
        warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert warned == ["unet takes images of 2 axes: not planned are 3d_fullres"]

    def test_with_all_its_axes_is_left_whole(self, make_fingerprinted: MakeFingerprinted, caplog: pytest.LogCaptureFixture,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unet, "FOLLOWER", FollowerKind())
        make_fingerprinted(SMALL)
        assert set(plan_experiment(991, options("follower.features=4"))["configurations"]) == {"2d", "3d_fullres"}
        assert "not planned" not in caplog.text

    def test_leaves_out_a_cascade_with_its_stages(self, make_fingerprinted: MakeFingerprinted,
                                                  caplog: pytest.LogCaptureFixture) -> None:
        make_fingerprinted((400, 800, 800))
        assert set(plan_experiment(991, options("patches.size=64,64", "patches.batch=2"))["configurations"]) == {"2d"}
        (warned,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
        left_out = warned.removeprefix("unet takes images of 2 axes: not planned are ").split(", ")
        assert sorted(left_out) == ["3d_cascade_fullres", "3d_fullres", "3d_lowres"]

    def test_gets_of_nnunets_plan_the_strides_alone(self, make_fingerprinted: MakeFingerprinted) -> None:
        make_fingerprinted(SMALL)
        plans = plan_experiment(991, options())
        follower = planned_follower(plans, "2d")
        strides = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["strides"]
        assert follower == {"network_class_name": f"{__name__}.Pooled", "_kw_requires_import": ["conv_op"],
                            "arch_kwargs": {"conv_op": "torch.nn.modules.conv.Conv2d", "strides": strides}}

    def test_is_built_by_nnunet_and_counted_at_one_resolution(self, make_fingerprinted: MakeFingerprinted) -> None:
        make_fingerprinted(SMALL)
        plans = plan_experiment(991, options())
        manager = PlansManager(plans).get_configuration("2d")
        network = get_network_from_plans(manager.network_arch_class_name, manager.network_arch_init_kwargs,
                                         manager.network_arch_init_kwargs_req_import, 2, 3, deep_supervision=False)
        assert isinstance(network.segmentation, Pooled)
        assert network.segmentation.given is False
        assert network(torch.randn(1, 2, 13, 21)).shape == (1, 3, 13, 21)
        training = CountedTraining(2, 2, planned_recipe(plans, "plans"))
        counted = count_memory(plans["configurations"]["2d"]["architecture"], manager.patch_size, manager.batch_size, training)
        assert counted.to_plain() == plans["fuse4seg"]["memory"]["2d"]
        # Two channels in single precision and one label of 16 bits; under deep supervision there would be more labels.
        assert counted.batch == manager.batch_size * math.prod(manager.patch_size) * (2 * 4 + 2)
