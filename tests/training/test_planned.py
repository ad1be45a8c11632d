"""A training's plans and recipe, as its command names them."""

from __future__ import annotations

from pathlib import Path

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.errors import ConfigurationNotFoundError, NotPreprocessedError, OptionError, PlansNotFoundError
from fuse4seg.plans import planned_recipe, read_plans
from fuse4seg.recipes.reading import changed
from fuse4seg.training.distributed import require_shares
from fuse4seg.training.planned import planned_training
from fuse4seg.training.run import Training

DATASET = "Dataset990_Phantom"


@pytest.fixture(autouse=True)
def roots(planned_phantom: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(planned_phantom / name))
    return planned_phantom


def test_has_the_plans_and_their_recipe_with_the_training_s_changes(roots: Path) -> None:
    plans = read_plans(roots / "nnUNet_preprocessed" / DATASET / "Fuse4SegPlans.json")
    name, found, configuration, recipe = planned_training(Training("990", "2d", 0, changes=("losses.edges=3",)))
    assert (name, found) == (DATASET, plans)
    assert configuration.configuration == PlansManager(plans).get_configuration("2d").configuration
    assert recipe == changed(planned_recipe(plans, "plans"), ["losses.edges=3"], in_training=True)
    assert recipe.losses.edges == 3


def test_says_what_is_not_there(roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlansNotFoundError, match="Fuse4SegPlans"):
        planned_training(Training("990", "2d", 0, "Other"))
    with pytest.raises(ConfigurationNotFoundError):
        planned_training(Training("990", "3d_none", 0))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    (tmp_path / DATASET).mkdir()
    (tmp_path / DATASET / "Fuse4SegPlans.json").write_text(
        (roots / "nnUNet_preprocessed" / DATASET / "Fuse4SegPlans.json").read_text())
    with pytest.raises(NotPreprocessedError):
        planned_training(Training("990", "2d", 0))


def require_ranks(training: Training, ranks: int) -> None:
    planned = planned_training(training)
    require_shares(planned.recipe, planned.configuration.batch_size, ranks=ranks)


def test_ranks_go_by_the_plans_batch_and_the_training_s_own_hypergradient() -> None:
    """Of four samples, two processes get halves of two; four get one each, which has no halves."""
    training = Training("990", "2d", 0)
    require_ranks(training, 2)
    with pytest.raises(OptionError, match="batch of 4 cannot be shared by 4"):
        require_ranks(training, 4)
    require_ranks(Training("990", "2d", 0, changes=("bilevel.hypergradient=joint",)), 4)
