"""Stage 1, the fusion network's pre-training: what it leaves, what takes it up, and how it goes on after an interruption."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fuse4seg.cli.train import main
from fuse4seg.errors import CheckpointError, OptionError
from fuse4seg.training.run import Training, make_trainer, pretrain, train
from fuse4seg.training.stage_1 import PRETRAINED, PRETRAINING_LATEST

FOLD_0 = Training("990", "2d", 0, device="cpu")
MODEL = Path("Dataset990_Phantom", "Fuse4SegTrainer__Fuse4SegPlans__2d")
CHOSEN = {"pretrain_epochs": 2, "iterations": 2}
Interrupted = Callable[..., AbstractContextManager[None]]
#: Bit for bit.
assert_equal = partial(torch.testing.assert_close, rtol=0, atol=0)


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def begin(interrupted: Interrupted, fold: Path, **chosen: int) -> None:
    """Interrupt stage 1 after an epoch."""
    with interrupted("pre-training", epoch=1), pytest.raises(KeyboardInterrupt):
        train(FOLD_0, chosen={**CHOSEN, **chosen})
    assert load(fold / PRETRAINING_LATEST)["epochs_done"] == 1


def test_stage_1_is_not_done_again_where_it_is_there(trained_model: Path, own_results: Path,
                                                     caplog: pytest.LogCaptureFixture) -> None:
    present = own_results / MODEL / "fold_0" / PRETRAINED
    present.parent.mkdir(parents=True)
    shutil.copy(trained_model / "fold_0" / PRETRAINED, present)
    before = present.read_bytes()
    with caplog.at_level("INFO"):
        assert pretrain(FOLD_0, chosen=CHOSEN) == present
    assert "pre-training is already there" in caplog.text
    assert present.read_bytes() == before
    assert not (present.parent / PRETRAINING_LATEST).exists()


def test_stage_1_is_what_training_starts_from(trained_model: Path, own_results: Path, interrupted: Interrupted) -> None:
    (own_results / MODEL / "fold_0").mkdir(parents=True)
    shutil.copy(trained_model / "fold_0" / PRETRAINED, own_results / MODEL / "fold_0")
    trainer = make_trainer(FOLD_0, chosen={**CHOSEN, "epochs": 1})
    with interrupted("training", epoch=0), pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    assert_equal(trainer.network.fusion.state_dict(), load(trained_model / "fold_0" / PRETRAINED)["fusion"])


@pytest.mark.parametrize(("chosen", "taken"), [({}, 2), ({"pretrain_epochs": None}, 2), ({"pretrain_epochs": 0}, 0)])
def test_stage_1_is_taken_up_unless_told_otherwise(chosen: dict[str, int | None], taken: int, trained_model: Path,
                                                   own_results: Path) -> None:
    (own_results / MODEL / "fold_0").mkdir(parents=True)
    shutil.copy(trained_model / "fold_0" / PRETRAINED, own_results / MODEL / "fold_0")
    assert make_trainer(FOLD_0, chosen=chosen).options.pretrain_epochs == taken


def test_stage_1_takes_the_paper_s_80_epochs_by_itself_and_none_within_a_training(own_results: Path,
                                                                                  interrupted: Interrupted) -> None:
    assert make_trainer(FOLD_0).options.pretrain_epochs == 0
    with interrupted("pre-training", epoch=1), pytest.raises(KeyboardInterrupt):
        pretrain(FOLD_0, chosen={"iterations": 1})
    assert load(own_results / MODEL / "fold_0" / PRETRAINING_LATEST)["options"]["pretrain_epochs"] == 80


def test_interrupted_stage_1_goes_on_as_if_nothing_had_been(trained_model: Path, own_results: Path, training_flags: list[str],
                                                            interrupted: Interrupted) -> None:
    """Begun by f4s_train, finished as f4s_pretrain does: what stage 2 was asked for does not matter to stage 1."""
    fold = own_results / MODEL / "fold_0"
    with interrupted("pre-training", epoch=1):
        assert main(training_flags) == 130
    assert load(fold / PRETRAINING_LATEST)["epochs_done"] == 1
    assert not (fold / PRETRAINED).exists()

    finished, undisturbed = load(pretrain(FOLD_0, chosen=CHOSEN)), load(trained_model / "fold_0" / PRETRAINED)
    assert_equal(finished["fusion"], undisturbed["fusion"])
    assert_equal(finished["discriminators"], undisturbed["discriminators"])
    assert not (fold / PRETRAINING_LATEST).exists()


@pytest.mark.parametrize(("chosen", "flag"), [({"seed": 1}, "--seed"), ({"iterations": 1}, "--iterations"),
                                              ({"leader_learning_rate": 1e-3}, "--leader_learning_rate"),
                                              ({"pretraining_losses": ["none"]}, "--pretraining_losses")])
def test_interrupted_stage_1_is_not_lost_to_other_options(own_results: Path, interrupted: Interrupted, chosen: dict[str, Any],
                                                          flag: str) -> None:
    fold = own_results / MODEL / "fold_0"
    begin(interrupted, fold)
    before = (fold / PRETRAINING_LATEST).read_bytes()
    for resume in (False, True):
        with pytest.raises(OptionError, match=f"^{flag}: differs from what {fold / PRETRAINING_LATEST} was trained with"):
            train(FOLD_0, chosen={**CHOSEN, **chosen}, resume=resume)
    assert (fold / PRETRAINING_LATEST).read_bytes() == before


def test_interrupted_stage_1_goes_on_by_c_with_the_options_it_began_with(own_results: Path, interrupted: Interrupted) -> None:
    fold = own_results / MODEL / "fold_0"
    begin(interrupted, fold, seed=3, epochs=7)
    trainer = make_trainer(FOLD_0, resume=True)
    assert (trainer.options.seed, trainer.options.epochs, trainer.options.pretrain_epochs) == (3, 7, 2)
    trainer.run_pretraining()
    assert load(fold / PRETRAINED)["options"]["seed"] == 3


def test_interrupted_stage_1_is_refused_under_other_plans(own_results: Path, interrupted: Interrupted) -> None:
    fold = own_results / MODEL / "fold_0"
    begin(interrupted, fold)
    state = load(fold / PRETRAINING_LATEST)
    state["init_args"]["plans"]["configurations"]["2d"]["batch_size"] = 2
    torch.save(state, fold / PRETRAINING_LATEST)
    with pytest.raises(CheckpointError, match=f"{PRETRAINING_LATEST}: does not fit these plans: batch_size of 2d differs"):
        train(FOLD_0, chosen=CHOSEN)
