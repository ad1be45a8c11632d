"""The reference page on recipes, made from what recipes are made of: ``python -m fuse4seg.recipes.reference``."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import Field, fields
from typing import Any, get_type_hints

from fuse4seg.recipes.reading import LONGEST_NAME, read_recipe, recipe_names
from fuse4seg.recipes.recipe import SECTIONS, WITH_LABELS, WITHOUT_LABELS, Recipe, Section, described, in_range

#: Recipes with a column each: the usual ones, with labels and without.
COLUMNS = (WITH_LABELS, WITHOUT_LABELS)
WIDTH = 120
HEAD = """\
# Recipes

A recipe is a whole method in one TOML file: both networks, the losses, and how they are trained. These come along:

{recipes}

`f4s_plan_and_preprocess` and `f4s_plan_experiment` take `--recipe`, a name or a file, and write the recipe into the
plans; training, prediction and comparison follow the plans. Without `--recipe`, a dataset with labels gets `{usual}`,
one without gets `{unlabelled}`.

    f4s_plan_and_preprocess -d 501 --recipe grey
    f4s_train 501 2d 0 -p Fuse4SegPlans-grey

## Change single entries

    f4s_plan_and_preprocess -d 501 --set losses.edges=4 follower.features=16
    f4s_train 501 2d 0 -p Fuse4SegPlans-follower.features=16-losses.edges=4
    f4s_train 501 2d 0 --set training.epochs=50

Write `SECTION.ENTRY=VALUE`; a list as `VALUE,VALUE`, an empty one as nothing (`bilevel.viewing=`). The plans' name says
what differs, in order of the alphabet (beyond {longest} characters, a number that stands for it), unless you choose one
with `-p`; planning ends with the command that trains by it. `f4s_train --set` changes what planning did not decide, and
names the trainer's folder after it: `Fuse4SegTrainer-training.epochs=50__Fuse4SegPlans__2d`. Give the same `--set` with
`--c` and `--val`, and `f4s_predict` the trainer: `-tr Fuse4SegTrainer-training.epochs=50`.

## Write your own

    # sharp.toml, for --recipe sharp.toml
    about = "As fuse4seg, with sharper edges."
    like = "fuse4seg"

    [losses]
    edges = 4.0

Its plans are `Fuse4SegPlans-sharp`. `like` names a recipe that comes along; give only what differs. Without it, every
entry must be there; without the
section `bilevel`, nothing is segmented. What is misspelt or out of range is refused, with what would do. In Python:
`fuse4seg.recipes.reading.read_recipe`.

Planning decides the entries in **`bold`**; to change these, plan anew.
"""


def recipes_page() -> str:
    """The page, as it stands in documentation/reference/recipes.md."""
    recipes = [read_recipe(name) for name in COLUMNS]
    others = [read_recipe(name) for name in recipe_names() if name not in COLUMNS]
    told = [f"- `{recipe.name}`: {recipe.about}" for recipe in recipes] + [
        f"- `{other.name}`: {other.about} ({', '.join(_differing(other, recipes[0]))})" for other in others]
    listed = "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in told)
    head = HEAD.format(recipes=listed, usual=WITH_LABELS, unlabelled=WITHOUT_LABELS, longest=LONGEST_NAME)
    return head + "".join("\n" + "\n".join(_section(name, kind, recipes)) + "\n" for name, kind in SECTIONS.items())


def _differing(recipe: Recipe, usual: Recipe) -> Iterator[str]:
    for name in SECTIONS:
        section, its = getattr(recipe, name), getattr(usual, name)
        for own in fields(section) if section and its else ():
            if (value := getattr(section, own.name)) != getattr(its, own.name):
                yield f"`{name}.{own.name}={_shown(value)}`"


def _section(name: str, kind: type[Section], recipes: list[Recipe]) -> Iterator[str]:
    yield from (f"## {name}", "", inspect.getdoc(kind).splitlines()[0], "")
    hints = get_type_hints(kind)
    allowed = {own.name: _allowed(own, hints[own.name]) for own in fields(kind)}
    alike = len(set(allowed.values())) == 1
    if alike:
        yield from (f"Each is a {next(iter(allowed.values()))}.", "")
    header = ["entry", *["value"] * (not alike), "meaning", *(recipe.name for recipe in recipes)]
    yield from (f"| {' | '.join(header)} |", "| --- " * len(header) + "|")
    for own in fields(kind):
        values = (_shown(getattr(getattr(recipe, name), own.name)) if getattr(recipe, name) else "-" for recipe in recipes)
        entry = f"**`{own.name}`**" if own.metadata["planned"] else f"`{own.name}`"
        cells = (entry, *[allowed[own.name]] * (not alike), own.metadata["about"], *values)
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
