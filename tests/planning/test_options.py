"""Options of a planning: names of plans, and what is refused before a dataset is read."""

from __future__ import annotations

from typing import Any

import pytest

from fuse4seg.errors import OptionError, RecipeError
from fuse4seg.planning.options import PlanOptions


class TestName:
    @pytest.mark.parametrize(("chosen", "name"), [
        ({}, "Fuse4SegPlans"), ({"recipe": "fuse4seg"}, "Fuse4SegPlans"), ({"recipe": "grey"}, "Fuse4SegPlans-grey"),
        ({"changes": ("losses.edges=4",)}, "Fuse4SegPlans-losses.edges=4"),
        ({"recipe": "grey", "changes": ("bilevel.viewing=blur,noise",)}, "Fuse4SegPlans-grey-bilevel.viewing=blur+noise"),
        ({"recipe": "grey", "plans_name": "Mine"}, "Mine")])
    def test_says_recipe_and_changes_unless_there_is_another(self, chosen: dict[str, Any], name: str) -> None:
        assert PlanOptions(**chosen).name == name


class TestRefusals:
    @pytest.mark.parametrize(("chosen", "flag"), [
        ({"gpu_memory_target": 0}, "-gpu_memory_target"), ({"gpu_memory_target": float("nan")}, "-gpu_memory_target"),
        ({"plans_name": "../Mine"}, "-overwrite_plans_name"), ({"plans_name": "My__Plans"}, "-overwrite_plans_name"),
        ({"plans_name": "x" * 101}, "-overwrite_plans_name"), ({"plans_name": "Mine_"}, "-overwrite_plans_name"),
        ({"plans_name": "Fuse4Seg[a]"}, "-overwrite_plans_name"), ({"recipe": ""}, "--recipe"),
        ({"overwrite_target_spacing": (1.0, 1.0)}, "-overwrite_target_spacing"),
        ({"overwrite_target_spacing": (1.0, 1.0, -1.0)}, "-overwrite_target_spacing")])
    def test_name_the_flag(self, chosen: dict[str, Any], flag: str) -> None:
        with pytest.raises(OptionError, match=f"^{flag}: "):
            PlanOptions(**chosen)

    def test_of_an_unknown_recipe_name_those_that_there_are(self) -> None:
        with pytest.raises(RecipeError, match="^--recipe: sepia: there is no such recipe. Choose from: .*fuse4seg, fusion_alone"):
            PlanOptions(recipe="sepia")

    def test_of_a_change_that_no_usual_recipe_takes_name_the_choices(self) -> None:
        with pytest.raises(RecipeError, match="^--set: leader.fused_image: there is no 'sepia'. Choose from: colour, grey"):
            PlanOptions(changes=("leader.fused_image=sepia",))
