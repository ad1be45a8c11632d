"""Stage 1, the fusion network's pre-training: what it leaves, what takes it up, and how it goes on after an interruption."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fuse4seg.cli.train import main
from fuse4seg.errors import RecipeError
from fuse4seg.model_errors import CheckpointError
from fuse4seg.training.run import Training, make_trainer, pretrain, train
from fuse4seg.training.stage_1 import PRETRAINED, PRETRAINING_LATEST

FOLD_0 = Training("990", "2d", 0, device="cpu")
MODEL = Path("Dataset990_Phantom", "Fuse4SegTrainer__Fuse4SegPlans__2d")
Interrupted = Callable[..., AbstractContextManager[None]]
#: Bit for bit.
assert_equal = partial(torch.testing.assert_close, rtol=0, atol=0)


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def begin(interrupted: Interrupted, fold: Path, *, seed: int = 0) -> None:
    """Interrupt stage 1 after an epoch."""
    with interrupted("pre-training", epoch=1), pytest.raises(KeyboardInterrupt):
        train(FOLD_0, seed=seed)
    assert load(fold / PRETRAINING_LATEST)["epochs_done"] == 1


def test_stage_1_is_not_done_again_where_it_is_there(trained_model: Path, own_results: Path,
                                                     caplog: pytest.LogCaptureFixture) -> None:
    present = own_results / MODEL / "fold_0" / PRETRAINED
    present.parent.mkdir(parents=True)
    shutil.copy(trained_model / "fold_0" / PRETRAINED, present)
    before = present.read_bytes()
    with caplog.at_level("INFO"):
        assert pretrain(FOLD_0) == present
    assert "pre-training is already there" in caplog.text
    assert present.read_bytes() == before
    assert not (present.parent / PRETRAINING_LATEST).exists()


def test_stage_1_is_what_training_starts_from(trained_model: Path, own_results: Path, interrupted: Interrupted) -> None:
    (own_results / MODEL / "fold_0").mkdir(parents=True)
    shutil.copy(trained_model / "fold_0" / PRETRAINED, own_results / MODEL / "fold_0")
    trainer = make_trainer(FOLD_0)
    with interrupted("training", epoch=0), pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    assert_equal(trainer.network.fusion.state_dict(), load(trained_model / "fold_0" / PRETRAINED)["fusion"])


def test_stage_1_is_refused_where_the_recipe_has_none(own_results: Path) -> None:
    with pytest.raises(RecipeError, match="pretraining.epochs: is 0, so there is no stage 1. Give --set pretraining.epochs=80"):
        pretrain(replace(FOLD_0, changes=("pretraining.epochs=0",)))
    assert not own_results.exists()


def test_stage_1_is_taken_up_by_the_training_of_the_same_changes(own_results: Path, interrupted: Interrupted) -> None:
    changed = replace(FOLD_0, changes=("pretraining.epochs=1", "training.iterations=1"))
    made = pretrain(changed)
    assert made == own_results / MODEL.parent / changed.folder_name / "fold_0" / PRETRAINED
    trainer = make_trainer(changed)
    with interrupted("training", epoch=0), pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    assert_equal(trainer.network.fusion.state_dict(), load(made)["fusion"])


def test_interrupted_stage_1_goes_on_as_if_nothing_had_been(trained_model: Path, own_results: Path, training_flags: list[str],
                                                            interrupted: Interrupted) -> None:
    """Begun by f4s_train, finished as f4s_pretrain does: what stage 2 was asked for does not matter to stage 1."""
    fold = own_results / MODEL / "fold_0"
    with interrupted("pre-training", epoch=1):
        assert main(training_flags) == 130
    assert load(fold / PRETRAINING_LATEST)["epochs_done"] == 1
    assert not (fold / PRETRAINED).exists()

    finished, undisturbed = load(pretrain(FOLD_0)), load(trained_model / "fold_0" / PRETRAINED)
    assert_equal(finished["fusion"], undisturbed["fusion"])
    assert_equal(finished["discriminators"], undisturbed["discriminators"])
    assert not (fold / PRETRAINING_LATEST).exists()


@pytest.mark.parametrize(("section", "entry"), [("leader", "rate"), ("pretraining", "adversarial"), ("training", "iterations")])
def test_interrupted_stage_1_is_not_lost_to_another_recipe(own_results: Path, interrupted: Interrupted, section: str,
                                                           entry: str) -> None:
    """As plans that were made anew under the same name have it."""
    fold = own_results / MODEL / "fold_0"
    begin(interrupted, fold)
    state = load(fold / PRETRAINING_LATEST)
    state["recipe"][section][entry] += 1
    torch.save(state, fold / PRETRAINING_LATEST)
    before = (fold / PRETRAINING_LATEST).read_bytes()
    for resume in (False, True):
        with pytest.raises(CheckpointError, match=f"{PRETRAINING_LATEST}: was trained with another {section}.{entry}. Remove it"):
            train(FOLD_0, resume=resume)
    assert (fold / PRETRAINING_LATEST).read_bytes() == before


def test_interrupted_stage_1_is_not_lost_to_another_seed(own_results: Path, interrupted: Interrupted) -> None:
    begin(interrupted, own_results / MODEL / "fold_0")
    for resume in (False, True):
        with pytest.raises(CheckpointError, match=f"{PRETRAINING_LATEST}: was trained with another seed. Remove it"):
            train(FOLD_0, seed=1, resume=resume)


def test_interrupted_stage_1_does_not_mind_what_stage_2_is_asked_for(own_results: Path, interrupted: Interrupted) -> None:
    fold = own_results / MODEL / "fold_0"
    begin(interrupted, fold)
    state = load(fold / PRETRAINING_LATEST)
    state["recipe"]["training"]["epochs"] = 9
    state["recipe"]["losses"]["edges"] = 9.0
    torch.save(state, fold / PRETRAINING_LATEST)
    assert pretrain(FOLD_0) == fold / PRETRAINED


def test_interrupted_stage_1_goes_on_by_c_with_the_seed_it_began_with(own_results: Path, interrupted: Interrupted) -> None:
    fold = own_results / MODEL / "fold_0"
    begin(interrupted, fold, seed=3)
    trainer = make_trainer(FOLD_0, resume=True)
    assert trainer.seed == 3
    trainer.run_pretraining()
    assert load(fold / PRETRAINED)["seed"] == 3


def test_interrupted_stage_1_is_refused_under_other_plans(own_results: Path, interrupted: Interrupted) -> None:
    fold = own_results / MODEL / "fold_0"
    begin(interrupted, fold)
    state = load(fold / PRETRAINING_LATEST)
    state["init_args"]["plans"]["configurations"]["2d"]["batch_size"] = 2
    torch.save(state, fold / PRETRAINING_LATEST)
    with pytest.raises(CheckpointError, match=f"{PRETRAINING_LATEST}: does not fit these plans: batch_size of 2d differs"):
        train(FOLD_0)
