"""Rows of a comparison: what their names stand for, and names that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fuse4seg.comparison.prepared_data import prepare_row
from fuse4seg.comparison.rows import ABLATIONS, FIXED, GROUPS, LEARNING, METHOD, OWN, PEER, USUAL, Row, choose_rows
from fuse4seg.errors import OptionError
from fuse4seg.plans import read_plans
from fuse4seg.recipes.reading import changed, difference_of, read_recipe
from fuse4seg.recipes.recipe import Losses

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
                                      variants={"half": "bilevel.fusion_weight=0.5 losses.edges=3"})
        assert images == Row("FILM", source=("folder", str(Path("film").absolute())))
        assert variant == Row("half", ours=True, changes=("bilevel.fusion_weight=0.5", "losses.edges=3"))

    @pytest.mark.parametrize(("names", "said"), [(["median"], "unknown row median. Choose from: stacked, T1"),
                                                 (["max", "fixed"], "max is there twice")])
    def test_refuses(self, names: list[str], said: str) -> None:
        with pytest.raises(OptionError, match=f"^--rows: {said}"):
            choose_rows(names, modalities=MODALITIES)

    @pytest.mark.parametrize("name", ["a/b", ".hidden", "..", ""])
    def test_refuses_names_that_are_no_folder(self, name: str) -> None:
        with pytest.raises(OptionError, match="cannot be the name of a folder"):
            choose_rows([], modalities=MODALITIES, variants={name: "losses.edges=1"})


class TestLearning:
    """Whether learning to fuse helps: the same rows in colour and in grey, by what teaches the leader."""

    def test_is_a_group(self) -> None:
        names = [row.name for row in choose_rows(["learning"], modalities=MODALITIES)]
        teachers = ["frozen", "fusion_losses_alone", "joint"]
        assert names == [*teachers, "grey", *(f"grey_{teacher}" for teacher in teachers)]
        assert "learning" in GROUPS

    @pytest.mark.parametrize("prefix", ["", "grey_"])
    def test_teaches_the_leader_by_what_the_name_says(self, prefix: str) -> None:
        of = {name: changed(read_recipe("fuse4seg"), LEARNING[f"{prefix}{name}"].changes)
              for name in ("frozen", "fusion_losses_alone", "joint")}
        assert of["frozen"].leader.rate == 0
        assert (of["fusion_losses_alone"].bilevel.hypergradient, of["joint"].bilevel.hypergradient) == ("none", "joint")
        assert {recipe.leader.fused_image for recipe in of.values()} == {"grey" if prefix else "colour"}

    def test_in_grey_is_the_recipe_in_grey(self, planned_phantom: Path, tmp_path: Path) -> None:
        """In the plans that a training of the row follows, too."""
        assert replace(changed(read_recipe("fuse4seg"), LEARNING["grey"].changes), name="grey",
                       about=read_recipe("grey").about) == read_recipe("grey")
        preprocessed = planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom"
        plans = read_plans(preprocessed / "Fuse4SegPlans.json")
        prepare_row(LEARNING["grey"], preprocessed, tmp_path / "data", plans=plans, configuration="2d")
        before, after = (one["configurations"]["2d"]["architecture"]["arch_kwargs"]["leader"]["arch_kwargs"]
                         for one in (plans, read_plans(tmp_path / "data" / "Fuse4SegPlans.json")))
        assert after == {**before, "colours": 1, "brighter": 1.0}


class TestOwnRows:
    @pytest.mark.parametrize("row", OWN.values(), ids=list(OWN))
    def test_have_changes_that_the_recipe_takes(self, row: Row) -> None:
        usual = read_recipe("fuse4seg")
        assert (difference_of(changed(usual, row.changes), usual) is None) == (row.name == METHOD)

    def test_of_one_loss_trains_on_it_alone_whatever_the_plans_have(self) -> None:
        of_another = changed(read_recipe("fuse4seg"), ["losses.ssim=1.5", "losses.vif=1"])
        assert changed(of_another, ABLATIONS["balance_alone"].changes).losses == Losses.only(balance=6)
