"""The reference page on recipes: it says what the recipes say."""

from __future__ import annotations

import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from fuse4seg.recipes import reading, reference
from fuse4seg.recipes.kinds import FOLDERS, network_module, network_names
from fuse4seg.recipes.reading import recipe_names, section_kind
from fuse4seg.recipes.recipe import SECTIONS
from fuse4seg.recipes.reference import recipes_page

PAGE = Path(__file__).parents[2] / "documentation" / "reference" / "recipes.md"


def test_the_committed_page_is_the_generated_one() -> None:
    """If not: python -m fuse4seg.recipes.reference > documentation/reference/recipes.md."""
    assert PAGE.read_text() == recipes_page()


@pytest.fixture(scope="module")
def page() -> str:
    return recipes_page()


def part_of(page: str, section: str) -> str:
    return page.split(f"\n## {section}\n")[1].split("\n## ")[0]


def blocks_of(page: str, section: str) -> list[list[str]]:
    """Lines of a section's blocks: entries that all its networks have; networks, and what they add."""
    return [block.splitlines() for block in re.findall(r"^```text\n(.*?)^```", part_of(page, section), re.MULTILINE | re.DOTALL)]


def cells_of(line: str) -> list[str]:
    """Columns are two spaces apart at least, and no word within one is."""
    return re.split(r"\s{2,}", line.strip())


def added_rows(page: str, section: str) -> dict[tuple[str, str], list[str]]:
    """Values and meanings of what networks add, by the networks and the entry; lines that go on are left out."""
    rows, networks = {}, ""
    for line in blocks_of(page, section)[1]:
        if line.endswith(":"):
            networks = line.removesuffix(":")
        elif networks and re.match(r"  \w", line):
            entry, *cells = cells_of(line)
            rows[networks, entry.removesuffix(" *")] = cells
    return rows


def test_holds_every_recipe_and_every_entry_of_every_section(page: str) -> None:
    head = page.split("\n`f4s_plan_and_preprocess`")[0]
    listed = re.findall(r"^- `(\w+)`: ", head, re.MULTILINE)
    columns = [name for header in re.findall(r"^ +(\w+ .*)$", head, re.MULTILINE) if "`" not in header
               for name in header.split() if name in recipe_names() and name not in listed]
    assert sorted({*listed, *columns}) == recipe_names()
    for name, kind in SECTIONS.items():
        entries = [line.split()[0] for line in blocks_of(page, name)[0] if not line.startswith(" ")]
        assert entries == [own.name for own in fields(kind)]


@pytest.mark.parametrize("section", FOLDERS)
def test_holds_every_network_and_what_it_adds_once(section: str, page: str) -> None:
    common = {own.name for own in fields(SECTIONS[section])}
    added: dict[str, list[str]] = {name: [] for name in network_names(section)}
    for networks, entry in added_rows(page, section):
        for network in networks.split(", "):
            added[network].append(entry)
    for name, entries in added.items():
        own = [entry.name for entry in fields(section_kind(section, name)) if entry.name not in common]
        assert sorted(entries) == sorted(own)
        described = [line for line in blocks_of(page, section)[1] if line.split()[:1] == [name]]
        assert [line.split()[1] for line in described] == [network_module(section, name).__doc__.split()[0]]


def test_a_line_gives_values_meaning_and_range(page: str) -> None:
    lines = [cells_of(line) for name in ("follower", "training") for line in blocks_of(page, name)[0]]
    assert ["momentum", "0.99", "0.9", "of SGD; 0 with adamw; from 0 to below 1"] in lines
    assert ["optimiser", "sgd", "sgd", "sgd, as nnU-Net's, or adamw"] in lines
    assert ["iterations", "250", "of an epoch of either stage (nnU-Net: 250); whole, at least 1"] in lines
    assert "(as `fuse4seg` but for `leader.fused_image=grey`, `leader.brighter=1`)" in " ".join(page.split())


def test_what_does_not_fit_into_a_line_goes_on_below_its_column(page: str) -> None:
    line, rest = blocks_of(page, "bilevel")[0][-2:]
    assert cells_of(line)[:3] == ["viewing", "blur, gamma, window, noise", "none"]
    assert (rest.strip(), rest.index("noise")) == ("noise", line.index("small"))
    assert max(len(line) for name in SECTIONS for block in blocks_of(page, name) for line in block) <= 116


def test_what_a_network_adds_has_its_recipes_values(page: str) -> None:
    values = {where: cells[0] for where, cells in added_rows(page, "leader").items()}
    assert values["cddfuse", "similarity"] == "5"
    assert values["gate", "brighter"] == "0 (fuse4seg), 10 (fusion_alone)"
    assert values["decoder, embedding, encoder, gate", "couplings"] == "1 (fuse4seg, fusion_alone), 3 (paper)"
    assert {value for (_, entry), value in values.items() if entry == "folding"} == {"false"}


def test_recipes_that_agree_share_a_column(page: str) -> None:
    headers = {name: cells_of(blocks_of(page, name)[0][0]) for name in SECTIONS}
    assert headers["patches"] == ["fuse4seg, fusion_alone", "paper", "meaning"]
    assert headers["training"] == ["fuse4seg, fusion_alone, paper", "meaning"]
    # What fuses alone has no such section.
    assert headers["bilevel"] == ["fuse4seg", "paper", "meaning"]


class TestOtherNetworks:
    """Of other papers: a table of what differs from the recipe that they are like."""

    def table(self, page: str, which: str) -> dict[str, dict[str, str]]:
        text = page.split(f"\n{which} networks of [other papers]")[1].split("```text\n")[1]
        header, *rows = text.split("\n```")[0].splitlines()
        entries = [cells_of(row) for row in rows]
        return {recipe: {entry: values[place] for entry, *values in entries} for place, recipe in enumerate(cells_of(header))}

    def test_has_a_row_for_every_leader_with_its_losses(self, page: str) -> None:
        table = self.table(page, "Fusion")
        assert {"didfuse", "rfn_nest", "cddfuse", "u2fusion", "ddcgan", "tardal"} == table.keys()
        assert table["tardal"]["losses"] == "own 1, adversarial 0.1"
        assert (table["cddfuse"]["pretraining.epochs"], table["cddfuse"]["training.epochs"]) == ("40", "80")

    def test_has_a_row_for_every_follower_with_its_optimiser(self, page: str) -> None:
        table = self.table(page, "Segmentation")
        assert {"attention_unet", "unet_3plus", "swin_unet", "cascade", "emcad"} == table.keys()
        assert (table["emcad"]["follower.optimiser"], table["emcad"]["follower.rate"]) == ("adamw", "0.0001")

    def test_leaves_out_what_all_have_alike_and_the_network_of_their_name(self, page: str) -> None:
        assert not {"follower.network", "losses", "leader.rate"} & self.table(page, "Segmentation")["emcad"].keys()


def test_what_planning_decides_has_a_star(page: str) -> None:
    assert re.search(r"^  couplings \*  ", page, re.MULTILINE)
    assert re.search(r"^nesterov  ", page, re.MULTILINE)


class TestAnotherRecipe:
    """One that a later version may bring along, in a folder of its own beside those that come along."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for path in reading.FOLDER.glob("*.toml"):
            shutil.copy(path, tmp_path)
        for module in (reading, reference):
            monkeypatch.setattr(module, "FOLDER", tmp_path)
        return tmp_path

    def line(self, folder: Path, text: str) -> str:
        """What the page says of a recipe, in one line."""
        (folder / "new.toml").write_text(f'about = "New."\n{text}')
        found = re.search(r"^- `new`: (.*?)\n(?:-|\n)", recipes_page(), re.MULTILINE | re.DOTALL)
        return " ".join(found[1].split())

    def test_shows_what_differs_from_the_one_it_is_like(self, folder: Path) -> None:
        said = self.line(folder, 'like = "grey"\n[leader]\nrate = 1e-4\n[bilevel]\nmirroring = false\n')
        assert said == "New. (as `grey` but for `leader.rate=0.0001`, `bilevel.mirroring=false`)"

    def test_of_another_network_leaves_what_this_adds_to_a_table(self, folder: Path) -> None:
        said = self.line(folder, 'like = "fuse4seg"\n[follower]\nnetwork = "cnn_transformer"\nblocks = 4\nfeatures = 16\n')
        assert said == "New. (as `fuse4seg` but for `follower.network=cnn_transformer`, `follower.features=16`)"
        assert added_rows(recipes_page(), "follower")["cnn_transformer", "blocks"][0] == "12 (paper), 4 (new)"

    def test_names_no_loss_that_it_leaves_out_of_many(self, folder: Path) -> None:
        zeros = "".join(f"{name} = 0\n" for name in ("decomposition", "edges", "ssim", "vif", "scd"))
        said = self.line(folder, f'like = "fusion_alone"\n[losses]\nintensity = 3\n{zeros}')
        assert said == "New. (as `fusion_alone` but for `intensity=3`, `chroma=1` alone of `losses`)"

    def test_with_another_recipe_s_network_names_it_in_the_table(self, folder: Path) -> None:
        (folder / "new.toml").write_text('about = "New."\nlike = "emcad"\n[follower]\nrate = 1e-3\n')
        assert "as `fuse4seg` or `emcad` but" in " ".join(recipes_page().split())
        new = TestOtherNetworks().table(recipes_page(), "Segmentation")["new"]
        assert (new["follower.network"], new["follower.optimiser"], new["follower.rate"]) == ("emcad", "adamw", "0.001")

    def test_that_is_like_no_other_has_its_columns_alone(self, folder: Path) -> None:
        (folder / "new.toml").write_text((folder / "fuse4seg.toml").read_text())
        headers = [cells_of(blocks_of(recipes_page(), name)[0][0]) for name in ("leader", "training")]
        assert headers == [["fuse4seg, new", "fusion_alone", "paper", "meaning"],
                           ["fuse4seg, fusion_alone, new, paper", "meaning"]]

    def test_that_segments_unlike_the_one_it_is_like_says_so(self, folder: Path) -> None:
        bilevel = (folder / "fuse4seg.toml").read_text().split("[bilevel]\n")[1]
        said = self.line(folder, f'like = "fusion_alone"\n[bilevel]\n{bilevel}')
        assert said == "New. (as `fusion_alone` but for a section `bilevel`)"
