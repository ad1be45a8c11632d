"""Rows of a comparison: what their names stand for, and names that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuse4seg.cli.train import main as train
from fuse4seg.comparison.rows import ABLATIONS, FIXED, GROUPS, LEARNING, METHOD, OWN, PEER, USUAL, Row, choose_rows
from fuse4seg.errors import OptionError
from fuse4seg.losses.fusion import PAPER
from fuse4seg.planning.options import PlanOptions
from fuse4seg.planning.planner import plan_experiment
from fuse4seg.training.options import TrainingOptions

MODALITIES = ("T1", "FLAIR")


class TestChooseRows:
    def test_gives_the_usual_ones_in_order(self) -> None:
        names = [row.name for row in choose_rows(USUAL, modalities=MODALITIES)]
        assert names == [PEER, *MODALITIES, *FIXED, METHOD]

    def test_knows_what_each_is_made_from(self) -> None:
        stacked, single, rule, method = choose_rows([PEER, "FLAIR", "wavelet", METHOD], modalities=MODALITIES)
        assert (stacked.source, single.source, rule.source) == (None, ("modality", 1), ("rule", "wavelet"))
        assert [row.ours for row in (stacked, single, rule, method)] == [False, False, False, True]

    def test_adds_images_of_others_and_variants_of_ours(self) -> None:
        images, variant = choose_rows([], modalities=MODALITIES, images={"FILM": Path("film")},
                                      variants={"half": "--fusion_weight 0.5 --seed 3"})
        assert images == Row("FILM", source=("folder", str(Path("film").absolute())))
        assert variant == Row("half", ours=True, flags=("--fusion_weight", "0.5", "--seed", "3"))

    @pytest.mark.parametrize(("names", "said"), [(["median"], "unknown row median. Choose from: stacked, T1"),
                                                 (["max", "fixed"], "max is there twice")])
    def test_refuses(self, names: list[str], said: str) -> None:
        with pytest.raises(OptionError, match=f"^--rows: {said}"):
            choose_rows(names, modalities=MODALITIES)

    @pytest.mark.parametrize("name", ["a/b", ".hidden", "..", ""])
    def test_refuses_names_that_are_no_folder(self, name: str) -> None:
        with pytest.raises(OptionError, match="cannot be the name of a folder"):
            choose_rows([], modalities=MODALITIES, variants={name: "--seed 1"})


class TestLearning:
    """Whether learning to fuse helps: the same rows in colour and in grey, by what teaches the leader."""

    def test_is_a_group(self) -> None:
        names = [row.name for row in choose_rows(["learning"], modalities=MODALITIES)]
        teachers = ["frozen", "fusion_losses_alone", "joint"]
        assert names == [*teachers, "grey", *(f"grey_{teacher}" for teacher in teachers)]
        assert "learning" in GROUPS

    def test_teaches_the_leader_by_what_the_name_says(self) -> None:
        for prefix in ("", "grey_"):
            assert LEARNING[f"{prefix}frozen"].flags == ("--leader_learning_rate", "0")
            for name, estimator in (("fusion_losses_alone", "none"), ("joint", "joint")):
                flag, chosen = LEARNING[f"{prefix}{name}"].flags
                assert flag == "--hypergradient"
                assert TrainingOptions().changed(hypergradient=chosen).bilevel.hypergradient == estimator

    def test_in_grey_is_what_the_planner_plans_in_grey(self, planned_phantom: Path) -> None:
        plan_experiment(990, PlanOptions(gpu_memory_target=0.1, base_features=8, fused_image="grey", plans_name="InGrey"))
        folder = planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom"
        path = folder / "InGrey.json"
        planned = json.loads(path.read_text())["configurations"]["2d"]["architecture"]["arch_kwargs"]["fusion"]
        path.unlink()
        in_colour = json.loads((folder / "Fuse4SegPlans.json").read_text())["configurations"]["2d"]["architecture"]["arch_kwargs"]
        changed = {**in_colour["fusion"], "cross_attention": False, **LEARNING["grey"].network["fusion"]}
        assert planned == changed
        assert planned["colours"] == 1


class TestOwnRows:
    def test_have_flags_that_training_takes(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Argparse exits with 2 for what it does not know; help comes last and ends well."""
        for row in OWN.values():
            with pytest.raises(SystemExit) as ended:
                train(["501", "2d", "0", *row.flags, "--help"])
            assert ended.value.code == 0, row.name
        capsys.readouterr()

    def test_with_the_paper_s_losses_train_on_these_alone(self) -> None:
        _, *named = ABLATIONS["paper_losses"].flags
        assert TrainingOptions().changed(fusion_losses=named).bilevel.losses == PAPER
