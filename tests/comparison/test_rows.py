"""Rows of a comparison: what their names stand for, and names that are refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fuse4seg.comparison.prepared_data import prepare_row
from fuse4seg.comparison.rows import (
    ABLATIONS,
    FIXED,
    GROUPS,
    LEARNING,
    METHOD,
    OWN,
    PEER,
    TABLE_3,
    USUAL,
    Row,
    choose_rows,
    fuses_first,
    rival_rows,
    what_fuses,
)
from fuse4seg.errors import OptionError
from fuse4seg.networks.follower import follower_kind
from fuse4seg.plans import read_plans
from fuse4seg.recipes.reading import changed, difference_of, read_recipe, recipe_names
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

    def test_of_images_of_others_may_be_named_and_read_through_the_pretrained_encoder(self) -> None:
        film, behind = choose_rows(["FILM", "FILM_pretrained"], modalities=MODALITIES, images={"FILM": Path("film")})
        source = ("folder", str(Path("film").absolute()))
        assert film == Row("FILM", source=source)
        assert behind == Row("FILM_pretrained", ours=True, source=source, recipe="pretrained_encoder")
        assert Row.from_plain(behind.to_plain()) == behind

    def test_refuses_the_pretrained_encoder_without_images(self) -> None:
        for name in ("FILM_pretrained", "pretrained_encoder"):
            with pytest.raises(OptionError, match=f"^--rows: unknown row {name}. Choose from"):
                choose_rows([name], modalities=MODALITIES)

    def test_refuses_images_named_like_another_row(self) -> None:
        with pytest.raises(OptionError, match="max is there twice"):
            choose_rows(["max"], modalities=MODALITIES, images={"max": Path("film")})

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


class TestImages:
    def test_of_each_row_of_ours_are_read_by_stock_nnunet_after_its_training(self) -> None:
        rows = choose_rows([f"{name}_image" for name in OWN], modalities=MODALITIES)
        assert [(row.ours, fuses_first(row), what_fuses(row)) for row in rows] == [(False, True, row) for row in OWN.values()]


class TestOwnRows:
    @pytest.mark.parametrize("row", OWN.values(), ids=list(OWN))
    def test_have_changes_that_the_recipe_takes(self, row: Row) -> None:
        usual = read_recipe("fuse4seg")
        assert (difference_of(changed(usual, row.changes), usual) is None) == (row.name == METHOD)

    def test_of_one_loss_trains_on_it_alone_whatever_the_plans_have(self) -> None:
        of_another = changed(read_recipe("fuse4seg"), ["losses.ssim=1.5", "losses.vif=1"])
        assert changed(of_another, ABLATIONS["balance_alone"].changes).losses == Losses.only(balance=6)


#: By their recipes: a new one touches no test but its own.
LEADERS = tuple(name for name in recipe_names() if not read_recipe(name).segments and name != "fusion_alone")
FOLLOWERS = tuple(name for name in recipe_names() if follower_kind(read_recipe(name).follower.network).fixed)


class TestRivals:
    @pytest.mark.parametrize("name", LEADERS)
    def test_of_a_leader_train_it_first_or_in_ours(self, name: str) -> None:
        alone, together = (rival_rows()[row] for row in (name, f"{name}+fuse4seg"))
        assert alone == Row(name, source=("leader", name))
        assert together == Row(f"{name}+fuse4seg", ours=True, leader=name)
        assert (fuses_first(alone), fuses_first(together)) == (True, False)

    @pytest.mark.parametrize("name", FOLLOWERS)
    def test_of_a_fixed_follower_get_the_stacked_channels_or_our_image(self, name: str) -> None:
        assert rival_rows()[name] == Row(name, recipe=name)
        assert rival_rows()[f"{name}+fuse4seg"] == Row(f"{name}+fuse4seg", ours=True, recipe=name)

    def test_are_all_recipes_but_our_own(self) -> None:
        whole = {name for name, row in rival_rows().items() if row.recipe == name and row.ours}
        assert whole == {"paper", "paper_v3", "paper_no_reconstruction"}
        assert not {"fuse4seg", "fusion_alone", "grey"} & rival_rows().keys()


class TestTables:
    @pytest.mark.parametrize(("group", "expected"), [
        ("table1", (PEER, *FOLLOWERS, *LEADERS, "paper", METHOD)), ("table2", (*LEADERS, "paper", METHOD)),
        ("leaders", LEADERS), ("followers", FOLLOWERS), ("table3", tuple(TABLE_3))])
    def test_are_groups(self, group: str, expected: tuple[str, ...]) -> None:
        assert tuple(row.name for row in choose_rows([group], modalities=MODALITIES)) == expected

    def test_of_ablations_have_both_rows_of_images_that_are_given(self) -> None:
        names = [row.name for row in choose_rows(["stacked", "table3"], modalities=MODALITIES,
                                                 images={"FILM": Path("film"), "DDFM": Path("ddfm")})]
        assert names == ["stacked", *TABLE_3, "FILM", "FILM_pretrained", "DDFM", "DDFM_pretrained"]

    def test_leave_one_part_of_the_paper_out_at_a_time(self) -> None:
        paper = read_recipe("paper")
        for name, row in TABLE_3.items():
            assert row.ours
            assert (difference_of(changed(read_recipe(row.recipe), row.changes), paper) is None) == (name == "paper")


class TestWithoutLabels:
    def test_usual_rows_fuse_alone(self) -> None:
        rows = choose_rows(["max", "didfuse", METHOD], modalities=MODALITIES, labelled=False, images={"FILM": Path("film")})
        assert rows[:3] == [Row("max", source=("rule", "max")), Row("didfuse", ours=True, recipe="didfuse"),
                            Row(METHOD, ours=True)]
        assert rows[3].source == ("folder", str(Path("film").absolute()))

    def test_table_2_is_without_the_paper(self) -> None:
        rows = choose_rows(["table2"], modalities=MODALITIES, labelled=False)
        assert [row.name for row in rows] == [*LEADERS, METHOD]
        assert all(row.ours for row in rows)

    def test_may_name_images_of_others_and_no_encoder_in_front_of_a_segmentation(self) -> None:
        given = {"modalities": MODALITIES, "labelled": False, "images": {"FILM": Path("film")}}
        assert [row.name for row in choose_rows(["FILM", "max"], **given)] == ["FILM", "max"]
        with pytest.raises(OptionError, match="the dataset has no labels, which FILM_pretrained need"):
            choose_rows(["FILM_pretrained"], **given)

    @pytest.mark.parametrize("names", [["stacked", "T1"], ["followers"], ["paper"], ["didfuse+fuse4seg"], ["joint"]])
    def test_others_are_refused_by_name(self, names: list[str]) -> None:
        rows = [row.name for row in choose_rows(names, modalities=MODALITIES)]
        with pytest.raises(OptionError, match=f"^--rows: the dataset has no labels, which {re.escape(', '.join(rows))} need"):
            choose_rows(["max", *names], modalities=MODALITIES, labelled=False)

    def test_are_the_same_from_a_file(self) -> None:
        for row in (*rival_rows().values(), *TABLE_3.values(), Row("T1", source=("modality", 0))):
            assert Row.from_plain({**row.to_plain(), "fold": 0}) == row
