"""The reference page on recipes, made from what recipes are made of: ``python -m fuse4seg.recipes.reference``."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import Field, fields
from typing import Any, get_type_hints

import tomllib

from fuse4seg.recipes.kinds import FOLDERS, network_module, network_names
from fuse4seg.recipes.reading import FOLDER, LIKE, LONGEST_NAME, read_recipe, recipe_names, section_kind
from fuse4seg.recipes.recipe import (
    SECTIONS,
    WITH_LABELS,
    WITHOUT_LABELS,
    Losses,
    Recipe,
    Section,
    described,
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
    "leader": "Fusion networks of other papers, for two modalities, without labels: as {like} but for the leader of its "
              "name and these entries:",
    "follower": "Segmentation networks of other papers: as {like} but for the follower of its name and these entries:"}
WIDTH = 120
#: More losses left out than these are not named one by one.
FEW = 2
#: More recipes than these, that agree, share a column.
MANY = 3
HEAD = """\
# Recipes

A recipe is a whole method in one TOML file: both networks, the losses, and how they are trained. These come along.

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

Another network has entries of its own, which the tables below list. Give them with it:
`follower.network=cnn_transformer follower.blocks=4`.

## Write your own

    # sharp.toml, for --recipe sharp.toml
    about = "As fuse4seg, with sharper edges."
    like = "fuse4seg"

    [losses]
    edges = 4.0

Its plans are `Fuse4SegPlans-sharp`. `like` names a recipe that comes along; give only what differs. With another
`network`, entries that this lacks are left out; give those that it adds. Without `like`, every entry must be there;
without the section `bilevel`, nothing is segmented. What is misspelt or out of range is refused, with what would do.
In Python: `fuse4seg.recipes.reading.read_recipe`.

Planning decides the entries in **`bold`**; to change these, plan anew.
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
    """All recipes, each with what it is like: lists of ours and of the paper's, tables of other leaders and followers."""
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
    """A table of recipes whose leader or follower is another: entries in which one of them differs from its like."""
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
    header = ["recipe", "what", *(f"`{column}`" for column in columns)]
    yield from (f"| {' | '.join(header)} |", "|---" * len(header) + "|")
    for recipe, _ in recipes:
        values = (_shown(getattr(getattr(recipe, name), own)) if own else _weights(getattr(recipe, name))
                  for name, own in columns.values())
        yield f"| `{recipe.name}` | {recipe.about} | {' | '.join(values)} |"


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
    """A section, with a column for each of the recipes; what networks add has one for others, too, whose like lacks it."""
    kind = SECTIONS[name]
    yield from (f"## {name}", "", inspect.getdoc(kind).splitlines()[0], "")
    yield from _table(fields(kind), get_type_hints(kind), {recipe.name: getattr(recipe, name) for recipe in recipes})
    if name not in FOLDERS:
        return
    yield ""
    for network in network_names(name):
        yield from textwrap.wrap(f"- `{network}`: {inspect.getdoc(network_module(name, network)).splitlines()[0]}", WIDTH,
                                 subsequent_indent="  ", break_on_hyphens=False)
    for networks, added in _added(name).items():
        hints = get_type_hints(section_kind(name, networks[0]))
        words = f"{', '.join(f'`{network}`' for network in networks)} {'add' if len(networks) > 1 else 'adds'}:"
        yield from ("", *textwrap.wrap(words, WIDTH), "")
        columns = [*recipes, *(other for other, like in others if getattr(like, name).network not in networks)]
        yield from _table(added, hints, _columns(name, networks, added, columns))


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


def _columns(name: str, networks: Sequence[str], entries: Sequence[Field], recipes: list[Recipe]) -> dict[str, Section]:
    """Sections with one of these networks, by their recipes; one for all where many agree."""
    using = {recipe.name: getattr(recipe, name) for recipe in recipes if getattr(recipe, name).network in networks}
    different = {tuple(getattr(section, own.name) for own in entries) for section in using.values()}
    if len(using) > MANY and len(different) == 1:
        return {"their recipes": next(iter(using.values()))}
    return using


def _table(entries: Sequence[Field], hints: dict[str, Any], sections: dict[str, Section | None]) -> Iterator[str]:
    """Rows of entries, with a column for the section of each recipe, by its name."""
    # A list below the table says what each network is.
    allowed = {own.name: "one of those below" if own.name == "network" else _allowed(own, hints[own.name])
               for own in entries}
    alike = len(set(allowed.values())) == 1 and len(allowed) > 1
    if alike:
        yield from (f"Each is a {next(iter(allowed.values()))}.", "")
    header = ["entry", *["value"] * (not alike), "meaning", *sections]
    yield from (f"| {' | '.join(header)} |", "|---" * len(header) + "|")
    for own in entries:
        values = (_shown(getattr(section, own.name)) if section else "-" for section in sections.values())
        entry = f"**`{own.name}`**" if own.metadata["planned"] else f"`{own.name}`"
        yield f"| {' | '.join((entry, *[allowed[own.name]] * (not alike), own.metadata['about'], *values))} |"


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
