"""What plans say of a leader, and what a recipe may ask of it: each refusal in one line, with what would do."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from fuse4seg.errors import RecipeError
from fuse4seg.leaders import gate
from fuse4seg.leaders.gate import GateLeader
from fuse4seg.networks.pair_leader import Fold, PairLeader, PairSettings
from fuse4seg.planning.leaders import leader_architecture, leader_class, require_leader
from fuse4seg.recipes.reading import changed, read_recipe
from fuse4seg.recipes.recipe import Leader, Recipe


class Mean(PairLeader):
    """A leader for two modalities that has nothing to learn, and is taught by nothing else."""

    def fuse_pair(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, None]:
        return (first + second) / 2, None

    def pair_losses(self, fold: Fold) -> dict[str, torch.Tensor]:
        return {"brightness": fold.image.mean()}


class Taught(GateLeader):
    """A gate with a stage 1 of its own."""

    reconstructs = True


def recipe_of(*changes: str, folding: bool = False) -> Recipe:
    """The usual recipe in grey whose leader has the entries of one for two modalities."""
    usual = changed(read_recipe("grey"), ["bilevel.auxiliary_weight=0", *changes])
    common: dict[str, Any] = {own.name: getattr(usual.leader, own.name) for own in fields(Leader)}
    return replace(usual, name="mine", leader=PairSettings(**common, folding=folding))


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes that name the gate mean the leader above."""
    monkeypatch.setattr(gate, "LEADER", Mean)


class TestLeaderArchitecture:
    def test_names_the_class_and_its_entries_as_nnunet_does(self) -> None:
        usual = read_recipe("fuse4seg")
        assert leader_class(usual) is GateLeader
        assert leader_architecture(usual, 2) == {
            "network_class_name": "fuse4seg.leaders.gate.GateLeader", "_kw_requires_import": [],
            "arch_kwargs": {"reference": 2, "colours": 3, "cross_attention": False, "detail_features": 16, "base_features": 32,
                            "couplings": 1, "transformers": 2, "brighter": 0.0}}

    @pytest.mark.usefixtures("pair")
    def test_of_a_pair_has_its_folding_alone(self) -> None:
        assert leader_architecture(recipe_of(folding=True), 0) == {
            "network_class_name": f"{__name__}.Mean", "_kw_requires_import": [],
            "arch_kwargs": {"reference": 0, "colours": 1, "folding": True}}


class TestRequireLeader:
    @pytest.mark.parametrize("name", ["fuse4seg", "grey", "fusion_alone", "paper", "paper_v3"])
    @pytest.mark.parametrize("count", [1, 2, 4])
    def test_lets_our_own_pass_on_any_modalities(self, name: str, count: int) -> None:
        require_leader(read_recipe(name), [f"T{index}" for index in range(count)])

    @pytest.mark.parametrize(("changes", "said"), [
        (["losses.own=1"], "losses.own: the leader gate has nothing for it. Set it to 0."),
        (["pretraining.own=true", "pretraining.epochs=3"],
         "pretraining.own: the leader gate has nothing for it. Set it to false.")])
    def test_refuses_losses_that_a_gate_has_not(self, changes: list[str], said: str) -> None:
        usual = read_recipe("fuse4seg")
        with pytest.raises(RecipeError) as refused:
            require_leader(replace(changed(usual, changes), name="mine"), ["T1", "T2"])
        assert str(refused.value) == f"mine: {said}"

    def test_refuses_to_rebuild_without_a_decoder(self) -> None:
        embedding = changed(read_recipe("grey"), ["leader.network=embedding", "pretraining.epochs=3"])
        said = "pretraining.epochs: the leader embedding has nothing for it. Set it to 0."
        with pytest.raises(RecipeError, match=said):
            require_leader(embedding, ["T1", "T2"])
        require_leader(changed(embedding, ["pretraining.epochs=0", "losses.decomposition=0.1"]), ["T1", "T2"])

    @pytest.mark.usefixtures("pair")
    @pytest.mark.parametrize(("changes", "said"), [
        (["losses.decomposition=0.1"], "losses.decomposition: the leader gate has nothing for it. Set it to 0."),
        (["pretraining.epochs=3"], "pretraining.epochs: the leader gate has nothing for it. Set it to 0."),
        (["pretraining.epochs=3", "pretraining.own=true"],
         "pretraining.own: the leader gate has nothing for it. Set it to false."),
        (["bilevel.auxiliary_weight=0.5"], "bilevel.auxiliary_weight: the leader gate has nothing for it. Set it to 0.")])
    def test_refuses_what_a_pair_has_not(self, changes: list[str], said: str) -> None:
        with pytest.raises(RecipeError) as refused:
            require_leader(recipe_of(*changes), ["T1", "T2"])
        assert str(refused.value) == f"mine: {said}"

    @pytest.mark.usefixtures("pair")
    @pytest.mark.parametrize(("modalities", "said"), [
        (["T1"], "leader.network: gate fuses two modalities, and the dataset has one. Use the leader gate."),
        (["T1", "T2", "FLAIR"], "leader.folding: gate fuses two modalities, as published, and there are 3. Fold them in one "
                                "after the other with --set leader.folding=true.")])
    def test_refuses_other_than_two_modalities_of_a_pair(self, modalities: list[str], said: str) -> None:
        with pytest.raises(RecipeError) as refused:
            require_leader(recipe_of(), modalities)
        assert str(refused.value) == f"mine: {said}"

    @pytest.mark.usefixtures("pair")
    def test_lets_a_pair_pass_on_two_and_folded_on_more(self) -> None:
        require_leader(recipe_of("losses.own=1"), ["T1", "T2"])
        require_leader(recipe_of("losses.own=1", folding=True), ["T1", "T2", "FLAIR", "T1ce"])

    def test_lets_pass_what_a_leader_has_and_what_is_left_out_of_training(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = changed(read_recipe("fuse4seg"), ["pretraining.own=true", "pretraining.epochs=3"])
        require_leader(changed(own, ["pretraining.epochs=0"]), ["T1", "T2"])
        monkeypatch.setattr(gate, "LEADER", Taught)
        require_leader(own, ["T1", "T2"])
