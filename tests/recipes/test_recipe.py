"""What a recipe may say: types, ranges and choices, each refused in one line with what would do."""

from __future__ import annotations

import math
from dataclasses import Field, fields, replace
from typing import Any

import pytest
import torch

from fuse4seg.errors import RecipeError
from fuse4seg.losses.fusion import OF_EACH, OF_THE_STRONGEST
from fuse4seg.networks.fuse_then_segment import build_planned
from fuse4seg.planning.leaders import COLOURS, leader_architecture, leader_class
from fuse4seg.recipes import recipe as known
from fuse4seg.recipes.kinds import FOLDERS, network_names
from fuse4seg.recipes.reading import read_recipe, recipe_names
from fuse4seg.recipes.recipe import SECTIONS, Bilevel, Losses, Section
from fuse4seg.steps.hypergradients import ESTIMATORS
from fuse4seg.steps.levels import follower_optimiser

USUAL = read_recipe("fuse4seg")
#: Each section as the usual recipe has it; leader and follower of other networks as their recipes do.
SAID = {(name, ""): getattr(USUAL, name) for name in SECTIONS} | {
    (name, section.network): section for name in FOLDERS for recipe in recipe_names()
    if type(section := getattr(read_recipe(recipe), name)) is not type(getattr(USUAL, name))}
ENTRIES = [(*which, own.name) for which, section in SAID.items() for own in fields(section)
           if which[1] == "" or not hasattr(getattr(USUAL, which[0]), own.name)]


def entry_of(section: str, network: str, entry: str) -> Field:
    return next(own for own in fields(SAID[section, network]) if own.name == entry)


class TestEntries:
    @pytest.mark.parametrize(("section", "network", "entry"), ENTRIES)
    def test_say_what_they_mean(self, section: str, network: str, entry: str) -> None:
        about = entry_of(section, network, entry).metadata["about"]
        assert len(about.split()) >= 2
        assert not about.endswith(".")

    @pytest.mark.parametrize(("section", "network", "entry"),
                             [which for which in ENTRIES if entry_of(*which).metadata["least"] is not None])
    @pytest.mark.parametrize("value", [-1, math.nan, math.inf, "2", None, True])
    def test_refuse_what_is_no_number_in_range(self, section: str, network: str, entry: str, value: Any) -> None:
        if isinstance(getattr(SAID[section, network], entry), tuple):
            value = (value,)
        with pytest.raises(RecipeError, match=rf"^recipe: {section}\.{entry}: "):
            replace(SAID[section, network], **{entry: value})

    @pytest.mark.parametrize(("section", "entry", "value", "said"), [
        ("leader", "network", "unet", "there is no 'unet'. Choose from: " + ", ".join(network_names("leader")) + "."),
        ("leader", "cross_attention", 1, "1 is not true or false."),
        ("leader", "detail_features", 8.0, "8.0 is not a whole number."),
        ("leader", "reference", 3, "3 is not a word."),
        ("follower", "network", "vnet", "there is no 'vnet'. Choose from: " + ", ".join(network_names("follower")) + "."),
        ("follower", "optimiser", "adam", "there is no 'adam'. Choose from: sgd, adamw."),
        ("follower", "momentum", 1.0, "must be from 0 to below 1, got 1."),
        ("patches", "size", (4, 64), "must be at least 8, got 4."),
        ("patches", "size", 64, "64 is not a list of whole numbers."), ("training", "epochs", 0, "must be at least 1, got 0."),
        ("bilevel", "viewing", ("blur", "halo"), "there is no 'halo'. Choose from: blur, gamma, window, noise."),
        ("bilevel", "viewing", "blur", "'blur' is not a list of words.")])
    def test_say_what_would_do(self, section: str, entry: str, value: Any, said: str) -> None:
        with pytest.raises(RecipeError) as refused:
            replace(getattr(USUAL, section), **{entry: value})
        assert str(refused.value).startswith(f"recipe: {section}.{entry}: {said}")

    def test_take_a_whole_number_for_any(self) -> None:
        assert replace(USUAL.losses, edges=3).edges == 3


class TestRecipe:
    def test_refuses_a_still_leader_that_is_to_be_pre_trained(self) -> None:
        still = replace(USUAL.leader, rate=0)
        assert replace(USUAL, leader=still).leader.rate == 0
        with pytest.raises(RecipeError, match="leader.rate: 0 leaves nothing to train in pre-training"):
            replace(USUAL, leader=still, pretraining=replace(USUAL.pretraining, epochs=3))

    @pytest.mark.parametrize("entry", ["batch", "largest_batch"])
    def test_refuses_a_batch_of_one(self, entry: str) -> None:
        with pytest.raises(RecipeError, match=f"patches.{entry}: 1 is too few.*at least 2"):
            replace(USUAL, patches=replace(USUAL.patches, **{entry: 1}))

    @pytest.mark.parametrize(("section", "entry", "value", "said"), [
        ("patches", "size", (64,), "has 1 axes. Give two or three"), ("patches", "size", (8, 8, 8, 8), "has 4 axes"),
        ("leader", "base_features", 10, "must be a multiple of 4, got 10"),
        ("follower", "momentum", 0, "follower.nesterov: needs a momentum above 0. Set it to false, or give one."),
        ("follower", "optimiser", "adamw", "follower.momentum: adamw has none. Set it to 0, and follower.nesterov=false."),
        ("follower", "rate", 10**400, "0000000000 is too large"),
        ("training", "epochs", 10**20, "00000 is too large"),
        ("leader", "detail_features", 10**6, "1000000 is too large"), ("patches", "size", (10**6, 8), "1000000 is too large"),
        ("losses", "edges", 1e39, r"1e\+39 is too large to compute with")])
    def test_refuses_what_no_network_takes(self, section: str, entry: str, value: Any, said: str) -> None:
        with pytest.raises(RecipeError, match=said):
            replace(USUAL, **{section: replace(getattr(USUAL, section), **{entry: value})})

    @pytest.mark.parametrize("change", [
        {"leader": replace(USUAL.leader, rate=0)}, {"losses": Losses.only()},
        {"losses": Losses.only(chroma=1), "leader": replace(USUAL.leader, fused_image="grey")}])
    def test_refuses_to_train_nothing(self, change: dict[str, Section]) -> None:
        with pytest.raises(RecipeError, match="nothing to train where nothing is segmented"):
            replace(USUAL, bilevel=None, **change)
        replace(USUAL, **change)

    @pytest.mark.parametrize("bilevel", [USUAL.bilevel, None])
    def test_refuses_to_segment_without_labels(self, bilevel: Bilevel | None) -> None:
        one = replace(USUAL, bilevel=bilevel)
        assert one.segments is (bilevel is not None)
        one.require_labels(labelled=True)
        if bilevel is None:
            one.require_labels(labelled=False)
            return
        with pytest.raises(RecipeError, match="^fuse4seg: bilevel: the dataset has no labels to segment.*--recipe fusion_alone"):
            one.require_labels(labelled=False)

    @pytest.mark.parametrize("left_out", ["cross_entropy", "dice"])
    def test_refuses_to_segment_by_nothing(self, left_out: str) -> None:
        one = replace(USUAL.bilevel, **{left_out: 0})
        assert replace(USUAL, bilevel=one).bilevel == one
        with pytest.raises(RecipeError, match="bilevel.dice: 0 beside a cross-entropy of 0 leaves nothing to segment by"):
            replace(USUAL, bilevel=replace(one, cross_entropy=0, dice=0))

    def test_lets_adamw_move_a_follower_without_momentum(self) -> None:
        follower = replace(USUAL.follower, optimiser="adamw", momentum=0, nesterov=False)
        assert replace(USUAL, follower=follower).follower.optimiser == "adamw"


class TestNames:
    """Every name that a recipe may say is known where it is computed, and the reverse."""

    def test_of_estimators(self) -> None:
        assert set(ESTIMATORS) == set(known.HYPERGRADIENTS)

    def test_of_fusion_losses(self) -> None:
        apart = {"own", "decomposition", "adversarial", "chroma"}
        assert {part.name for part in fields(Losses)} == {*OF_THE_STRONGEST, *OF_EACH, *apart}

    def test_of_fused_images(self) -> None:
        assert set(COLOURS) == set(known.FUSED_IMAGES)

    @pytest.mark.parametrize("name", recipe_names())
    def test_of_the_leader_s_arguments(self, name: str) -> None:
        last = 1 if leader_class(read_recipe(name)).fuses else 0
        architecture = leader_architecture(read_recipe(name), last)
        with torch.device("meta"):
            network = build_planned(architecture, modalities=last + 1, conv_op=torch.nn.Conv2d, strides=[1, 2, 2])
        assert (network.reference, network.colours) == (last, COLOURS[read_recipe(name).leader.fused_image])

    def test_of_optimisers(self) -> None:
        weights = [torch.nn.Parameter(torch.ones(2))]
        by = replace(USUAL.follower, momentum=0, nesterov=False)
        kinds = [type(follower_optimiser(weights, replace(by, optimiser=name))) for name in known.OPTIMISERS]
        assert kinds == [torch.optim.SGD, torch.optim.AdamW]
