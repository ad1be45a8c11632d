"""The reference page on recipes, made from what recipes are made of: ``python -m fuse4seg.recipes.reference``."""

from __future__ import annotations

import inspect
import math
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields
from typing import Any, get_args, get_type_hints

import tomllib

from fuse4seg.recipes.kinds import FOLDERS, network_module, network_names
from fuse4seg.recipes.reading import FOLDER, LIKE, LONGEST_NAME, read_recipe, recipe_names, section_kind
from fuse4seg.recipes.recipe import (
    SECTIONS,
    WITH_LABELS,
    WITHOUT_LABELS,
    Losses,
    Recipe,
    in_range,
    section_name,
)

#: These have the first columns; recipes that are like no other follow.
USUAL = (WITH_LABELS, WITHOUT_LABELS)
PAPER = "paper"
#: What stands above each group of recipes.
GROUPS = {
    "own": "Ours:",
    PAPER: "The paper's:",
    "leader": "Fusion networks of [other papers](#leader), for two modalities, without labels: as {like} but for their "
              "leader and",
    "follower": "Segmentation networks of [other papers](#follower): as {like} but for their follower and"}
#: Of lines of text, and of those of aligned columns.
WIDTH, ALIGNED = 120, 116
#: More losses left out than these are not named one by one.
FEW = 2
#: What a range is when a line says nothing.
LEAST = 0
#: Behind the name of an entry that planning decides.
PLANNED = " *"
HEAD = """\
# Recipes

A recipe is a whole method in one TOML file: both networks, the losses, and how they are trained. No weights come along.

{recipes}
`f4s_plan_and_preprocess` and `f4s_plan_experiment` take `--recipe`, a name or a file, and write the recipe into the
plans, which all other commands follow. Without it, datasets with labels get `{usual}`, others `{unlabelled}`.

    f4s_plan_and_preprocess -d 501 --recipe grey
    f4s_train 501 2d 0 -p Fuse4SegPlans-grey

## Change single entries

    f4s_plan_and_preprocess -d 501 --set losses.edges=4 follower.features=16
    f4s_train 501 2d 0 -p Fuse4SegPlans-follower.features=16-losses.edges=4
    f4s_train 501 2d 0 --set training.epochs=50

Write `SECTION.ENTRY=VALUE`, a list as `VALUE,VALUE`, an empty one as nothing (`bilevel.viewing=`). Entries of another
network go with it: `follower.network=cnn_transformer follower.blocks=4`.

- **In planning**, the plans' name says what differs, sorted (beyond {longest} characters, by a number), unless `-p` names
  them; the last line is the command that trains.
- **In training**, `--set` changes what planning did not decide, and the trainer's folder says so
  (`Fuse4SegTrainer-training.epochs=50__Fuse4SegPlans__2d`): give the same with `--c` and `--val`, and `f4s_predict`
  the trainer, `-tr Fuse4SegTrainer-training.epochs=50`.

## Write your own

    # sharp.toml, for --recipe sharp.toml
    about = "As fuse4seg, with sharper edges."
    like = "fuse4seg"

    [losses]
    edges = 4.0

Its plans are `Fuse4SegPlans-sharp`. Give what differs from `like`, which names a recipe that comes along; with another
`network` also what this adds. Without `like`, give every entry; without the section `bilevel`, nothing is segmented.
What is misspelt or out of range is refused. In Python: `fuse4seg.recipes.reading.read_recipe`.

## Read the tables

Planning decides entries with a `*`: to change them, plan anew. Numbers are at least 0 unless a line says otherwise.
"""


def recipes_page() -> str:
    """The page, as it stands in documentation/reference/recipes.md."""
    like = {name: tomllib.loads((FOLDER / f"{name}.toml").read_text()).get(LIKE) for name in (*USUAL, *recipe_names())}
    recipes = [read_recipe(name) for name in like if like[name] is None]
    others = [(read_recipe(name), read_recipe(like[name])) for name in like if like[name] is not None]
    listed = "\n".join(_listed([*((recipe, None) for recipe in recipes), *others]))
    head = HEAD.format(recipes=listed, usual=WITH_LABELS, unlabelled=WITHOUT_LABELS, longest=LONGEST_NAME)
    return head + "".join("\n" + "\n".join(_section(name, recipes, others)) + "\n" for name in SECTIONS)


def _listed(recipes: Sequence[tuple[Recipe, Recipe | None]]) -> Iterator[str]:
    """All recipes, each with what it is like: lists of ours and of the paper's, columns of other leaders and followers."""
    groups: dict[str, list[tuple[Recipe, Recipe | None]]] = {group: [] for group in GROUPS}
    for recipe, its in recipes:
        groups[_group(recipe, its)].append((recipe, its))
    for group, found in groups.items():
        if not found:
            continue
        if group in FOLDERS:
            alike = " or ".join(f"`{name}`" for name in dict.fromkeys(its.name for _, its in found))
            yield from (*textwrap.wrap(GROUPS[group].format(like=alike), WIDTH), "", *_differences(group, found), "")
            continue
        yield from (GROUPS[group], "")
        for recipe, its in found:
            told = f"- `{recipe.name}`: {recipe.about}" + (f" ({_difference(recipe, its)})" if its else "")
            yield from textwrap.wrap(told, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        yield ""


def _group(recipe: Recipe, like: Recipe | None) -> str:
    """Which of GROUPS a recipe belongs to."""
    if PAPER in (recipe.name, like and like.name):
        return PAPER
    if like is None:
        return "own"
    if not recipe.segments:
        return "own" if recipe.leader.network == read_recipe(WITHOUT_LABELS).leader.network else "leader"
    return "follower" if network_module("follower", recipe.follower.network).FOLLOWER.fixed else "own"


def _differences(group: str, recipes: Sequence[tuple[Recipe, Recipe]]) -> Iterator[str]:
    """Recipes whose leader or follower is another, a column each: entries in which one of them differs from its like."""
    columns: dict[str, tuple[str, str]] = {}
    for name in SECTIONS:
        for recipe, its in recipes:
            section, like = getattr(recipe, name), getattr(its, name)
            for own in fields(section) if section and like else ():
                if hasattr(like, own.name) and getattr(section, own.name) != getattr(like, own.name):
                    whole = name == section_name(Losses)
                    columns[name if whole else f"{name}.{own.name}"] = name, "" if whole else own.name
    if all(getattr(recipe, group).network == recipe.name for recipe, _ in recipes):
        del columns[f"{group}.network"]
    rows = ([column, *(_shown(getattr(getattr(recipe, name), own)) if own else _weights(getattr(recipe, name))
                       for recipe, _ in recipes)] for column, (name, own) in columns.items())
    yield from ("```text", *_aligned([["", *(recipe.name for recipe, _ in recipes)], *rows]), "```")


def _weights(losses: Losses) -> str:
    weights = {own.name: getattr(losses, own.name) for own in fields(losses)}
    return ", ".join(f"{name} {_shown(weight)}" for name, weight in weights.items() if weight) or "none"


def _difference(recipe: Recipe, like: Recipe) -> str:
    """From what it is like, in entries that both have."""
    return f"as `{like.name}` but for {', '.join(word for name in SECTIONS for word in _differing(name, recipe, like))}"


def _differing(name: str, recipe: Recipe, like: Recipe) -> Iterator[str]:
    section, its = getattr(recipe, name), getattr(like, name)
    if (section is None) != (its is None):
        yield f"{'no' if section is None else 'a'} section `{name}`"
    if section is None or its is None:
        return
    # What another network adds stands in a table of its own.
    known = [own for own in fields(section) if hasattr(its, own.name)]
    values = {own.name: getattr(section, own.name) for own in known if getattr(section, own.name) != getattr(its, own.name)}
    zeros = [entry for entry, value in values.items() if value == 0 and name == section_name(Losses)]
    if len(zeros) > FEW:
        weighed = ", ".join(f"`{own.name}={_shown(value)}`" for own in known if (value := getattr(section, own.name)))
        yield f"{weighed} alone of `{name}`" if weighed else f"no `{name}`"
    else:
        yield from (f"`{name}.{entry}={_shown(value).replace(', ', ',')}`" for entry, value in values.items())


def _section(name: str, recipes: list[Recipe], others: list[tuple[Recipe, Recipe]]) -> Iterator[str]:
    """A section, with a column for each of the recipes; networks, and what they add, have a block of their own."""
    kind = SECTIONS[name]
    yield from (f"## {name}", "", inspect.getdoc(kind).splitlines()[0], "", "```text", *_common(name, recipes), "```")
    if name in FOLDERS:
        networks = [[network, inspect.getdoc(network_module(name, network)).splitlines()[0]] for network in network_names(name)]
        yield from ("", "Networks, and the entries that they add:", "", "```text", *_aligned(networks),
                    *_added_rows(name, recipes, others), "```")


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns, the last of which may go on below."""
    widths = [max(len(row[place]) for row in rows) + 2 for place in range(len(rows[0]) - 1)]
    for *cells, last in rows:
        start = "".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
        yield from textwrap.wrap(last, ALIGNED, initial_indent=start, subsequent_indent=" " * sum(widths),
                                 break_on_hyphens=False, break_long_words=False, drop_whitespace=True)


def _common(name: str, recipes: list[Recipe]) -> Iterator[str]:
    """Entries that a section has with any network, with their values; recipes that agree in all share a column."""
    kind = SECTIONS[name]
    columns: dict[tuple[str, ...], list[str]] = {}
    for recipe in recipes:
        if (section := getattr(recipe, name)) is not None:
            columns.setdefault(tuple(_shown(getattr(section, own.name)) for own in fields(kind)), []).append(recipe.name)
    rows = ([own.name + PLANNED * own.metadata["planned"], *values, _told(own, get_type_hints(kind)[own.name])]
            for own, *values in zip(fields(kind), *columns, strict=True))
    yield from _aligned([["", *map(", ".join, columns.values()), "meaning"], *rows])


def _added_rows(name: str, recipes: list[Recipe], others: list[tuple[Recipe, Recipe]]) -> Iterator[str]:
    """Entries that files of networks add, with their values in recipes, and in others whose like lacks them."""
    for networks, added in _added(name).items():
        hints = get_type_hints(section_kind(name, networks[0]))
        having = [*recipes, *(other for other, like in others if getattr(like, name).network not in networks)]
        sections = {recipe.name: section for recipe in having if (section := getattr(recipe, name)).network in networks}
        yield from ("", f"{', '.join(networks)}:")
        yield from _aligned([
            [f"  {own.name}" + PLANNED * own.metadata["planned"],
             _by_recipe({recipe: _shown(getattr(section, own.name)) for recipe, section in sections.items()}),
             _told(own, hints[own.name])] for own in added])


def _by_recipe(values: Mapping[str, str]) -> str:
    """Values with the recipes that have them; one that all have stands alone."""
    different = dict.fromkeys(values.values())
    if len(different) == 1:
        return next(iter(different))
    return ", ".join(f"{value} ({', '.join(name for name, its in values.items() if its == value)})" for value in different)


def _added(name: str) -> dict[tuple[str, ...], list[Field]]:
    """Entries that files of networks add to a section, by the networks that have them."""
    common, known = {own.name for own in fields(SECTIONS[name])}, {}
    for network in network_names(name):
        kind = section_kind(name, network)
        for own in fields(kind):
            if own.name not in common:
                key = own.name, get_type_hints(kind)[own.name], own.metadata["about"]
                known.setdefault(key, []).append((network, own))
    found: dict[tuple[str, ...], list[Field]] = {}
    for having in known.values():
        found.setdefault(tuple(network for network, _ in having), []).append(having[0][1])
    return found


def _told(own: Field, hint: Any) -> str:
    """What an entry means, and what its values may be."""
    allowed = _allowed(own, hint)
    return own.metadata["about"] + (f"; {allowed}" if allowed else "")


def _allowed(own: Field, hint: Any) -> str:
    """What a row says of an entry's values, where these do not say it themselves."""
    choices, least, below = (own.metadata[name] for name in ("choices", "least", "below"))
    if own.name == "network" or (choices and all(choice in own.metadata["about"] for choice in choices)):
        return ""
    if choices:
        return ("any of " if hint is not str else "") + ", ".join(choices)
    kind = {int: ["whole"], float: []}.get(get_args(hint)[0] if get_args(hint) else hint, [])
    usual = least is None or (least == LEAST and math.isinf(below))
    return ", ".join([*kind, *([] if usual else [in_range(least, below)])])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "none"
    return (value or "empty") if isinstance(value, str) else f"{value:g}"


if __name__ == "__main__":
    sys.stdout.write(recipes_page())
