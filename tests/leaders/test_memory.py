"""Memory of leaders that have no stage 1, as planning counts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fuse4seg.planning.step_memory import CountedTraining, count_memory


@pytest.mark.parametrize("mixed_precision", [False, True])
@pytest.mark.parametrize(("name", "parameters"), [("u2fusion", 659_217), ("ddcgan", 1_097_665), ("tardal", 296_833)])
def test_is_that_of_stage_2_alone(planned: Callable[..., Any], name: str, parameters: int, mixed_precision: bool) -> None:
    recipe, architecture = planned(name)
    training = CountedTraining(2, 1, recipe, mixed_precision=mixed_precision)
    small, large = (count_memory(architecture, (16, 16 * width), 4, training) for width in (1, 2))
    assert small.stage_1 == large.stage_1 == 0
    # Gradients do not grow with the image, activations do.
    assert 4 * parameters < small.stage_2 < large.stage_2 < 2 * small.stage_2
