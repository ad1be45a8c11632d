"""The planner: nnU-Net's plans with our network around the U-Net, for machines of any size."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg import __version__
from fuse4seg.errors import (
    DatasetJsonError,
    DatasetNotFoundError,
    FingerprintNotFoundError,
    OptionError,
    RecipeError,
)
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.planning import memory_target
from fuse4seg.planning.describe import describe_plans
from fuse4seg.planning.memory_target import GPU
from fuse4seg.planning.options import PlanOptions
from fuse4seg.planning.planner import Fuse4SegPlanner, plan_experiment
from fuse4seg.planning.step_memory import CountedTraining, count_memory
from fuse4seg.plans import planned_recipe, read_plans
from fuse4seg.recipes.reading import changed, read_recipe, to_plain

LARGE, SMALL, FLAT = (160, 512, 512), (24, 40, 36), (1, 512, 512)
MakeFingerprinted = Callable[..., Path]


def options(*changes: str, **others: Any) -> PlanOptions:
    """Changed entries of the recipe in plans of the usual name."""
    return PlanOptions(changes=changes, **{"plans_name": "Fuse4SegPlans", **others})


def plan(shape: tuple[int, int, int], make: MakeFingerprinted, *, channels: tuple[str, ...] = ("T1", "FLAIR"),
         cases: int = 2, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), changes: tuple[str, ...] = (),
         **others: Any) -> dict[str, Any]:
    """Plans of a dataset of such images, as they stand in the file."""
    folder = make(shape, channels=channels, cases=cases, spacing=spacing)
    chosen = options(*changes, **others)
    plan_experiment(991, chosen)
    return json.loads((folder / f"{chosen.name}.json").read_text())


def training_of(plans: dict[str, Any]) -> CountedTraining:
    return CountedTraining(2, 2, planned_recipe(plans, "plans"))


def follower(configuration: dict[str, Any]) -> dict[str, Any]:
    return configuration["architecture"]["arch_kwargs"]["follower"]


class TestPlannedConfigurations:
    def test_are_2d_and_3d_fullres_for_small_volumes(self, make_fingerprinted: MakeFingerprinted) -> None:
        assert set(plan(SMALL, make_fingerprinted)["configurations"]) == {"2d", "3d_fullres"}

    def test_are_2d_alone_for_single_slices(self, make_fingerprinted: MakeFingerprinted) -> None:
        plans = plan(FLAT, make_fingerprinted, spacing=(999.0, 1.0, 1.0))

        assert set(plans["configurations"]) == {"2d"}
        assert len(plans["configurations"]["2d"]["patch_size"]) == 2

    def test_include_a_cascade_for_large_volumes(self, make_fingerprinted: MakeFingerprinted) -> None:
        configurations = plan(LARGE, make_fingerprinted, gpu_memory_target=4)["configurations"]

        assert set(configurations) == {"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"}
        assert configurations["3d_cascade_fullres"] == {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
        assert min(configurations["3d_lowres"]["spacing"]) > 1

    def test_include_no_cascade_where_there_is_nothing_to_segment(self, make_fingerprinted: MakeFingerprinted,
                                                                  roots: Path) -> None:
        folder = make_fingerprinted(LARGE)
        shutil.rmtree(roots / "nnUNet_raw" / "Dataset991_Small" / "labelsTr")
        plan_experiment(991, options(gpu_memory_target=4))

        plans = read_plans(folder / "Fuse4SegPlans.json")
        assert set(plans["configurations"]) == {"2d", "3d_fullres", "3d_lowres"}
        assert PlansManager(plans).get_configuration("3d_lowres").next_stage_names is None

    def test_build_networks_of_one_output_where_there_is_nothing_to_segment(self, make_fingerprinted: MakeFingerprinted,
                                                                            roots: Path) -> None:
        folder = make_fingerprinted(SMALL)
        shutil.rmtree(roots / "nnUNet_raw" / "Dataset991_Small" / "labelsTr")
        manager = PlansManager(plan_experiment(991, options("follower.features=4")))
        labels = manager.get_label_manager(json.loads((folder / "dataset.json").read_text()))
        assert labels.foreground_labels == []
        for name in ("2d", "3d_fullres"):
            found = manager.get_configuration(name)
            network = get_network_from_plans(found.network_arch_class_name, found.network_arch_init_kwargs,
                                             found.network_arch_init_kwargs_req_import, 2, labels.num_segmentation_heads,
                                             allow_init=True, deep_supervision=False)
            assert network(torch.rand(1, 2, *found.patch_size)).shape == (1, 1, *found.patch_size)

    def test_fuse_alone_where_there_are_labels_if_the_recipe_says_so(self, make_fingerprinted: MakeFingerprinted, roots: Path,
                                                                     caplog: pytest.LogCaptureFixture) -> None:
        """The dataset keeps its labels, for others to segment by."""
        make_fingerprinted(SMALL)
        plans = plan_experiment(991, options("follower.features=4", recipe="fusion_alone"))
        assert plans["fuse4seg"]["recipe"]["bilevel"] is None
        assert "segments nothing: models trained by it fuse images. For segmentations, plan with --recipe fuse4seg" in caplog.text
        labels = [json.loads((roots / kind / "Dataset991_Small" / "dataset.json").read_text())["labels"]
                  for kind in ("nnUNet_raw", "nnUNet_preprocessed")]
        assert labels == [{"background": 0, "tumour": 1}] * 2

    def test_share_the_data_of_nnunet_where_these_are_the_same(self, make_fingerprinted: MakeFingerprinted) -> None:
        configurations = plan(LARGE, make_fingerprinted, gpu_memory_target=4, plans_name="Mine")["configurations"]

        assert {name: configurations[name]["data_identifier"] for name in ("2d", "3d_fullres", "3d_lowres")} == {
            "2d": "nnUNetPlans_2d", "3d_fullres": "nnUNetPlans_3d_fullres", "3d_lowres": "Mine_3d_lowres"}

    def test_have_data_of_their_own_at_a_chosen_spacing(self, make_fingerprinted: MakeFingerprinted) -> None:
        configurations = plan(SMALL, make_fingerprinted, overwrite_target_spacing=(1, 0.8, 0.9))["configurations"]

        assert configurations["3d_fullres"]["spacing"] == [1, 0.8, 0.9]
        assert configurations["2d"]["spacing"] == [0.8, 0.9]
        assert {name: found["data_identifier"] for name, found in configurations.items()} == {
            "2d": "Fuse4SegPlans_2d", "3d_fullres": "Fuse4SegPlans_3d_fullres"}


class TestPlannedNetwork:
    def test_wraps_the_unet_that_nnunet_plans(self, make_fingerprinted: MakeFingerprinted) -> None:
        folder = make_fingerprinted(SMALL)
        ExperimentPlanner("Dataset991_Small").plan_experiment()
        stock = json.loads((folder / "nnUNetPlans.json").read_text())["configurations"]
        plan_experiment(991)
        ours = json.loads((folder / "Fuse4SegPlans.json").read_text())["configurations"]

        for name in ("2d", "3d_fullres"):
            assert follower(ours[name]) == stock[name]["architecture"]
            assert ours[name]["architecture"]["arch_kwargs"]["windows"] == [[-1, 3], [-1, 4]]
            wrapping = {"architecture", "batch_size"}
            assert {key: ours[name][key] for key in stock[name] if key not in wrapping} == {
                key: value for key, value in stock[name].items() if key not in wrapping}

    @pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
    def test_is_built_by_nnunet(self, make_fingerprinted: MakeFingerprinted, configuration: str) -> None:
        plans = plan(SMALL, make_fingerprinted, channels=("T1", "T2", "FLAIR"), changes=("follower.features=4",))
        manager = PlansManager(plans).get_configuration(configuration)

        network = get_network_from_plans(manager.network_arch_class_name, manager.network_arch_init_kwargs,
                                         manager.network_arch_init_kwargs_req_import, 3, 2, deep_supervision=False)

        assert isinstance(network, FuseThenSegment)
        assert network(torch.randn(1, 3, *manager.patch_size)).shape == (1, 2, *manager.patch_size)
        unet = follower(plans["configurations"][configuration])
        assert manager.pool_op_kernel_sizes == unet["arch_kwargs"]["strides"]

    @pytest.mark.parametrize(("labelled", "modalities", "chosen", "expected", "brighter"), [
        (True, 2, None, "colour", 0.0), (True, 4, None, "colour", 0.0), (True, 1, None, "grey", 0.0),
        (False, 2, None, "grey", 10.0), (False, 1, None, "grey", 10.0),
        (True, 2, "grey", "grey", 1.0), (True, 2, "fuse4seg", "colour", 0.0), (True, 1, "grey", "grey", 1.0),
        (False, 2, "fusion_alone", "grey", 10.0)])
    def test_fuses_in_colour_where_several_modalities_are_segmented_unless_the_recipe_says_otherwise(
            self, labelled: bool, modalities: int, chosen: str | None, expected: str, brighter: float, roots: Path,
            make_fingerprinted: MakeFingerprinted) -> None:
        folder = make_fingerprinted(SMALL, channels=("T1", "T2", "T1ce", "FLAIR")[:modalities])
        if not labelled:
            shutil.rmtree(roots / "nnUNet_raw" / "Dataset991_Small" / "labelsTr")
        plan_experiment(991, options("follower.features=4", recipe=chosen))
        plans = read_plans(folder / "Fuse4SegPlans.json")
        assert plans["fuse4seg"]["recipe"]["leader"]["fused_image"] == expected
        colours = {"grey": 1, "colour": 3}[expected]
        for configuration in ("2d", "3d_fullres"):
            network = plans["configurations"][configuration]["architecture"]["arch_kwargs"]
            assert network["leader"] == {
                "network_class_name": "fuse4seg.leaders.gate.GateLeader", "_kw_requires_import": [],
                "arch_kwargs": {"reference": 0, "colours": colours, "cross_attention": not labelled, "brighter": brighter,
                                "detail_features": 16, "base_features": 32, "couplings": 1, "transformers": 2}}
            assert len(network["windows"]) == modalities

    def test_shows_the_follower_the_fused_image_alone(self, make_fingerprinted: MakeFingerprinted) -> None:
        make_fingerprinted(SMALL)
        for chosen, channels in (("grey", 1), ("colour", 3)):
            manager = PlansManager(plan_experiment(991, options(f"leader.fused_image={chosen}", "follower.features=4")))
            found = manager.get_configuration("2d")
            network = get_network_from_plans(found.network_arch_class_name, found.network_arch_init_kwargs,
                                             found.network_arch_init_kwargs_req_import, 2, 2, deep_supervision=False)
            first = next(module for module in network.segmentation.modules() if isinstance(module, torch.nn.Conv2d))
            assert first.in_channels == network.fusion.colours == channels

    @pytest.mark.parametrize(("labelled", "chosen", "expected"), [(True, None, False), (True, "true", True), (False, None, True),
                                                                  (False, "false", False)])
    def test_has_a_cross_attention_where_it_is_asked_for_or_fusion_is_all_there_is(
            self, labelled: bool, chosen: str | None, expected: bool, roots: Path,
            make_fingerprinted: MakeFingerprinted) -> None:
        make_fingerprinted(SMALL)
        if not labelled:
            shutil.rmtree(roots / "nnUNet_raw" / "Dataset991_Small" / "labelsTr")
        plan_experiment(991, options(*([f"leader.cross_attention={chosen}"] if chosen else [])))
        plans = read_plans(roots / "nnUNet_preprocessed" / "Dataset991_Small" / "Fuse4SegPlans.json")
        leader = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["leader"]["arch_kwargs"]
        assert leader["cross_attention"] is plans["fuse4seg"]["recipe"]["leader"]["cross_attention"] is expected

    def test_has_the_reference_that_the_user_else_the_dataset_else_the_order_names(
            self, roots: Path, make_fingerprinted: MakeFingerprinted) -> None:
        def reference(*changes: str) -> int:
            plan_experiment(991, options("leader.cross_attention=true", *changes))
            plans = read_plans(roots / "nnUNet_preprocessed" / "Dataset991_Small" / "Fuse4SegPlans.json")
            return plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["leader"]["arch_kwargs"]["reference"]

        make_fingerprinted(SMALL, channels=("T1", "T2", "FLAIR"))
        assert reference() == 0
        path = roots / "nnUNet_raw" / "Dataset991_Small" / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "reference_modality": "FLAIR"}))
        assert reference() == 2
        assert reference("leader.reference=T2") == 1

    def test_has_the_features_that_were_asked_for(self, make_fingerprinted: MakeFingerprinted) -> None:
        configurations = plan(LARGE, make_fingerprinted, changes=("follower.features=16",))["configurations"]

        assert follower(configurations["2d"])["arch_kwargs"]["features_per_stage"][:6] == [16, 32, 64, 128, 256, 256]
        assert follower(configurations["3d_fullres"])["arch_kwargs"]["features_per_stage"][:5] == [16, 32, 64, 128, 160]


class TestMemory:
    def test_is_filled_and_not_passed(self, make_fingerprinted: MakeFingerprinted) -> None:
        plans = plan(LARGE, make_fingerprinted, gpu_memory_target=1, cases=50, changes=("follower.features=8",))

        assert 0.8 < plans["fuse4seg"]["memory"]["3d_fullres"]["total"] <= 1
        assert plans["fuse4seg"]["memory"]["2d"]["total"] <= 1

    def test_predicted_is_that_of_the_plan(self, make_fingerprinted: MakeFingerprinted) -> None:
        plans = plan(SMALL, make_fingerprinted, gpu_memory_target=1, changes=("follower.features=4",))

        found = plans["configurations"]["2d"]
        counted = count_memory(found["architecture"], found["patch_size"], found["batch_size"], training_of(plans))
        assert plans["fuse4seg"]["memory"]["2d"] == counted.to_plain()

    def test_fits_a_next_larger_batch_no_more(self, make_fingerprinted: MakeFingerprinted) -> None:
        plans = plan((24, 96, 80), make_fingerprinted, gpu_memory_target=0.2, cases=1000, changes=("follower.features=4",))

        found = plans["configurations"]["2d"]
        sizes = [count_memory(found["architecture"], found["patch_size"], found["batch_size"] + more, training_of(plans)).total
                 for more in (0, 2)]
        assert sizes[0] <= 0.2e9 < sizes[1]

    def test_is_planned_for_the_hypergradient(self, make_fingerprinted: MakeFingerprinted) -> None:
        make_fingerprinted((24, 96, 80), cases=1000)
        patches = [plan_experiment(991, options("follower.features=4", f"bilevel.hypergradient={name}", gpu_memory_target=0.2))
                   ["configurations"]["3d_fullres"]["patch_size"] for name in ("gauss_newton", "joint")]
        assert math.prod(patches[0]) > math.prod(patches[1])

    def test_that_holds_no_patch_is_refused_with_what_would_fit(self, make_fingerprinted: MakeFingerprinted) -> None:
        folder = make_fingerprinted(SMALL)
        with pytest.raises(OptionError, match=r"1e-05 GB hold no patch.* would fit into [\d.]+ GB") as refused:
            plan_experiment(991, options("follower.features=4", gpu_memory_target=1e-5))
        assert not (folder / "Fuse4SegPlans.json").exists()

        enough = float(re.search(r"into ([\d.]+) GB", str(refused.value))[1])
        assert "3d_fullres" in plan_experiment(991, options("follower.features=4", gpu_memory_target=enough))["configurations"]

    @pytest.mark.parametrize("channels", [("T1",), ("T1", "FLAIR")])
    def test_that_holds_a_small_patch_is_found_to(self, channels: tuple[str, ...], make_fingerprinted: MakeFingerprinted) -> None:
        plans = plan((32, 48, 40), make_fingerprinted, channels=channels, gpu_memory_target=0.1)
        assert plans["fuse4seg"]["memory"]["3d_fullres"]["total"] <= 0.1

    def test_of_images_that_cannot_be_halved_is_refused(self, make_fingerprinted: MakeFingerprinted) -> None:
        make_fingerprinted((1, 6, 6))
        with pytest.raises(OptionError, match="no patch can be halved once"):
            plan_experiment(991, options("follower.features=4"))

    def test_does_not_make_a_patch_that_cannot_be_halved_a_matter_of_memory(self, make_fingerprinted: MakeFingerprinted) -> None:
        """The follower's coarsest map has 16 voxels along an axis; what was counted before, in 3D, is beside the point."""
        make_fingerprinted((32, 48, 40))
        with pytest.raises(RecipeError, match="patches.size: 8 x 8 cannot be halved once. Give a larger one.$"):
            plan_experiment(991, options("follower.network=cnn_transformer", "follower.blocks=1", "follower.features=4",
                                         "patches.size=8,8"))

    def test_that_is_free_on_the_visible_gpu_is_the_default(self, make_fingerprinted: MakeFingerprinted,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory_target, "visible_gpu", lambda: GPU("Some GPU", total=3.0, free=2.9))
        plans = plan(SMALL, make_fingerprinted, changes=("follower.features=4",))

        assert (plans["fuse4seg"]["gpu"], plans["fuse4seg"]["gpu_memory_target"]) == ("Some GPU", 2.0)


class TestBatchSize:
    @pytest.mark.parametrize(("cap", "batch"), [(6, 6), (5, 4), (3, 2), (2, 2)])
    def test_is_even_and_within_the_cap(self, make_fingerprinted: MakeFingerprinted, cap: int, batch: int) -> None:
        configurations = plan(SMALL, make_fingerprinted, cases=100, changes=(f"patches.largest_batch={cap}",))["configurations"]

        assert configurations["2d"]["batch_size"] == batch

    def test_is_at_least_two(self, make_fingerprinted: MakeFingerprinted) -> None:
        assert plan(SMALL, make_fingerprinted, cases=1)["configurations"]["3d_fullres"]["batch_size"] == 2


class TestSeveralGPUs:
    """Each has the memory that one would have, and an even part of the batch."""

    def test_share_a_batch_of_as_many_as_fit_on_each(self, make_fingerprinted: MakeFingerprinted) -> None:
        folder = make_fingerprinted((24, 96, 80), cases=1000)
        of = [plan_experiment(991, options("follower.features=4", gpu_memory_target=0.2, gpus=gpus)) for gpus in (1, 3)]
        one, three = (plans["configurations"]["2d"] for plans in of)
        assert three["batch_size"] == 3 * one["batch_size"]
        assert three["patch_size"] == one["patch_size"]
        assert [plans["fuse4seg"]["gpus"] for plans in of] == [1, 3]
        assert of[1]["fuse4seg"]["memory"]["2d"] == of[0]["fuse4seg"]["memory"]["2d"]
        assert json.loads((folder / "Fuse4SegPlans.json").read_text())["fuse4seg"]["gpus"] == 3
        assert f"batch {three['batch_size']} on 3 GPUs, spacing" in describe_plans(of[1])[0]
        assert describe_plans(of[1])[0].endswith(f"{of[1]['fuse4seg']['memory']['2d']['total']:.2f} GB each")

    @pytest.mark.parametrize(("cap", "gpus", "batch"), [(16, 2, 16), (15, 2, 12), (16, 3, 12)])
    def test_keep_to_the_cap_together(self, make_fingerprinted: MakeFingerprinted, cap: int, gpus: int, batch: int) -> None:
        plans = plan(SMALL, make_fingerprinted, cases=1000, changes=(f"patches.largest_batch={cap}", "follower.features=4"),
                     gpus=gpus)
        assert plans["configurations"]["2d"]["batch_size"] == batch

    def test_that_need_more_than_suits_the_dataset_are_warned_of(self, make_fingerprinted: MakeFingerprinted,
                                                                caplog: pytest.LogCaptureFixture) -> None:
        plans = plan(SMALL, make_fingerprinted, cases=1000, changes=("patches.largest_batch=6", "follower.features=4"), gpus=4)
        assert plans["configurations"]["2d"]["batch_size"] == 8
        assert "2d: 4 GPUs share 8 samples at least, and 6 suit the data. Use fewer" in caplog.messages

    def test_must_be_one_at_least(self) -> None:
        with pytest.raises(OptionError, match="^-num_gpus: must be at least 1, got 0"):
            PlanOptions(gpus=0)


class TestPlansFile:
    def test_says_how_it_was_made(self, make_fingerprinted: MakeFingerprinted) -> None:
        plans = plan(SMALL, make_fingerprinted, gpu_memory_target=2, changes=("follower.features=8", "patches.largest_batch=4"))

        recipe = changed(read_recipe("fuse4seg"), ["follower.features=8", "patches.largest_batch=4"])
        assert plans["fuse4seg"] == {"version": __version__, "channel_names": ["T1", "FLAIR"], "gpu_memory_target": 2,
                                     "recipe": json.loads(json.dumps(to_plain(recipe))), "gpu": None, "gpus": 1,
                                     "overwrite_target_spacing": None, "memory": plans["fuse4seg"]["memory"],
                                     "information_on_reference": {}}
        assert planned_recipe(plans, "plans") == recipe
        assert plans["plans_name"] == "Fuse4SegPlans"

    def test_is_the_same_from_nnunets_api(self, make_fingerprinted: MakeFingerprinted) -> None:
        path = make_fingerprinted(SMALL) / "Fuse4SegPlans.json"
        plan_experiment(991)
        ours = read_plans(path)

        plan_experiment_dataset(991, Fuse4SegPlanner)

        assert read_plans(path) == ours

    def test_comes_with_the_datasets_description(self, roots: Path, make_fingerprinted: MakeFingerprinted) -> None:
        plan(SMALL, make_fingerprinted)

        copies = [roots / name / "Dataset991_Small" / "dataset.json" for name in ("nnUNet_raw", "nnUNet_preprocessed")]
        assert copies[0].read_text() == copies[1].read_text()

    def test_keeps_configurations_that_the_user_added(self, roots: Path, make_fingerprinted: MakeFingerprinted) -> None:
        plans = plan(SMALL, make_fingerprinted)
        path = roots / "nnUNet_preprocessed" / "Dataset991_Small" / "Fuse4SegPlans.json"
        added = {"2d_bs8": {"inherits_from": "2d", "batch_size": 8}, "orphan": {"inherits_from": "3d_lowres"},
                 "child": {"inherits_from": "orphan"}, "3d_cascade_fullres": {"inherits_from": "3d_fullres"}}
        plans["configurations"].update(added)
        path.write_text(json.dumps(plans))

        plan_experiment(991)

        assert set(read_plans(path)["configurations"]) == {"2d", "3d_fullres", "2d_bs8"}

    def test_of_nnunet_is_not_overwritten(self, make_fingerprinted: MakeFingerprinted) -> None:
        folder = make_fingerprinted(SMALL)
        (folder / "nnUNetPlans.json").write_text('{"configurations": {}}')

        with pytest.raises(OptionError, match="-overwrite_plans_name.*not made by this planner"):
            plan_experiment(991, options(plans_name="nnUNetPlans"))
        assert (folder / "nnUNetPlans.json").read_text() == '{"configurations": {}}'

    def test_that_is_damaged_is_replaced(self, make_fingerprinted: MakeFingerprinted) -> None:
        folder = make_fingerprinted(SMALL)
        (folder / "Fuse4SegPlans.json").write_text("{")

        plan_experiment(991)

        assert "2d" in read_plans(folder / "Fuse4SegPlans.json")["configurations"]


class TestPatches:
    def test_of_a_recipe_are_taken_as_they_are(self, make_fingerprinted: MakeFingerprinted) -> None:
        plans = plan((24, 96, 80), make_fingerprinted, cases=1000, changes=("patches.size=64,48", "patches.batch=6",
                                                                            "follower.features=4"))
        two, three = (plans["configurations"][name] for name in ("2d", "3d_fullres"))
        assert (two["patch_size"], two["batch_size"], three["batch_size"]) == ([64, 48], 6, 6)
        assert three["patch_size"] != [64, 48]
        assert two["median_image_size_in_voxels"] == [96, 80]

    def test_that_cannot_be_halved_often_enough_are_refused_with_what_can(self, make_fingerprinted: MakeFingerprinted) -> None:
        make_fingerprinted((24, 96, 80))
        with pytest.raises(RecipeError, match="patches.size: 50 x 48 cannot be had with .* Give 56 x 48"):
            plan_experiment(991, options("patches.size=50,48", "follower.features=4"))

    def test_beyond_the_memory_have_a_smaller_batch(self, make_fingerprinted: MakeFingerprinted,
                                                    caplog: pytest.LogCaptureFixture) -> None:
        plans = plan((24, 96, 80), make_fingerprinted, cases=1000, gpu_memory_target=0.05,
                     changes=("patches.size=96,80", "patches.batch=64", "follower.features=4"))
        assert plans["configurations"]["2d"]["patch_size"] == [96, 80]
        batch = plans["configurations"]["2d"]["batch_size"]
        assert 2 <= batch < 64
        assert (f"2d: batch 64 of recipe {plans['fuse4seg']['recipe']['name']} is cut to {batch}: 0.05 GB hold no more"
                in caplog.messages)

    def test_that_no_batch_of_two_fits_are_cut_to_the_memory_with_a_warning(self, make_fingerprinted: MakeFingerprinted,
                                                                          caplog: pytest.LogCaptureFixture) -> None:
        make_fingerprinted((24, 384, 384))
        changes = "patches.size=384,384", "follower.features=4"
        plans = plan_experiment(991, options(*changes, gpu_memory_target=0.05))
        found = plans["configurations"]["2d"]["patch_size"]
        assert math.prod(found) < 384 * 384
        assert plans["fuse4seg"]["memory"]["2d"]["total"] <= 0.05
        assert (f"patch 384 x 384 of recipe {plans['fuse4seg']['recipe']['name']} is cut to {found[0]} x {found[1]}: "
                "0.05 GB hold no more") in caplog.messages


class TestRefusals:
    def test_of_a_recipe_that_segments_without_labels(self, roots: Path, make_fingerprinted: MakeFingerprinted) -> None:
        folder = make_fingerprinted(SMALL)
        shutil.rmtree(roots / "nnUNet_raw" / "Dataset991_Small" / "labelsTr")
        said = "fuse4seg: bilevel: the dataset has no labels to segment. Plan it with --recipe fusion_alone"
        with pytest.raises(RecipeError, match=f"^{said}"):
            plan_experiment(991, PlanOptions(recipe="fuse4seg"))
        assert not list(folder.glob("*Plans*.json"))

    @pytest.mark.parametrize(("changes", "said"), [
        (("losses.own=1",), "losses.own: the leader gate has nothing for it. Set it to 0."),
        (("pretraining.epochs=1", "pretraining.own=true"), "pretraining.own: the leader gate has nothing for it.")])
    def test_of_a_leader_that_lacks_what_its_recipe_asks_for(self, changes: tuple[str, ...], said: str,
                                                             make_fingerprinted: MakeFingerprinted) -> None:
        folder = make_fingerprinted(SMALL)
        with pytest.raises(RecipeError, match=f": {said}"):
            plan_experiment(991, options(*changes))
        assert not list(folder.glob("*Plans*.json"))

    def test_of_a_reference_that_asks_nobody_name_what_would(self, make_fingerprinted: MakeFingerprinted) -> None:
        folder = make_fingerprinted(SMALL)
        with pytest.raises(RecipeError, match="leader.reference: FLAIR would ask the others .* Set leader.cross_attention=true"):
            plan_experiment(991, options("leader.reference=FLAIR"))
        assert not (folder / "Fuse4SegPlans.json").exists()

    def test_of_a_reference_that_the_dataset_lacks_name_those_it_has(self, roots: Path,
                                                                     make_fingerprinted: MakeFingerprinted) -> None:
        folder = make_fingerprinted(SMALL)
        with pytest.raises(RecipeError, match="leader.reference: the dataset has no modality 'T2'. Name one of: T1, FLAIR"):
            plan_experiment(991, options("leader.reference=T2", "leader.cross_attention=true"))
        path = roots / "nnUNet_raw" / "Dataset991_Small" / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "reference_modality": "PET"}))
        with pytest.raises(DatasetJsonError, match="reference_modality: the dataset has no modality 'PET'"):
            plan_experiment(991)
        assert not (folder / "Fuse4SegPlans.json").exists()

    def test_of_a_dataset_that_is_not_there(self, roots: Path) -> None:
        with pytest.raises(DatasetNotFoundError, match="991"):
            plan_experiment(991)

    def test_of_a_dataset_without_fingerprint(self, make_raw: Callable[..., Path]) -> None:
        make_raw()

        with pytest.raises(FingerprintNotFoundError, match="is missing"):
            plan_experiment(991)

    @pytest.mark.parametrize(("key", "value", "problem"), [
        ("intensity_windows_per_channel", None, "no intensity windows"),
        ("intensity_windows_per_channel", {"0": {"low": 0, "high": 1}}, "1 windows for 2 channels")])
    def test_of_a_fingerprint_without_a_window_per_channel(self, make_fingerprinted: MakeFingerprinted, key: str,
                                                           value: Any, problem: str) -> None:
        path = make_fingerprinted(SMALL) / "dataset_fingerprint.json"
        content = json.loads(path.read_text())
        content.pop(key)
        path.write_text(json.dumps(content if value is None else {**content, key: value}))

        with pytest.raises(FingerprintNotFoundError, match=problem):
            plan_experiment(991)
