"""Recipes read: from the files beside this one or a user's own, from plans and checkpoints, and with entries changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import tomllib

from fuse4seg.errors import RecipeError, first_line
from fuse4seg.recipes.kinds import FOLDERS, network_module, network_names
from fuse4seg.recipes.recipe import SECTIONS, VERSION, Recipe, Section, described

FOLDER = Path(__file__).parent
SET = "--set"
#: A recipe may be the same as another but for the entries that it gives.
LIKE = "like"
#: Longest name of a plans file or a folder that says what was changed.
LONGEST_NAME = 100


def recipe_names() -> list[str]:
    """Recipes that come along."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_recipe(which: str | Path) -> Recipe:
    """A recipe that comes along, by its name, or one in a user's file.

    Raises:
        RecipeError: There is none, or an entry of it is unknown, missing, of another type, or out of range.

    Example:
        >>> read_recipe("fuse4seg").bilevel.hypergradient
        'gauss_newton'
    """
    path = Path(which)
    if path.suffix != ".toml":
        path = FOLDER / f"{which}.toml"
        if str(which) not in recipe_names():
            raise _not_found(which)
    elif path.stem in recipe_names() and path.parent.resolve() != FOLDER:
        raise RecipeError(str(path), "has the name of a recipe that comes along, as which its plans would pass. Rename it.",
                          source="--recipe")
    tables = _tables(path)
    return from_tables({**tables, "name": path.stem}, source=path.name)


def _not_found(which: str | Path) -> RecipeError:
    known = ", ".join(recipe_names())
    problem = f"there is no such recipe. Choose from: {known}; or give a file, NAME.toml."
    return RecipeError(str(which), problem, source="--recipe")


def _tables(path: Path, *, known: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Content of a file, over what it is like."""
    try:
        text = path.read_bytes()
    except (OSError, ValueError) as error:
        raise _not_found(path) from error
    try:
        own = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError("its text", f"cannot be read ({first_line(error)})", source=path.name) from error
    if LIKE not in own:
        return own
    if own[LIKE] not in recipe_names() or path in known:
        raise RecipeError(LIKE, f"there is no recipe {own[LIKE]!r}. Choose from: {', '.join(recipe_names())}.", source=path.name)
    basis = _tables(FOLDER / f"{own.pop(LIKE)}.toml", known=(*known, path))
    return {**basis, **{name: _over(name, basis[name], given) if isinstance(given, dict) and isinstance(basis.get(name), dict)
                        else given for name, given in own.items()}}


def _over(name: str, basis: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Entries of a section over those that it is like; another network leaves out what it lacks."""
    network = given.get("network", basis.get("network"))
    # Of an unknown network all are kept: it is refused with the file's name when the whole is read.
    if name in FOLDERS and network != basis.get("network") and network in network_names(name):
        known = {own.name for own in fields(section_kind(name, network))}
        basis = {entry: value for entry, value in basis.items() if entry in known}
    return {**basis, **given}


def from_tables(tables: Mapping[str, Any], *, source: str) -> Recipe:
    """A recipe from plain tables, as a file or plans hold them.

    Args:
        tables: ``name``, ``about``, and the sections by their names; without ``bilevel`` nothing is segmented.
        source: Where they are from, for messages.

    Raises:
        RecipeError: An entry is unknown, missing, of another type, or out of range.
    """
    try:
        sections = {name: _section(name, tables.get(name)) for name in SECTIONS
                    if name != "bilevel" or tables.get(name) is not None}
        if unknown := tables.keys() - SECTIONS.keys() - {"name", "about"}:
            raise RecipeError(min(unknown), f"there is no such section. Sections are: {', '.join(SECTIONS)}.")
        for word in ("name", "about"):
            if not isinstance(tables.get(word), str):
                raise RecipeError(word, "is missing, or no text.")
        return Recipe(name=tables["name"], about=tables["about"], **{"bilevel": None, **sections})
    except RecipeError as error:
        raise RecipeError(error.entry, error.problem, source=source) from error


def section_kind(name: str, network: Any = None) -> type[Section]:
    """Class of a section; that of leader and follower depends on their network.

    Raises:
        RecipeError: There is no such network.

    Example:
        >>> section_kind("leader", "gate").__mro__[-3].__name__
        'Leader'
    """
    if name not in FOLDERS:
        return SECTIONS[name]
    if network not in network_names(name):
        problem = "is missing." if network is None else f"there is no {network!r}. Choose from: {', '.join(network_names(name))}."
        raise RecipeError(f"{name}.network", problem)
    return network_module(name, network).Settings


def _section(name: str, given: Any) -> Section:
    if not isinstance(given, Mapping):
        raise RecipeError(name, "the section is missing.")
    kind = section_kind(name, given.get("network"))
    names = [own.name for own in fields(kind)]
    if unknown := sorted(given.keys() - set(names)):
        raise RecipeError(f"{name}.{unknown[0]}", f"there is no such entry. Entries of {name} are: {', '.join(names)}.")
    if missing := [own for own in names if own not in given]:
        raise RecipeError(f"{name}.{missing[0]}", "is missing.")
    # TOML and JSON have lists alone.
    return kind(**{own: tuple(value) if isinstance(value, list) else value for own, value in given.items()})


def to_plain(recipe: Recipe) -> dict[str, Any]:
    """What plans and checkpoints hold of a recipe."""
    return {"version": VERSION, **asdict(recipe)}


def from_plain(plain: Any, *, source: str) -> Recipe:
    """Undo :func:`to_plain`.

    Raises:
        RecipeError: It is of another version, or not whole.
    """
    if not isinstance(plain, Mapping) or plain.get("version") != VERSION:
        raise RecipeError("version", "is not this program's.", source=source)
    return from_tables({name: value for name, value in plain.items() if name != "version"}, source=source)


def difference_of(one: Recipe, other: Recipe) -> str | None:
    """The first entry in which two recipes differ, as SECTION.ENTRY, or the section that one of them lacks; None if in none."""
    for section in SECTIONS:
        first, second = getattr(one, section), getattr(other, section)
        if first != second:
            if first is None or second is None:
                return section
            return next(f"{section}.{own.name}" for own in fields(first)
                        if getattr(first, own.name) != getattr(second, own.name, None))
    return None


def changed(recipe: Recipe, changes: Iterable[str], *, in_training: bool = False) -> Recipe:
    """A recipe with entries changed, and a name that says so.

    Args:
        recipe: To begin with.
        changes: Words SECTION.ENTRY=VALUE; of a list VALUE,VALUE, or nothing.
        in_training: Plans are made already, so that what they decide stays.

    Raises:
        RecipeError: A word names no entry, or its value does not do.

    Example:
        >>> changed(read_recipe("fuse4seg"), ["losses.edges=4"]).losses.edges
        4.0
    """
    words = list(changes)
    try:
        values: dict[str, dict[str, str]] = {}
        for word in words:
            section, entry, text = _parsed(recipe, word)
            values.setdefault(section, {})[entry] = text
        sections = {name: _changed_section(recipe, name, given, in_training=in_training) for name, given in values.items()}
        return replace(recipe, name=name_after(recipe.name, words), **sections)
    except RecipeError as error:
        raise RecipeError(error.entry, error.problem, source=SET) from error


def _parsed(recipe: Recipe, word: str) -> tuple[str, str, str]:
    path, equals, text = word.partition("=")
    section, _, entry = path.partition(".")
    if not equals:
        raise RecipeError(word, "is no change. Write SECTION.ENTRY=VALUE, as losses.edges=2.")
    there = [name for name in SECTIONS if getattr(recipe, name) is not None]
    if section not in there:
        raise RecipeError(path, f"{recipe.name} has no such section. Its sections are: {', '.join(there)}.")
    return section, entry, text


def _changed_section(recipe: Recipe, name: str, given: Mapping[str, str], *, in_training: bool) -> Section:
    """A section with entries changed; another network brings its own entries, and keeps those that both have."""
    section = getattr(recipe, name)
    kind = section_kind(name, given.get("network", getattr(section, "network", None)))
    known = {own.name: own for own in fields(kind)}
    kept = {own: getattr(section, own) for own in known if hasattr(section, own)}
    values = {}
    for entry, text in given.items():
        path = f"{name}.{entry}".rstrip(".")
        if entry not in known:
            raise RecipeError(path, f"there is no such entry. Entries of {name} are: {', '.join(known)}.")
        if in_training and known[entry].metadata["planned"]:
            raise RecipeError(path, f"is decided in planning. Plan anew: f4s_plan_experiment {SET} {path}={text}.")
        values[entry] = _value(path, text, get_type_hints(kind)[entry])
    if missing := [own for own in known if own not in kept | values]:
        raise RecipeError(f"{name}.{missing[0]}", f"is missing: {given['network']} has entries that {recipe.name} lacks. Set it, "
                                                  f"too, or begin with a recipe of {given['network']}.")
    return kind(**{**kept, **values})


def _value(path: str, text: str, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        return tuple(_value(path, part, get_args(kind)[0]) for part in text.split(",")) if text else ()
    if kind is bool and text in ("true", "false"):
        return text == "true"
    try:
        if kind is not bool:
            return kind(text)
    except ValueError:
        pass
    raise RecipeError(path, f"{text!r} is not {described(kind)}.")


def name_after(name: str, changes: Iterable[str]) -> str:
    """A name for a file or a folder that says what was changed, whatever the order and spelling of the words.

    Of very many changes a number stands for them.

    Example:
        >>> name_after("Fuse4SegPlans", ["losses.edges=2", "bilevel.viewing="])
        'Fuse4SegPlans-bilevel.viewing=-losses.edges=2'
    """
    last = dict(_spelt(change) for change in changes)
    # nnU-Net parts names at two underlines.
    words = sorted(re.sub(r"_{2,}", "_", re.sub(r"[^\w.=+-]", "+", f"{path}{value}", flags=re.ASCII)).rstrip("_")
                   for path, value in last.items())
    whole = "-".join([name, *words])
    if len(whole) <= LONGEST_NAME:
        return whole
    return f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"


def _spelt(change: str) -> tuple[str, str]:
    """Path of an entry, and its value with the sign before it, numbers in one spelling of several: 4, 4.0."""
    path, equals, text = change.partition("=")
    return path, equals + ",".join(map(_spelt_number, text.split(",")))


def _spelt_number(text: str) -> str:
    with suppress(ValueError, OverflowError):
        return repr(float(text)).removesuffix(".0")
    return text
