"""What rows train: rivals under the plans' patch, batch and budget, their stage 1 in proportion, and followers laid out anew."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from fuse4seg.comparison.methods import plans_of, recipe_of
from fuse4seg.comparison.rows import Row
from fuse4seg.errors import RecipeError
from fuse4seg.planning.options import PlanOptions
from fuse4seg.planning.planner import planner_for
from fuse4seg.recipes.reading import from_plain, read_recipe, to_plain

DATASET = "Dataset990_Phantom"


@pytest.fixture
def plans(planned_phantom: Path) -> dict[str, Any]:
    """Of 40 epochs, in two modalities."""
    made = json.loads((planned_phantom / "nnUNet_preprocessed" / DATASET / "Fuse4SegPlans.json").read_text())
    made["fuse4seg"]["recipe"]["training"]["epochs"] = 40
    made["fuse4seg"]["channel_names"] = made["fuse4seg"]["channel_names"][:2]
    return made


@pytest.fixture
def known(plans: dict[str, Any]) -> Any:
    return from_plain(plans["fuse4seg"]["recipe"], source="plans")


class TestRecipeOf:
    def test_of_a_rival_has_its_leader_and_losses_under_the_plans_budget(self, plans: dict[str, Any], known: Any) -> None:
        found, published = recipe_of(Row("cddfuse.alone", ours=True, recipe="cddfuse"), plans), read_recipe("cddfuse")
        assert (found.leader, found.losses, found.bilevel) == (published.leader, published.losses, None)
        assert (found.patches, found.follower, found.training) == (known.patches, known.follower, known.training)

    def test_of_a_rival_that_segments_has_its_follower(self, plans: dict[str, Any], known: Any) -> None:
        found, published = recipe_of(Row("paper", ours=True, recipe="paper"), plans), read_recipe("paper")
        assert (found.follower, found.bilevel) == (published.follower, published.bilevel)
        assert (found.patches, found.training) == (known.patches, known.training)

    @pytest.mark.parametrize("name", ["rfn_nest", "cddfuse", "paper"])
    def test_has_a_stage_1_in_the_published_proportion(self, plans: dict[str, Any], name: str) -> None:
        published = read_recipe(name)
        share = published.pretraining.epochs / published.training.epochs
        assert share > 0
        found = recipe_of(Row(name, ours=True, recipe=name), plans)
        assert found.pretraining == replace(published.pretraining, epochs=max(1, round(40 * share)))

    def test_without_a_stage_1_gets_none(self, plans: dict[str, Any]) -> None:
        assert recipe_of(Row("didfuse", ours=True, recipe="didfuse"), plans).pretraining.epochs == 0

    @pytest.mark.parametrize("count", [2, 3])
    def test_folds_more_than_two_modalities_alone(self, plans: dict[str, Any], count: int) -> None:
        plans["fuse4seg"]["channel_names"] = ["T1", "T2", "FLAIR"][:count]
        for row in (Row("didfuse", ours=True, recipe="didfuse"), Row("didfuse+fuse4seg", ours=True, leader="didfuse")):
            assert recipe_of(row, plans).leader.folding == (count > 2)

    def test_of_a_leader_in_our_training_keeps_the_rest_of_the_plans(self, plans: dict[str, Any], known: Any) -> None:
        found, published = recipe_of(Row("didfuse+fuse4seg", ours=True, leader="didfuse"), plans), read_recipe("didfuse")
        assert (found.leader, found.losses) == (published.leader, published.losses)
        assert found.bilevel == replace(known.bilevel, auxiliary_weight=0)
        assert (found.follower, found.training) == (known.follower, known.training)

    def test_of_nobody_else_is_that_of_the_plans(self, plans: dict[str, Any], known: Any) -> None:
        assert recipe_of(Row("fuse4seg", ours=True), plans) == known

    @pytest.mark.parametrize(("row", "said"), [
        (Row("didfuse+fuse4seg", ours=True, leader="didfuse", changes=("bilevel.auxiliary_weight=1",)),
         "bilevel.auxiliary_weight: the leader didfuse has nothing for it"),
        (Row("paper", ours=True, recipe="paper", changes=("follower.features=8",)),
         "follower.features: is the same for all rows"),
        (Row("mine", ours=True, changes=("patches.batch=4",)), "patches.batch: is the same for all rows")])
    def test_refuses_what_does_not_fit(self, plans: dict[str, Any], row: Row, said: str) -> None:
        with pytest.raises(RecipeError, match=re.escape(said)):
            recipe_of(row, plans)

    def test_refuses_one_modality_for_a_pair(self, plans: dict[str, Any]) -> None:
        plans["fuse4seg"]["channel_names"] = ["T1"]
        with pytest.raises(RecipeError, match="didfuse fuses two modalities, and the dataset has one"):
            recipe_of(Row("didfuse", ours=True, recipe="didfuse"), plans)


class TestPlansOf:
    @pytest.mark.parametrize("name", ["paper", "attention_unet"])
    def test_lay_out_another_follower_as_planning_does(self, planned_phantom: Path, name: str) -> None:
        source = planned_phantom / "nnUNet_preprocessed" / DATASET
        plans = json.loads((source / "Fuse4SegPlans.json").read_text())
        plan = plans["configurations"]["2d"]
        row = Row(name, ours=True, recipe=name)
        found = plans_of(row, plans, recipe_of(row, plans), dataset=DATASET, configuration="2d")["configurations"]["2d"]
        size = ",".join(map(str, plan["patch_size"]))
        options = PlanOptions(recipe=name, changes=(f"patches.size={size}", f"patches.batch={plan['batch_size']}"),
                              gpu_memory_target=80, plans_name="Another")
        planner = planner_for(DATASET, options)
        planner.save_plans = lambda _plans: None
        planned = planner.plan_experiment()["configurations"]["2d"]
        recursive_fix_for_json_export(planned)
        planned = json.loads(json.dumps(planned))
        assert planned["patch_size"] == plan["patch_size"]
        assert (found["patch_size"], found["batch_size"]) == (plan["patch_size"], plan["batch_size"])
        followers = [one["architecture"]["arch_kwargs"]["follower"] for one in (found, planned)]
        assert json.loads(json.dumps(followers[0])) == json.loads(json.dumps(followers[1]))
        assert followers[0] != plan["architecture"]["arch_kwargs"]["follower"]

    def test_hold_the_row_s_recipe_and_nothing_else_is_new(self, plans: dict[str, Any]) -> None:
        row = Row("didfuse+fuse4seg", ours=True, leader="didfuse")
        recipe = recipe_of(row, plans)
        found = plans_of(row, plans, recipe, dataset=DATASET, configuration="2d")
        assert found["fuse4seg"]["recipe"] == to_plain(recipe)
        for name, plan in plans["configurations"].items():
            before, after = (one["architecture"]["arch_kwargs"] for one in (plan, found["configurations"][name]))
            assert after["leader"]["network_class_name"] == "fuse4seg.leaders.didfuse.DIDFuse"
            assert {**after, "leader": before["leader"]} == before

    def test_refuse_a_follower_of_slices_in_3d(self, planned_phantom: Path) -> None:
        plans = json.loads((planned_phantom / "nnUNet_preprocessed" / DATASET / "Fuse4SegPlans.json").read_text())
        row = Row("swin_unet", recipe="swin_unet")
        with pytest.raises(RecipeError, match="^swin_unet: follower.network: swin_unet takes images of 2 axes, and 3d_fullres "
                                              "has 3. Leave the row out, or compare 2d.$"):
            plans_of(row, plans, recipe_of(row, plans), dataset=DATASET, configuration="3d_fullres")
