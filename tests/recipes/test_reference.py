"""The reference page on recipes: it says what the recipes say."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from fuse4seg.recipes.reading import recipe_names
from fuse4seg.recipes.recipe import SECTIONS
from fuse4seg.recipes.reference import recipes_page

PAGE = Path(__file__).parents[2] / "documentation" / "reference" / "recipes.md"


def test_the_committed_page_is_the_generated_one() -> None:
    """If not: python -m fuse4seg.recipes.reference > documentation/reference/recipes.md."""
    assert PAGE.read_text() == recipes_page()


def test_holds_every_recipe_and_every_entry_of_every_section() -> None:
    assert [name for name in recipe_names() if f"\n- `{name}`: " not in recipes_page()] == []
    for name, kind in SECTIONS.items():
        table = recipes_page().split(f"\n## {name}\n")[1].split("\n## ")[0]
        entries = re.findall(r"^\| \**`(\w+)`", table, re.MULTILINE)
        assert entries == [own.name for own in fields(kind)]


def test_a_row_gives_type_range_meaning_and_values() -> None:
    page = recipes_page()
    assert "| `momentum` | number, from 0 to below 1 | of SGD | 0.99 | 0.99 |" in page
    assert "preferred before training | 0 | 10 |" in page
    assert "learns to read the image | blur, gamma, window, noise | - |" in page
    assert "(`leader.fused_image=grey`, `leader.brighter=1`)" in " ".join(page.split())


def test_what_holds_for_a_whole_section_is_said_once() -> None:
    assert "\n\nEach is a number, at least 0.\n\n| entry | meaning | fuse4seg | fusion_alone |\n" in recipes_page()


def test_what_planning_decides_is_in_bold() -> None:
    assert "| **`couplings`** |" in recipes_page()
    assert "| **`nesterov`** |" not in recipes_page()
