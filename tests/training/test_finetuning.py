"""Fine-tuning: what fits of a trained model is taken over, each modality and class by its name, and the rest starts anew."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fuse4seg.checkpoint import load_checkpoint
from fuse4seg.cli.train import main
from fuse4seg.comparison.stock_nnunet import make_stock_trainer, stock_plans
from fuse4seg.files import checksum
from fuse4seg.model_errors import CheckpointError
from fuse4seg.networks.fuse_then_segment import FuseThenSegment, build_planned
from fuse4seg.recipes.reading import read_recipe
from fuse4seg.steps.levels import build_levels
from fuse4seg.training.finetuning import Beginner, transfer
from fuse4seg.training.origin import FOLLOWER, Labels, Origin
from fuse4seg.training.run import Training, make_trainer
from fuse4seg.training.weight_roles import roles_of
from tests.conftest import FOLLOWER as UNET
from tests.conftest import LEADER

Images = Callable[..., torch.Tensor]
Interrupted = Callable[..., AbstractContextManager[None]]
TUMOUR = {"background": 0, "oedema": 1, "tumour": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


def labels(classes: dict[str, Any]) -> Labels:
    return Labels.of({"labels": classes, "regions_class_order": [1, 2]})


def unet(axes: int = 2, **changed: Any) -> dict[str, Any]:
    """A tiny U-Net's part of plans."""
    follower = deepcopy(UNET)
    if axes == 3:
        follower["arch_kwargs"].update(conv_op="torch.nn.modules.conv.Conv3d", kernel_sizes=[[3] * 3] * 3,
                                       norm_op="torch.nn.modules.instancenorm.InstanceNorm3d",
                                       strides=[[1] * 3, [2] * 3, [2] * 3])
    follower["arch_kwargs"].update(changed)
    return follower


def beginner(*modalities: str, classes: dict[str, Any] = TUMOUR, colours: int = 3, reference: int = 0, axes: int = 2,
             extra: int = 0, follower: dict[str, Any] | None = None, recipe: str = "fuse4seg", seed: int = 1,
             features: tuple[int, int] = (4, 8)) -> Beginner:
    """A new model, drawn by a seed; ``features`` are the leader's, fine and coarse."""
    follower, outputs = follower or unet(axes), len(classes) - any(isinstance(value, list) for value in classes.values())
    arguments = {**LEADER["arch_kwargs"], "colours": colours, "reference": reference, "detail_features": features[0],
                 "base_features": features[1]}
    architecture = {"leader": {**LEADER, "arch_kwargs": arguments}, "follower": follower,
                    "strides": [[1] * axes, [2] * axes, [2] * axes]}
    torch.manual_seed(seed)
    network = FuseThenSegment(len(modalities) + extra, outputs, conv_op=(nn.Conv2d, nn.Conv3d)[axes - 2],
                              windows=[[-2.0, 2.0]] * len(modalities), **architecture)
    levels = build_levels(network.apply(network.initialize), classes=outputs, recipe=read_recipe(recipe))
    model = Beginner(levels, "2d", modalities, labels(classes), extra,
                     roles_of(network, architecture, inputs=colours + extra, classes=outputs))
    with torch.no_grad():
        for weight in model.weights().values():
            weight.add_(0.1 * torch.randn(weight.shape))  # no two models agree by chance, as zeros and ones would
    return model


def origin_of(model: Beginner, tmp: Any = "model.pth", **changed: Any) -> Origin:
    """A model as if it had been trained and read again."""
    weights = {name: weight.detach().clone() for name, weight in model.weights().items()}
    return replace(Origin(tmp, {"model": "a model", "sha256": "0"}, weights, model.modalities, model.labels, model.extra,
                          is_ours=True, segments=True), **changed)


def stock_origin(network: nn.Module, modalities: Sequence[str], classes: dict[str, Any] = TUMOUR, extra: int = 0) -> Origin:
    weights = {FOLLOWER + name: weight.clone() for name, weight in network.state_dict().items()}
    return Origin("stock.pth", {"model": "stock.pth", "sha256": "0"}, weights, tuple(modalities), labels(classes), extra,
                  is_ours=False, segments=True)


def begin(model: Beginner, origin: Origin) -> list[str]:
    """Take over; returns what is said of it, but for the first line."""
    taken = transfer(origin, model)
    taken.carry_out()
    return list(taken.account())[1:]


def untouched(model: Beginner, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, weight in model.weights().items() if torch.equal(weight, before[name])}


def copied(model: Beginner) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.weights().items()}


class TestTheSameModel:
    def test_is_taken_over_whole_and_has_the_same_loss(self, random_images: Images) -> None:
        old, new = beginner("T1", "FLAIR"), beginner("T1", "FLAIR", seed=2)
        images, target = random_images(2, 2, 16, 16), torch.randint(3, (2, 16, 16), generator=torch.Generator().manual_seed(0))
        losses = [functional.cross_entropy(old.levels.network(images), target)]
        assert functional.cross_entropy(new.levels.network(images), target) != losses[0]
        said = begin(new, origin_of(old))
        assert functional.cross_entropy(new.levels.network(images), target) == losses[0]
        assert all(torch.equal(weight, old.weights()[name]) for name, weight in new.weights().items())
        assert said[-2:] == ["  modalities: T1, FLAIR", "  segmentation heads: 4 of 4 weights"]
        assert [line.split(":")[0].strip() for line in said[:-2]] == [
            "leader's encoder", "leader's fusion", "follower's encoder", "follower's decoder", "auxiliary head", "discriminators"]
        counts = [line.split(": ")[1].split(" ")[0::2][:2] for line in said[:-2]]
        assert all(taken == of for taken, of in counts)

    def test_that_has_a_part_more_says_what_is_left_out(self) -> None:
        origin = origin_of(beginner("T1"))
        assert not [line for line in begin(beginner("T1", seed=2), origin) if "left out" in line]
        origin.weights["fusion.cross_attention.query.weight"] = torch.ones(8, 8)
        said = begin(beginner("T1", seed=2), origin)
        assert "  left out, as this leader has no such part: 1 weights of its cross_attention" in said

    def test_moves_the_weights_that_the_optimisers_have(self) -> None:
        new = beginner("T1")
        before = [id(weight) for level in (new.levels.leader, new.levels.follower)
                  for group in level.optimiser.param_groups for weight in group["params"]]
        begin(new, origin_of(beginner("T1", seed=2)))
        after = {id(weight) for weight in new.weights().values()}
        assert set(before) <= after


class TestModalities:
    def test_in_another_order_are_matched_by_their_names(self, random_images: Images) -> None:
        """Of one colour: a palette colours modalities by their places. The same one asks in the cross-attention."""
        old, new = beginner("T1", "FLAIR", colours=1), beginner("t2f", "t1", colours=1, reference=1, seed=2)
        begin(new, origin_of(old))
        images = random_images(1, 2, 16, 16)
        found, wanted = (model.levels.network(channels) for model, channels in ((new, images.flip(1)), (old, images)))
        torch.testing.assert_close(found, wanted)
        for ours, theirs in ((0, 1), (1, 0)):
            found, wanted = (model.levels.adversary.each[number](images[:, :1])
                             for model, number in ((new, ours), (old, theirs)))
            torch.testing.assert_close(found, wanted)

    def test_that_are_new_start_as_a_new_network_s_and_others_are_dropped(self) -> None:
        old, new = beginner("T1", "CT", "FLAIR"), beginner("FLAIR", "T2", "T1", "PET", seed=2)
        drawn = copied(new)
        said = begin(new, origin_of(old))
        rows, before = (model.levels.network.fusion.encoder.modality for model in (new, old))
        assert torch.equal(rows[[0, 2]], before[[2, 0]])
        assert torch.equal(rows[[1, 3]], drawn["fusion.encoder.modality"][[1, 3]])
        assert {name.split(".")[2] for name in untouched(new, drawn) if name.startswith("discriminators.")} == {"1", "3"}
        assert "  modalities: FLAIR, T1; anew: T2, PET" in said

    def test_none_of_which_is_known_leave_what_all_share(self) -> None:
        old, new = beginner("CT"), beginner("T1", "T2", seed=2)
        drawn = copied(new)
        said = begin(new, origin_of(old))
        assert "  modalities: none; anew: T1, T2" in said
        still = untouched(new, drawn)
        assert {name for name in still if name.startswith("fusion.encoder.")} == {"fusion.encoder.modality"}
        # One modality has no cross-attention that could be taken.
        assert {name.split(".")[1] for name in still if name.startswith("fusion.")} == {"encoder", "cross_attention"}


class TestClasses:
    def test_are_taken_over_row_by_row_where_their_names_are_the_same(self) -> None:
        old = beginner("T1")
        new = beginner("T1", classes={"background": 0, "Tumour": 1, "necrosis": 2, "cyst": 3}, seed=2)
        drawn = copied(new)
        said = begin(new, origin_of(old))
        for name in new.roles.classes:
            assert torch.equal(new.weights()[name][[0, 1]], old.weights()[name][[0, 2]])
            assert torch.equal(new.weights()[name][[2, 3]], drawn[name][[2, 3]])
        assert said[-1] == "  segmentation heads: 4 of 4 weights, classes background, tumour; anew: necrosis, cyst"

    def test_of_the_same_number_are_not_mistaken_for_the_same(self) -> None:
        old, new = beginner("T1"), beginner("T1", classes={"background": 0, "tumour": 1, "oedema": 2}, seed=2)
        begin(new, origin_of(old))
        head = "segmentation.decoder.seg_layers.1.weight"
        assert torch.equal(new.weights()[head], old.weights()[head][[0, 2, 1]])

    @pytest.mark.parametrize(("before", "now", "whole"), [(REGIONS, REGIONS, True), (TUMOUR, REGIONS, False),
                                                          (REGIONS, {"background": 0, "core": 1}, False)])
    def test_of_regions_are_taken_whole_or_not_at_all(self, before: dict[str, Any], now: dict[str, Any], whole: bool) -> None:
        old, new = beginner("T1", classes=before), beginner("T1", classes=now, seed=2)
        drawn = copied(new)
        said = begin(new, origin_of(old))
        assert said[-1] == f"  segmentation heads: {4 * whole} of 4 weights"
        assert (untouched(new, drawn) >= new.roles.classes.keys()) is not whole

    @pytest.mark.parametrize(("origin", "recipe"), [("labelled", "fusion_alone"), ("unlabelled", "fuse4seg")])
    def test_without_labels_before_or_now_leave_the_follower_as_it_is(self, origin: str, recipe: str) -> None:
        old, new = beginner("T1", "T2"), beginner("T1", "T2", recipe=recipe, seed=2)
        drawn = copied(new)
        begin(new, origin_of(old, segments=origin == "labelled"))
        assert {name.split(".")[0] for name in untouched(new, drawn)} == {"segmentation", "auxiliary_head"}


class TestStem:
    STEM = "segmentation.encoder.stages.0.0.convs.0.conv.weight"

    @pytest.mark.parametrize(("before", "now"), [(1, 3), (3, 1)])
    def test_of_another_number_of_colours_answers_grey_images_alike(self, before: int, now: int, random_images: Images) -> None:
        old, new = beginner("T1", "T2", colours=before), beginner("T1", "T2", colours=now, seed=2)
        assert f"  first layer: from {before} to {now} channels" in begin(new, origin_of(old))
        grey = random_images(1, 1, 16, 16)
        found, wanted = (model.levels.network.segment(grey.expand(-1, colours, -1, -1))
                         for model, colours in ((new, now), (old, before)))
        torch.testing.assert_close(found, wanted)

    def test_with_a_cascade_s_labels_takes_them_where_they_are_the_same(self) -> None:
        old, drawn = beginner("T1", extra=2), copied(beginner("T1", extra=2, seed=2))[self.STEM]
        same, other = (beginner("T1", extra=2, seed=2, classes=classes)
                       for classes in (TUMOUR, {"background": 0, "oedema": 1, "cyst": 2}))
        for model in (same, other):
            begin(model, origin_of(old))
        assert torch.equal(same.weights()[self.STEM], old.weights()[self.STEM])
        assert torch.equal(other.weights()[self.STEM][:, :3], old.weights()[self.STEM][:, :3])
        assert torch.equal(other.weights()[self.STEM][:, 3:], drawn[:, 3:])


class TestStockNnunet:
    def network(self, channels: int, **changed: Any) -> nn.Module:
        torch.manual_seed(5)
        return build_planned(unet(**changed), input_channels=channels, num_classes=3, deep_supervision=False)

    @pytest.mark.parametrize("channels", [1, 3, 4])
    @pytest.mark.parametrize("colours", [1, 3])
    def test_s_network_is_what_the_follower_becomes_for_a_grey_stack(self, channels: int, colours: int,
                                                                     random_images: Images) -> None:
        network, new = self.network(channels), beginner("T1", "T2", colours=colours)
        said = begin(new, stock_origin(network, [f"channel {number}" for number in range(channels)]))
        grey = random_images(2, 1, 16, 16)
        found = new.levels.network.segmentation(grey.expand(-1, colours, -1, -1))
        torch.testing.assert_close(found, network(grey.expand(-1, channels, -1, -1)))
        assert said[0].startswith("  leader's encoder: 0 of ")
        assert not any("modalities" in line for line in said)

    def test_of_more_stages_shares_the_finest(self) -> None:
        deep = {"n_stages": 4, "features_per_stage": [4, 8, 8, 8], "kernel_sizes": [[3, 3]] * 4, "n_conv_per_stage": [1] * 4,
                "strides": [[1, 1], *[[2, 2]] * 3], "n_conv_per_stage_decoder": [1] * 3}
        network, new = self.network(2, **deep), beginner("T1")
        drawn = copied(new)
        begin(new, stock_origin(network, ["T1", "T2"]))
        theirs, ours = network.state_dict(), new.levels.network.segmentation.state_dict()
        for place in (0, 1):
            for entries in ("stages", "transpconvs", "seg_layers"):
                mine, its = ({name.partition(f"decoder.{entries}.{number}.")[2]: weight for name, weight in weights.items()
                              if name.startswith(f"decoder.{entries}.{number}.")}
                             for weights, number in ((ours, place), (theirs, place + 1)))
                assert mine.keys() == its.keys() != set()
                assert all(torch.equal(weight, its[name]) for name, weight in mine.items())
        assert not any(name.startswith("segmentation.") for name in untouched(new, drawn))

    def test_has_nothing_for_a_recipe_without_labels(self) -> None:
        with pytest.raises(CheckpointError, match="stock.pth: has a segmentation network alone, and this recipe"):
            begin(beginner("T1", "T2", recipe="fusion_alone"), stock_origin(self.network(2), ["T1", "T2"]))


class TestRefusals:
    def refused(self, new: Beginner, origin: Origin, match: str) -> None:
        before = copied(new)
        with pytest.raises(CheckpointError, match=match) as caught:
            begin(new, origin)
        assert len(str(caught.value).splitlines()) == 1
        assert untouched(new, before) == before.keys()

    def test_of_another_dimension(self) -> None:
        self.refused(replace(beginner("T1", axes=3, seed=2), configuration="3d_fullres"), origin_of(beginner("T1")),
                     "model.pth: holds weights of another dimension: for images of 2 axes, and 3d_fullres has 3. Give a")

    def test_of_other_features(self) -> None:
        wide = unet(features_per_stage=[6, 12, 12])
        self.refused(beginner("T1", follower=wide), origin_of(beginner("T1")), "fits nothing of the follower's encoder: it")

    def test_of_another_leader(self) -> None:
        self.refused(beginner("T1", features=(6, 16)), origin_of(beginner("T1")), "fits nothing of the leader's encoder: it")

    def test_of_weights_that_are_not_finite(self) -> None:
        origin = origin_of(beginner("T1"))
        origin.weights["fusion.gate.brighter"].fill_(torch.nan)
        self.refused(beginner("T1", seed=2), origin, "model.pth: holds weights that are NaN or infinite.")


class TestTraining:
    CHANGES = ("pretraining.epochs=1", "training.epochs=1", "training.iterations=1")
    TRAINING = Training("990", "2d", 0, device="cpu", changes=CHANGES)
    WORDS = ("990", "2d", "0", "-device", "cpu", "--set", *CHANGES)

    def test_begins_with_a_model_and_goes_on_without_it(self, own_results: Path, trained_model: Path, tmp_path: Path,
                                                        interrupted: Interrupted, capsys: pytest.CaptureFixture[str]) -> None:
        """Stage 1, which the recipe has, begins with the leader that was taken over."""
        origin = shutil.copy(trained_model / "fold_0" / "checkpoint_final.pth", tmp_path / "mine.pth")
        theirs = load_checkpoint(origin)
        words = [*self.WORDS, "-pretrained_weights", str(origin)]
        fold = own_results / "Dataset990_Phantom" / self.TRAINING.folder_name / "fold_0"
        with interrupted("pre-training", epoch=0):
            assert main(words) == 130
        assert "taken over from mine.pth (the rest starts anew):" in capsys.readouterr().err.splitlines()
        begun = load_checkpoint(fold / "checkpoint_latest.pth")
        for part in ("network_weights", "auxiliary_head", "discriminators"):
            assert all(torch.equal(weight, theirs[part][name]) for name, weight in begun[part].items())
        assert begun["leader_optimizer_state"]["state"] == {}
        shutil.copytree(fold, tmp_path / "interrupted")
        shutil.rmtree(fold)

        assert main(words) == 0
        whole = load_checkpoint(fold / "checkpoint_final.pth")
        assert whole["fine_tuned_from"] == {"model": "mine.pth", "sha256": checksum(origin)}
        assert whole["fine_tuned_from"] == begun["fine_tuned_from"]
        assert not all(torch.equal(weight, theirs["network_weights"][name]) for name, weight in whole["network_weights"].items())

        origin.unlink()
        shutil.rmtree(fold)
        shutil.copytree(tmp_path / "interrupted", fold)
        make_trainer(self.TRAINING, resume=True).run_training()
        resumed = load_checkpoint(fold / "checkpoint_final.pth")
        assert all(torch.equal(weight, whole["network_weights"][name]) for name, weight in resumed["network_weights"].items())
        assert resumed["fine_tuned_from"] == whole["fine_tuned_from"]

    def test_begins_with_what_nnunet_itself_has_written(self, own_results: Path, tmp_path: Path, random_images: Images) -> None:
        folder = Path(os.environ["nnUNet_preprocessed"]) / "Dataset990_Phantom"
        plans, dataset_json = (json.loads((folder / name).read_text()) for name in ("Fuse4SegPlans.json", "dataset.json"))
        stock = make_stock_trainer({**stock_plans(plans), "continue_training": False}, "2d", 0, dataset_json, torch.device("cpu"))
        stock.initialize()
        stock.logger.log("mean_fg_dice", np.float64(0.5), 0)
        stock.save_checkpoint(str(tmp_path / "stock.pth"))
        ours = make_trainer(self.TRAINING, pretrained_weights=tmp_path / "stock.pth")
        ours.initialize()
        for trainer in (stock, ours):
            trainer.set_deep_supervision_enabled(False)
        grey, follower = random_images(1, 1, 64, 64), ours.network.segmentation
        torch.testing.assert_close(follower(grey.expand(-1, 3, -1, -1)), stock.network(grey.expand(-1, 4, -1, -1)),
                                   rtol=1e-3, atol=1e-4)

    def test_of_another_fold_of_the_same_dataset_warns_of_its_validation(self, own_results: Path, trained_model: Path,
                                                                         caplog: pytest.LogCaptureFixture) -> None:
        for fold in (0, 1):
            make_trainer(replace(self.TRAINING, fold=fold), pretrained_weights=trained_model)
            assert ("it has trained on cases that fold 1 validates" in caplog.text) is (fold == 1)

    def test_from_scratch_says_so(self, trained_model: Path) -> None:
        assert load_checkpoint(trained_model / "fold_0" / "checkpoint_final.pth")["fine_tuned_from"] is None
