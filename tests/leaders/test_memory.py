"""Memory of leaders that have no stage 1, as planning counts it by their steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fuse4seg.planning.step_memory import CountedTraining, count_memory
from fuse4seg.recipes.reading import read_recipe

PARAMETERS = {"u2fusion": 659_217, "ddcgan": 1_097_665, "tardal": 296_833}


def test_of_a_leader_that_takes_apart_and_rebuilds_nothing_is_that_of_stage_2(planned: Callable[..., Any]) -> None:
    recipe, architecture = planned("paper_no_reconstruction", "leader.detail_features=4", "leader.base_features=8")
    counted = count_memory(architecture, (16, 16), 4, CountedTraining(2, 3, recipe, mixed_precision=False))
    assert counted.stage_1 == 0 < counted.stage_2


@pytest.mark.parametrize("mixed_precision", [False, True])
@pytest.mark.parametrize("name", PARAMETERS)
def test_is_that_of_stage_2_alone(planned: Callable[..., Any], name: str, mixed_precision: bool) -> None:
    recipe, architecture = planned(name)
    training = CountedTraining(2, 1, recipe, mixed_precision=mixed_precision)
    small, large = (count_memory(architecture, (16, 16 * width), 4, training) for width in (1, 2))
    assert small.stage_1 == large.stage_1 == 0
    # Gradients do not grow with the image, activations do.
    assert 4 * PARAMETERS[name] < small.stage_2 < large.stage_2 < 2 * small.stage_2


@pytest.mark.parametrize("name", PARAMETERS)
def test_is_larger_in_the_bilevel_training(planned: Callable[..., Any], name: str) -> None:
    recipe, architecture = planned(name)
    bilevel = replace(recipe, bilevel=replace(read_recipe("fuse4seg").bilevel, auxiliary_weight=0.0))
    alone, both = (count_memory(architecture, (16, 16), 4, CountedTraining(2, 3, which, mixed_precision=False))
                   for which in (recipe, bilevel))
    assert both.stage_1 == 0
    assert both.optimisers > alone.optimisers
    # The follower is as large in both, but moves in one alone.
    assert both.parameters == alone.parameters
