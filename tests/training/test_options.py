"""Training options: the paper's defaults, plain data there and back, and values they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fuse4seg.checkpoint import load_checkpoint, save_checkpoint
from fuse4seg.errors import OptionError
from fuse4seg.losses.fusion import PAPER, WITHOUT_LABELS, FusionLossWeights
from fuse4seg.steps.bilevel import BilevelSettings
from fuse4seg.steps.pretraining import PretrainingWeights
from fuse4seg.steps.viewing import CHANGES
from fuse4seg.training.options import TrainingOptions

CHOSEN = TrainingOptions(epochs=7, pretrain_epochs=0, iterations=3, seed=11, leader_learning_rate=5e-4,
                         modality_dropout=0.2,
                         bilevel=BilevelSettings("gauss_newton", 0.3, FusionLossWeights(texture=2.0), 1e-6, 0.25,
                                                 viewing=("blur", "noise")),
                         pretraining=PretrainingWeights(adversarial=0, decomposition=0.5))


class TestTrainingOptions:
    def test_start_from_the_paper_s_epochs_and_nnu_net_s_iterations(self) -> None:
        options = TrainingOptions()
        assert (options.pretrain_epochs, options.epochs, options.iterations) == (0, 140, 250)
        assert TrainingOptions.without_labels().pretrain_epochs == 80

    @pytest.mark.parametrize(("iterations", "validation"), [(250, 50), (10, 2), (4, 1), (1, 1)])
    def test_validate_in_nnu_net_s_proportion(self, iterations: int, validation: int) -> None:
        assert TrainingOptions(iterations=iterations).validation_iterations == validation

    @pytest.mark.parametrize("name", ["epochs", "iterations", "pretrain_epochs", "seed"])
    def test_refuse_what_is_out_of_range_by_its_flag(self, name: str) -> None:
        with pytest.raises(OptionError, match=f"^--{name}: must be at least [01], got -1"):
            TrainingOptions(**{name: -1})

    @pytest.mark.parametrize("name", ["epochs", "iterations"])
    def test_refuse_no_training_at_all(self, name: str) -> None:
        with pytest.raises(OptionError, match=f"--{name}: must be at least 1, got 0"):
            TrainingOptions(**{name: 0})

    @pytest.mark.parametrize(("name", "flag"), [("fusion_weight", "--fusion_weight"), ("auxiliary_weight", "--auxiliary_head")])
    @pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
    def test_refuse_what_is_no_weight_by_its_flag(self, name: str, flag: str, weight: float) -> None:
        with pytest.raises(OptionError, match=f"^{flag}: must be a number from 0 on"):
            TrainingOptions(bilevel=BilevelSettings(**{name: weight}))

    @pytest.mark.parametrize("rate", [-1e-3, float("nan"), float("inf")])
    def test_refuse_what_is_no_learning_rate(self, rate: float) -> None:
        with pytest.raises(OptionError, match="^--leader_learning_rate: must be a number from 0 on"):
            TrainingOptions(leader_learning_rate=rate)

    @pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
    def test_refuse_a_dropout_that_is_no_probability_below_1(self, dropout: float) -> None:
        with pytest.raises(OptionError, match="^--modality_dropout: must be a probability from 0 to below 1, got"):
            TrainingOptions(modality_dropout=dropout)

    def test_refuse_to_leave_out_a_dataset_s_only_modality(self) -> None:
        TrainingOptions().require_fit(1)
        TrainingOptions(modality_dropout=0.3).require_fit(2)
        with pytest.raises(OptionError, match="^--modality_dropout: the dataset has one modality"):
            TrainingOptions(modality_dropout=0.3).require_fit(1)

    def test_refuse_an_unknown_estimator_and_name_the_known(self) -> None:
        with pytest.raises(OptionError, match="--hypergradient: unknown estimator newton.*joint, gauss_newton, .*none"):
            TrainingOptions(bilevel=BilevelSettings("newton"))

    def test_show_the_fused_image_under_every_change(self) -> None:
        assert TrainingOptions().bilevel.viewing == ("blur", "gamma", "window", "noise") == CHANGES

    @pytest.mark.parametrize("viewing", [("halo",), ("blur", "halo"), ("none", "blur")])
    def test_refuse_an_unknown_change_and_name_the_known(self, viewing: tuple[str, ...]) -> None:
        with pytest.raises(OptionError, match=r"^--viewing: unknown change (halo|none). Choose from: blur, gamma, .*; or none"):
            TrainingOptions(bilevel=BilevelSettings(viewing=viewing))


class TestPlain:
    @pytest.mark.parametrize("options", [TrainingOptions(), CHOSEN])
    def test_comes_back_as_it_was(self, options: TrainingOptions) -> None:
        assert TrainingOptions.from_plain(options.to_plain()) == options

    def test_comes_back_from_a_checkpoint(self, tmp_path: Path) -> None:
        save_checkpoint({"options": CHOSEN.to_plain()}, tmp_path / "model.pth")
        assert TrainingOptions.from_plain(load_checkpoint(tmp_path / "model.pth")["options"]) == CHOSEN

    def test_names_the_changes_of_the_image_as_they_were(self) -> None:
        """A checkpoint may hold a list."""
        plain = CHOSEN.to_plain()
        plain["bilevel"]["viewing"] = ["noise"]
        assert TrainingOptions.from_plain(plain).bilevel.viewing == ("noise",)

    @pytest.mark.parametrize("changed", [{"another": 1}, {"bilevel": {}}, {"bilevel": 3}, {"pretraining": {"another": 1}}])
    def test_is_refused_where_it_is_of_another_layout(self, changed: dict[str, Any]) -> None:
        with pytest.raises((KeyError, TypeError)):
            TrainingOptions.from_plain({**CHOSEN.to_plain(), **changed})
        with pytest.raises(KeyError):
            TrainingOptions.from_plain({})


class TestChanged:
    def test_changes_what_was_chosen_and_keeps_the_rest(self) -> None:
        changed = CHOSEN.changed(epochs=9, seed=None, iterations=None)
        assert changed == TrainingOptions.from_plain({**CHOSEN.to_plain(), "epochs": 9})
        assert CHOSEN.epochs == 7

    def test_takes_0_for_a_choice(self) -> None:
        assert CHOSEN.changed(seed=0).seed == 0

    def test_changes_the_estimator_and_keeps_its_settings(self) -> None:
        changed = CHOSEN.changed(hypergradient="joint")
        assert changed.bilevel == replace(CHOSEN.bilevel, hypergradient="joint")
        assert changed.epochs == CHOSEN.epochs

    def test_changes_weights_of_the_step_by_their_names(self) -> None:
        changed = CHOSEN.changed(fusion_weight=0.0, auxiliary_weight=None, seed=4)
        assert changed.bilevel == replace(CHOSEN.bilevel, fusion_weight=0.0)
        assert changed.seed == 4

    def test_keeps_the_named_losses_at_their_default_weights(self) -> None:
        changed = CHOSEN.changed(fusion_losses=["decomposition", "texture"], pretraining_losses=["decomposition"])
        assert changed.bilevel.losses == replace(PAPER, intensity=0, adversarial=0)
        assert changed.pretraining == PretrainingWeights(adversarial=0)
        assert changed.bilevel.fusion_weight == 0.3

    def test_gives_a_loss_that_is_not_used_by_default_its_weight_elsewhere(self) -> None:
        losses = CHOSEN.changed(fusion_losses=["intensity", "edges", "vif"]).bilevel.losses
        assert losses == FusionLossWeights(intensity=PAPER.intensity, balance=0, vif=WITHOUT_LABELS.vif,
                                           scd=0, chroma=0)

    def test_takes_weights(self) -> None:
        changed = CHOSEN.changed(fusion_losses=["texture=0.5", "ssim=2", "edges"], pretraining_losses=["adversarial=0.1"])
        assert changed.bilevel.losses == FusionLossWeights(texture=0.5, ssim=2, balance=0, scd=0, chroma=0)
        assert changed.pretraining == PretrainingWeights(decomposition=0, adversarial=0.1)

    @pytest.mark.parametrize("part", ["texture=", "texture=much", "texture=-1", "texture=nan", "texture=inf", "texture=1=2"])
    def test_refuses_a_weight_that_is_none(self, part: str) -> None:
        with pytest.raises(OptionError, match=f"^--fusion_losses: {part} gives no weight. Write it as texture=0.5"):
            CHOSEN.changed(fusion_losses=[part])

    def test_leaves_all_losses_out_that_can_be(self) -> None:
        changed = CHOSEN.changed(fusion_losses=["none"], pretraining_losses=["none"])
        assert changed.bilevel.losses == FusionLossWeights(edges=0, balance=0, scd=0, chroma=0)
        assert changed.pretraining == PretrainingWeights(0, 0)

    @pytest.mark.parametrize(("name", "losses", "known"), [
        ("fusion_losses", ["texture", "psnr"], "intensity, texture, .*; or none"),
        ("fusion_losses", ["none", "texture"], "intensity, texture, .*; or none"),
        ("pretraining_losses", ["content"], "adversarial, decomposition; or none")])
    def test_refuses_unknown_losses_by_their_flag(self, name: str, losses: list[str], known: str) -> None:
        with pytest.raises(OptionError, match=f"^--{name}: unknown loss .*Choose from: {known}"):
            CHOSEN.changed(**{name: losses})

    @pytest.mark.parametrize(("given", "kept"), [(None, ("blur", "noise")), (["none"], ()), (["gamma"], ("gamma",)),
                                                 (["noise", "window"], ("noise", "window"))])
    def test_chooses_the_changes_of_the_image(self, given: list[str] | None, kept: tuple[str, ...]) -> None:
        changed = CHOSEN.changed(viewing=given)
        assert changed == replace(CHOSEN, bilevel=replace(CHOSEN.bilevel, viewing=kept))

    def test_refuses_what_the_options_refuse(self) -> None:
        with pytest.raises(OptionError, match="--epochs"):
            CHOSEN.changed(epochs=0)
        with pytest.raises(OptionError, match="--hypergradient"):
            CHOSEN.changed(hypergradient="newton")
        for viewing in (["halo"], ["none", "blur"]):
            with pytest.raises(OptionError, match="--viewing"):
                CHOSEN.changed(viewing=viewing)


class TestWithoutATask:
    def test_trains_what_can_be_seen_in_the_image(self) -> None:
        expected = TrainingOptions(pretrain_epochs=80, bilevel=BilevelSettings(losses=WITHOUT_LABELS))
        assert TrainingOptions.without_labels() == expected
        TrainingOptions.without_labels().require_no_task()

    @pytest.mark.parametrize("chosen", [{}, {"hypergradient": "joint"}, {"auxiliary_weight": 0}, {"epochs": 3},
                                        {"fusion_losses": ["texture"]}, {"viewing": ["none"]}])
    def test_accepts_what_concerns_the_fusion(self, chosen: dict[str, Any]) -> None:
        TrainingOptions().changed(**chosen).require_no_task()

    @pytest.mark.parametrize(("chosen", "said"), [
        ({"auxiliary_weight": 1.0}, "--auxiliary_head: 1.0 means nothing"),
        ({"fusion_weight": 0.0}, "--fusion_weight: 0.0 means nothing"),
        ({"hypergradient": "none"}, "--hypergradient: none means nothing"),
        ({"viewing": ["blur", "noise"]}, "--viewing: blur noise means nothing"),
        ({"leader_learning_rate": 0.0}, "--leader_learning_rate: 0 leaves nothing to train"),
        ({"fusion_losses": ["none"]}, "--fusion_losses: none leaves nothing to train")])
    def test_refuses_what_needs_labels(self, chosen: dict[str, Any], said: str) -> None:
        with pytest.raises(OptionError, match=f"^{said}"):
            TrainingOptions().changed(**chosen).require_no_task()
