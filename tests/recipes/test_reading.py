"""Recipes read from files, plans and words, and written back."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse4seg.checkpoint import load_checkpoint, save_checkpoint
from fuse4seg.errors import RecipeError
from fuse4seg.recipes.kinds import network_names
from fuse4seg.recipes.reading import (
    LONGEST_NAME,
    changed,
    difference_of,
    from_plain,
    name_after,
    read_recipe,
    recipe_names,
    section_kind,
    to_plain,
)
from fuse4seg.recipes.recipe import SECTIONS, VIEWING, WITH_LABELS, WITHOUT_LABELS, Losses

USUAL = read_recipe(WITH_LABELS)
OURS = (WITH_LABELS, WITHOUT_LABELS, "grey")


class TestRecipesThatComeAlong:
    def test_are_our_own_and_one_for_each_rival_called_as_its_network(self) -> None:
        ours = {*OURS, "paper", "paper_v3", "paper_no_reconstruction", "pretrained_encoder"}
        assert ours <= set(recipe_names())
        assert set(recipe_names()) - ours <= {*network_names("leader"), *network_names("follower")}

    @pytest.mark.parametrize("name", recipe_names())
    def test_can_all_be_read(self, name: str) -> None:
        recipe = read_recipe(name)
        assert recipe.name == name
        assert recipe.about.endswith(".")

    def test_with_labels_start_from_the_paper_s_epochs_and_nnu_net_s_iterations(self) -> None:
        assert (USUAL.pretraining.epochs, USUAL.training.epochs, USUAL.training.iterations) == (0, 140, 250)
        assert USUAL.losses == Losses.only(edges=2, balance=6, scd=0.3, chroma=1)
        assert USUAL.bilevel.viewing == VIEWING
        assert USUAL.bilevel.hypergradient == "gauss_newton"

    def test_without_labels_train_what_can_be_seen_in_the_image(self) -> None:
        alone = read_recipe(WITHOUT_LABELS)
        assert alone.bilevel is None
        assert alone.losses == Losses.only(decomposition=0.1, edges=6, ssim=1.5, vif=0.1, scd=0.5, chroma=1)
        assert (alone.pretraining.epochs, alone.leader.fused_image) == (80, "grey")

    def test_in_grey_differ_in_the_image_alone(self) -> None:
        grey = read_recipe("grey")
        leader = replace(grey.leader, fused_image="colour", brighter=0.0)
        assert replace(grey, leader=leader, name=USUAL.name, about=USUAL.about) == USUAL

    @pytest.mark.parametrize("name", OURS)
    def test_of_our_own_are_followed_by_nnu_net_s_network_and_optimiser(self, name: str) -> None:
        follower = read_recipe(name).follower
        assert (follower.network, follower.optimiser) == ("unet", "sgd")
        assert (follower.rate, follower.momentum, follower.nesterov, follower.weight_decay) == (1e-2, 0.99, True, 3e-5)

    @pytest.mark.parametrize("name", OURS)
    def test_of_our_own_segment_as_nnu_net_does_and_have_no_losses_of_another(self, name: str) -> None:
        recipe = read_recipe(name)
        assert (recipe.losses.own, recipe.pretraining.own) == (0, False)
        if recipe.bilevel is not None:
            assert (recipe.bilevel.cross_entropy, recipe.bilevel.dice, recipe.bilevel.mirroring) == (1, 1, True)


class TestReadRecipe:
    def test_of_a_user_takes_the_rest_from_what_it_is_like(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text('about = "Mine."\nlike = "grey"\n[losses]\nedges = 5\n[patches]\nsize = [64, 48]\n')
        mine = read_recipe(tmp_path / "mine.toml")
        wanted = changed(read_recipe("grey"), ["losses.edges=5", "patches.size=64,48"])
        assert replace(mine, name=wanted.name, about=wanted.about) == wanted
        assert (mine.name, mine.about) == ("mine", "Mine.")

    def test_that_is_not_there_names_those_that_are(self, tmp_path: Path) -> None:
        for name in ("best", tmp_path / "best.toml", "../recipes/grey", ""):
            choices = ", ".join(recipe_names())
            with pytest.raises(RecipeError, match=f"^--recipe: .*: there is no such recipe. Choose from: {choices}; or"):
                read_recipe(name)

    def test_of_a_user_does_not_pass_as_one_that_comes_along(self, tmp_path: Path) -> None:
        (tmp_path / "grey.toml").write_text('about = "Mine."\nlike = "grey"\n[losses]\nedges = 5\n')
        with pytest.raises(RecipeError, match="has the name of a recipe that comes along"):
            read_recipe(tmp_path / "grey.toml")
        assert read_recipe(Path(read_recipe.__globals__["FOLDER"]) / "grey.toml") == read_recipe("grey")

    @pytest.mark.parametrize("content", [b'about = "\xe4"', b"x = " + b"[" * 5000, b'about = "Mine."\nlike = ["grey"]',
                                         b'about = "Mine."\nlike = "grey"\nlosses = 3'])
    def test_of_hostile_content_is_refused(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_bytes(content)
        with pytest.raises(RecipeError, match=r"^mine\.toml: "):
            read_recipe(tmp_path / "mine.toml")

    @pytest.mark.parametrize("section", SECTIONS)
    def test_misses_no_entry(self, section: str, tmp_path: Path) -> None:
        """Of a file that is like no other, each line is needed but for the whole of bilevel."""
        lines = (Path(read_recipe.__globals__["FOLDER"]) / "fuse4seg.toml").read_text().splitlines()
        for entry in fields(getattr(USUAL, section)):
            within, kept = "", []
            for line in lines:
                within = line.strip("[] ").split("]")[0] if line.startswith("[") else within
                if not (within == section and line.startswith(f"{entry.name} =")):
                    kept.append(line)
            assert len(kept) == len(lines) - 1
            (tmp_path / "mine.toml").write_text("\n".join(kept))
            with pytest.raises(RecipeError, match=rf"^mine.toml: {section}\.{entry.name}: is missing"):
                read_recipe(tmp_path / "mine.toml")


class TestPlain:
    @pytest.mark.parametrize("name", recipe_names())
    def test_comes_back_through_json_and_checkpoints(self, name: str, tmp_path: Path) -> None:
        recipe = changed(read_recipe(name), ["patches.size=32,64", "losses.edges=7"])
        assert from_plain(json.loads(json.dumps(to_plain(recipe))), source="plans") == recipe
        save_checkpoint({"recipe": to_plain(recipe)}, tmp_path / "model.pth")
        assert from_plain(load_checkpoint(tmp_path / "model.pth")["recipe"], source="model.pth") == recipe

    @pytest.mark.parametrize("change", [{"version": 0}, {"another": 1}, {"losses": {}}, {"losses": 3}, {"training": None},
                                        {"bilevel": {"damping": 1}}, {"name": 3}, {"about": None}])
    def test_of_another_layout_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(RecipeError, match="^plans: "):
            from_plain({**to_plain(USUAL), **change}, source="plans")
        for nothing in (None, [], 3, {}):
            with pytest.raises(RecipeError, match="^plans: version"):
                from_plain(nothing, source="plans")

    def test_of_hostile_content_is_refused_or_read_but_never_runs_away(self) -> None:
        """Anything in the place of anything."""
        drawn = random.Random(0)
        odd = [None, [], {}, "x", -1, 1e400, float("nan"), True, [[]], {"a": {}}, "1", 10**30]
        for _ in range(300):
            plain = json.loads(json.dumps(to_plain(USUAL)))
            section = drawn.choice(list(plain))
            where = plain[section] if isinstance(plain[section], dict) and drawn.random() < 0.8 else plain
            where[drawn.choice([*where, "new"])] = drawn.choice(odd)
            with suppress(RecipeError):
                from_plain(plain, source="plans")


class TestChanged:
    @pytest.mark.parametrize(("word", "section", "entry", "value"), [
        ("losses.edges=4", "losses", "edges", 4.0), ("training.epochs=3", "training", "epochs", 3),
        ("leader.cross_attention=true", "leader", "cross_attention", True),
        ("leader.reference=T1 Gd", "leader", "reference", "T1 Gd"),
        ("bilevel.viewing=noise,blur", "bilevel", "viewing", ("noise", "blur")),
        ("bilevel.viewing=", "bilevel", "viewing", ()), ("patches.size=64,48", "patches", "size", (64, 48)),
        ("leader.rate=1e-4", "leader", "rate", 1e-4)])
    def test_changes_an_entry_and_keeps_the_rest(self, word: str, section: str, entry: str, value: object) -> None:
        found = changed(USUAL, [word])
        assert getattr(getattr(found, section), entry) == value
        assert difference_of(found, USUAL) == f"{section}.{entry}"
        assert replace(found, name=USUAL.name, **{section: getattr(USUAL, section)}) == USUAL

    def test_takes_several_at_once_whose_order_does_not_matter(self) -> None:
        """Each alone would be refused."""
        found = changed(read_recipe("fuse4seg"), ["pretraining.epochs=3", "leader.rate=0.1", "losses.edges=1"])
        assert found == replace(changed(USUAL, ["losses.edges=1", "leader.rate=0.1", "pretraining.epochs=3"]), name=found.name)

    def test_of_nothing_is_the_same(self) -> None:
        assert changed(USUAL, []) == USUAL
        assert difference_of(USUAL, USUAL) is None
        assert difference_of(USUAL, read_recipe("fusion_alone")) == "leader.fused_image"
        assert difference_of(USUAL, replace(USUAL, bilevel=None)) == "bilevel"

    @pytest.mark.parametrize(("word", "said"), [
        ("losses", "losses: is no change. Write SECTION.ENTRY=VALUE, as losses.edges=2."), ("=3", ": fuse4seg has no such sec"),
        ("loses.edges=3", "loses.edges: fuse4seg has no such section. Its sections are: leader, follower,"),
        ("losses.edge=3", "losses.edge: there is no such entry. Entries of losses are: own, intensity, texture"),
        ("losses=3", "losses: there is no such entry"), ("leader.folding=true", "leader.folding: there is no such entry."),
        ("leader.network=gates", "leader.network: there is no 'gates'. Choose from: "),
        ("follower.network=gate", "follower.network: there is no 'gate'. Choose from: "),
        ("follower.blocks=4", "follower.blocks: there is no such entry. Entries of follower are: network, optimiser"),
        ("follower.network=cnn_transformer",
         "follower.blocks: is missing: cnn_transformer has entries that fuse4seg lacks. Set it, too, or begin with a recipe"),
        ("losses.edges=much", "losses.edges: 'much' is not a number."),
        ("training.epochs=2.5", "training.epochs: '2.5' is not a whole number."), ("patches.size=8,x", "patches.size: 'x'"),
        ("leader.cross_attention=yes", "leader.cross_attention: 'yes' is not true or false."),
        ("losses.edges=nan", "losses.edges: must be at least 0, got nan.")])
    def test_refuses_in_one_line(self, word: str, said: str) -> None:
        with pytest.raises(RecipeError) as refused:
            changed(USUAL, [word])
        assert str(refused.value).startswith(f"--set: {said}")

    def test_of_a_section_that_the_recipe_lacks_names_those_it_has(self) -> None:
        with pytest.raises(RecipeError, match="bilevel.damping: fusion_alone has no such section. Its sections are: leader"):
            changed(read_recipe("fusion_alone"), ["bilevel.damping=1"])

    def test_in_training_leaves_what_plans_decide(self) -> None:
        planned = {f"{name}.{own.name}": getattr(getattr(USUAL, name), own.name) for name in SECTIONS
                   for own in fields(getattr(USUAL, name)) if own.metadata["planned"]}
        assert {path.split(".")[0] for path in planned} == {"leader", "follower", "patches"}
        assert {"leader.network", "leader.brighter", "follower.features"} <= planned.keys()
        for path in planned:
            value = {"leader.network": "decoder", "follower.network": "resenc_m"}.get(path, "1")
            with pytest.raises(RecipeError, match=rf"--set: {path}: is decided in planning. Plan anew: f4s_plan_experiment --set "
                                                  rf"{path}={value}"):
                changed(USUAL, [f"{path}={value}"], in_training=True)
        assert changed(USUAL, ["leader.rate=0.1"], in_training=True).leader.rate == 0.1


class TestAnotherNetwork:
    def test_keeps_what_both_have_and_takes_what_it_adds(self) -> None:
        hybrid = changed(USUAL, ["follower.blocks=3", "follower.network=cnn_transformer", "follower.features=8"]).follower
        assert type(hybrid) is section_kind("follower", "cnn_transformer")
        assert hybrid == type(hybrid)(**{**asdict(USUAL.follower), "network": "cnn_transformer", "features": 8, "blocks": 3})

    def test_leaves_out_what_it_lacks(self) -> None:
        grey = read_recipe("grey")
        decoder = changed(grey, ["leader.network=decoder"])
        assert not hasattr(decoder.leader, "brighter")
        assert all(getattr(decoder.leader, own.name) == getattr(grey.leader, own.name) for own in fields(decoder.leader)
                   if own.name != "network")
        assert difference_of(decoder, grey) == difference_of(grey, decoder) == "leader.network"

    def test_comes_back_from_plans(self) -> None:
        for recipe in (read_recipe("paper"), changed(USUAL, ["follower.network=cnn_transformer", "follower.blocks=3"])):
            back = from_plain(json.loads(json.dumps(to_plain(recipe))), source="plans")
            assert back == recipe
            assert type(back.follower) is section_kind("follower", "cnn_transformer")

    def test_of_a_file_leaves_out_what_it_lacks_of_the_recipe_it_is_like(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text('about = "Mine."\nlike = "grey"\n[leader]\nnetwork = "decoder"\ncouplings = 0\n'
                                            '[follower]\nnetwork = "resenc_m"\n')
        mine = read_recipe(tmp_path / "mine.toml")
        wanted = changed(read_recipe("grey"), ["leader.network=decoder", "leader.couplings=0", "follower.network=resenc_m"])
        assert replace(mine, name=wanted.name, about=wanted.about) == wanted

    @pytest.mark.parametrize(("section", "said"), [
        ('[leader]\nnetwork = "decoder"\nbrighter = 1.0', "leader.brighter: there is no such entry. Entries of leader are: "),
        ('[follower]\nnetwork = "cnn_transformer"', "follower.blocks: is missing"),
        ('[follower]\nnetwork = "vnet"', "follower.network: there is no 'vnet'. Choose from: "),
        ("[follower]\nnetwork = 3", "follower.network: there is no 3. Choose from: "),
        ('[follower]\nnetwork = ["unet"]', r"follower.network: there is no \['unet'\]. Choose from: ")])
    def test_of_a_file_is_refused_in_one_line(self, section: str, said: str, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text(f'about = "Mine."\nlike = "grey"\n{section}\n')
        with pytest.raises(RecipeError, match=f"^mine.toml: {said}"):
            read_recipe(tmp_path / "mine.toml")


class TestNameAfter:
    @given(st.lists(st.text(min_size=1, max_size=60), max_size=6))
    def test_is_one_that_a_folder_and_nnu_net_take(self, changes: list[str]) -> None:
        """nnU-Net splits such names at two underlines."""
        name = name_after("Plans", changes)
        assert len(name) <= LONGEST_NAME
        assert "__" not in name
        assert not set(name) & set("/\\:*?\"<>| \n")

    @pytest.mark.parametrize(("words", "same"), [
        (["losses.edges=4.0", "training.epochs=9"], ["training.epochs=9", "losses.edges=4"]),
        (["leader.rate=1e-4"], ["leader.rate=0.0001"]), (["losses.edges=4 "], ["losses.edges=4"]),
        (["patches.size=064,48"], ["patches.size=64,48"]), (["follower.network=cnn_transformer", "follower.blocks=04"],
                                                            ["follower.blocks=4", "follower.network=cnn_transformer"]),
        (["losses.edges=3", "losses.edges=4"], ["losses.edges=4"])])
    def test_is_the_same_for_the_same_recipe(self, words: list[str], same: list[str]) -> None:
        assert changed(USUAL, words) == changed(USUAL, same)
        assert name_after("Plans", words) == name_after("Plans", same)

    @pytest.mark.parametrize(("change", "name"), [
        ("bilevel.viewing=blur,noise", "Plans-bilevel.viewing=blur+noise"), ("bilevel.viewing=", "Plans-bilevel.viewing="),
        ("leader.cross_attention=true", "Plans-leader.cross_attention=true"),
        ("leader.reference=T1 c_", "Plans-leader.reference=T1+c"),
        ("training.modality_dropout=.25", "Plans-training.modality_dropout=0.25"),
        ("patches.size=64,48", "Plans-patches.size=64+48"), ("leader.reference=1e3", "Plans-leader.reference=1000"),
        ("leader.own_entry=1.50", "Plans-leader.own_entry=1.5"),
        ("follower.network=resenc_m", "Plans-follower.network=resenc_m")])
    def test_says_what_was_changed(self, change: str, name: str) -> None:
        assert name_after("Plans", [change]) == name

    def test_of_very_many_changes_still_tells_them_apart(self) -> None:
        names = {name_after("Plans", [f"losses.edges={number}", *(f"losses.{part.name}=0.1" for part in fields(Losses)
                                                                          if part.name != "edges")]) for number in range(50)}
        assert len(names) == 50
