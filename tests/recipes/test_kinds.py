"""Networks that recipes may name: each file holds what the rest looks for, and is some recipe's."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields

import pytest

from fuse4seg.errors import RecipeError
from fuse4seg.networks.follower import FollowerKind, StagedSettings
from fuse4seg.networks.leader import LeaderNetwork
from fuse4seg.planning.leaders import own_entries
from fuse4seg.recipes.kinds import FOLDERS, network_module, network_names
from fuse4seg.recipes.reading import read_recipe, recipe_names, section_kind
from fuse4seg.recipes.recipe import Follower, Leader


class TestNetworkNames:
    def test_are_those_of_the_files(self) -> None:
        assert {"gate", "decoder"} <= set(network_names("leader"))
        assert {"unet", "resenc_m", "resenc_l", "resenc_xl", "cnn_transformer"} <= set(network_names("follower"))
        for section in ("leader", "follower"):
            assert list(network_names(section)) == sorted(network_names(section))
            assert not any(name.startswith("_") for name in network_names(section))

    def test_are_known_without_reading_the_files(self) -> None:
        """These import torch, which commands do not wait for."""
        script = ("import sys; from fuse4seg.recipes.kinds import network_names; "
                  "assert network_names('leader') and network_names('follower'); assert 'torch' not in sys.modules")
        subprocess.run([sys.executable, "-c", script], check=True)


class TestNetworkModule:
    @pytest.mark.parametrize("name", network_names("leader"))
    def test_of_a_leader_has_its_network_and_entries(self, name: str) -> None:
        module = network_module("leader", name)
        assert issubclass(module.LEADER, LeaderNetwork)
        assert issubclass(module.Settings, Leader)
        assert module.LEADER.__module__ == module.Settings.__module__ == f"fuse4seg.leaders.{name}"

    @pytest.mark.parametrize("name", network_names("follower"))
    def test_of_a_follower_has_its_kind_and_entries(self, name: str) -> None:
        module = network_module("follower", name)
        assert isinstance(module.FOLLOWER, FollowerKind)
        assert issubclass(module.Settings, Follower)
        assert issubclass(module.Settings, StagedSettings) != module.FOLLOWER.fixed
        assert module.Settings.__module__ == f"fuse4seg.followers.{name}"

    @pytest.mark.parametrize(("section", "name", "lacking"), [("leader", "gate", "LEADER"), ("leader", "gate", "Settings"),
                                                              ("follower", "unet", "FOLLOWER")])
    def test_without_what_planning_asks_for_is_refused_by_its_file(self, section: str, name: str, lacking: str,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
        module = network_module(section, name)
        monkeypatch.delattr(module, lacking)
        with pytest.raises(RecipeError, match=rf"{section}.network: {re.escape(module.__file__)} has no {lacking}. Give it one"):
            network_module(section, name)

    @pytest.mark.parametrize("section", FOLDERS)
    def test_adds_no_entry_that_no_recipe_gives(self, section: str) -> None:
        given = {own.name for name in recipe_names() for own in fields(getattr(read_recipe(name), section))}
        assert given == {own.name for name in network_names(section) for own in fields(section_kind(section, name))}

    def test_hands_its_entries_to_the_network_by_name(self) -> None:
        usual = read_recipe("fuse4seg")
        assert own_entries(usual.leader, Leader) == {"cross_attention": False, "detail_features": 16, "base_features": 32,
                                                     "couplings": 1, "transformers": 2, "brighter": 0.0}
        assert own_entries(usual.follower, StagedSettings) == {}
        assert own_entries(read_recipe("paper").follower, StagedSettings) == {"blocks": 12}
