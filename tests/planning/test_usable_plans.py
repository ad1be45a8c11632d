"""Plans for preprocessing: the planner's pass, and what nnU-Net could not use is refused with the file's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuse4seg.errors import PlansNotFoundError
from fuse4seg.planning.usable_plans import usable_plans


@pytest.fixture
def path(planned_phantom: Path, tmp_path: Path) -> Path:
    planned = planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom" / "Fuse4SegPlans.json"
    return Path(tmp_path / planned.name).write_bytes(planned.read_bytes()) and tmp_path / planned.name


def test_of_the_planner_are_usable(path: Path) -> None:
    assert usable_plans(path).plans == json.loads(path.read_text())


@pytest.mark.parametrize(("entry", "value", "reason"), [
    ("preprocessor_name", "os", "does not have"), ("preprocessor_name", "NoSuch", "does not have"), ("spacing", "x", "spacing"),
    ("spacing", [0, 1], "spacing"), ("resampling_fn_data", "no_such_function", "no_such_function"),
    ("resampling_fn_seg_kwargs", 7, "TypeError"), ("data_identifier", "", "empty"), ("inherits_from", "2d", "Circular")])
def test_with_a_faulty_entry_are_not(path: Path, entry: str, value: object, reason: str) -> None:
    plans = json.loads(path.read_text())
    plans["configurations"]["2d"][entry] = value
    path.write_text(json.dumps(plans))
    with pytest.raises(PlansNotFoundError, match=reason) as refused:
        usable_plans(path)
    assert str(path) in str(refused.value)
