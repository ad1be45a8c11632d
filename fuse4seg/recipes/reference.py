"""The reference page on recipes, made from what recipes are made of: ``python -m fuse4seg.recipes.reference``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import Field, fields
from typing import Any, get_type_hints

from fuse4seg.recipes.reading import read_recipe
from fuse4seg.recipes.recipe import SECTIONS, Recipe, Section, described, in_range

#: In the order of the columns: the default, its one-channel form, and the one for datasets without labels.
SHOWN = ("fuse4seg", "grey", "fusion_alone")
HEAD = """\
# Recipes

A recipe is a whole method in one TOML file: the two networks, the losses, and how both are trained. Three come along:

{recipes}

`f4s_plan_and_preprocess` and `f4s_plan_experiment` take a recipe by its name or its file, and write it whole into the
plans. Training, prediction and comparison follow the plans. Without `--recipe`, a dataset with labels gets `{default}`,
one without gets `{unlabelled}`.

    f4s_plan_and_preprocess -d 501 --recipe grey

## Change single entries

    f4s_plan_and_preprocess -d 501 --set losses.edges=4 follower.features=16
    f4s_train 501 2d 0 -p Fuse4SegPlans-losses.edges=4-follower.features=16
    f4s_train 501 2d 0 --set training.epochs=50

Write `SECTION.ENTRY=VALUE`; a list as `VALUE,VALUE`, an empty list as nothing (`bilevel.viewing=`). The plans' name says
what differs, unless you choose one with `-overwrite_plans_name` (`-p`). `f4s_train --set` changes entries that planning
did not decide. The trainer's folder is then named after them: `Fuse4SegTrainer-training.epochs=50__Fuse4SegPlans__2d`.
Give the same `--set` with `--c` and `--val`. `f4s_predict` finds the model with `-tr Fuse4SegTrainer-training.epochs=50`.

## Write your own

    # sharp.toml
    about = "As fuse4seg, with sharper edges."
    like = "fuse4seg"

    [losses]
    edges = 4.0

Use it with `--recipe sharp.toml`. `like` names a recipe that comes along; you then give only what differs. Without `like`,
every entry must be there. A recipe without the section `bilevel` fuses images and segments nothing. Misspelt entries and
values out of range are refused, and the message says what would do. In Python: `fuse4seg.recipes.reading.read_recipe`.

The tables give every entry with its values in the three recipes. **`Bold`** entries are decided in planning.
"""


def recipes_page() -> str:
    """The page, as it stands in documentation/reference/recipes.md."""
    recipes = [read_recipe(name) for name in SHOWN]
    head = HEAD.format(recipes="\n".join(f"- `{recipe.name}`: {recipe.about}" for recipe in recipes), default=SHOWN[0],
                       unlabelled=SHOWN[-1])
    return head + "".join("\n" + "\n".join(_section(name, kind, recipes)) + "\n" for name, kind in SECTIONS.items())


def _section(name: str, kind: type[Section], recipes: list[Recipe]) -> Iterator[str]:
    yield from (f"## {name}", "", inspect.getdoc(kind).splitlines()[0], "")
    yield "| entry | value | meaning | " + " | ".join(recipe.name for recipe in recipes) + " |"
    yield "| --- " * (len(recipes) + 3) + "|"
    hints = get_type_hints(kind)
    for own in fields(kind):
        values = (_shown(getattr(getattr(recipe, name), own.name)) if getattr(recipe, name) else "-" for recipe in recipes)
        entry = f"**`{own.name}`**" if own.metadata["planned"] else f"`{own.name}`"
        cells = (entry, _allowed(own, hints[own.name]), own.metadata["about"], *values)
        yield f"| {' | '.join(cells)} |"


def _allowed(own: Field, hint: Any) -> str:
    choices, least = own.metadata["choices"], own.metadata["least"]
    if choices:
        return ("any of " if hint is not str else "") + ", ".join(f"`{choice}`" for choice in choices)
    return described(hint).removeprefix("a ") + ("" if least is None else f", {in_range(least, own.metadata['below'])}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "none"
    return (value or "empty") if isinstance(value, str) else f"{value:g}"


if __name__ == "__main__":
    sys.stdout.write(recipes_page())
