"""The rows of a comparison: each one way to segment the same cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fuse4seg.errors import OptionError
from fuse4seg.recipes.kinds import network_module
from fuse4seg.recipes.reading import read_recipe, recipe_names
from fuse4seg.recipes.recipe import WITH_LABELS, WITHOUT_LABELS, Losses

#: Rules of f4s_fuse that stand for fusion without learning.
FIXED = ("max", "mean", "wavelet", "colour")
#: The method itself, and the row that the others are tested against.
METHOD, PEER = "fuse4seg", "stacked"
#: With a fused image of one channel.
GREY = "grey"
IN_GREY = ("leader.fused_image=grey", "leader.brighter=1")
#: The paper's own system, a recipe.
PAPER = "paper"
#: Behind a rival's name: it is the leader, or the follower, of our bi-level training.
IN_OURS = "+fuse4seg"
#: Sources: a leader that was trained alone, by a recipe; the image that another row of ours exports.
LEADER, IMAGE = "leader", "image"
#: Behind the name of a row: the training of its leader alone.
ALONE = ".alone"
#: Behind the name of a row of ours: stock nnU-Net segments its image.
ITS_IMAGE = "_image"


@dataclass(frozen=True)
class Row:
    """One way to segment.

    Attributes:
        name: Of its folder and in tables.
        ours: Whether Fuse4Seg trains, or stock nnU-Net.
        source: What the one channel is: ("modality", index), ("rule", name), ("folder", path); or what is trained before:
            (LEADER, recipe) alone, or (IMAGE, row of OWN); None: all stacked. Of ours a folder alone.
        changes: Entries of the recipe that differ, as ``--set`` takes them; none of stock nnU-Net.
        recipe: Trained by this one; of stock nnU-Net the follower alone is taken from it. None: the plans'.
        leader: Recipe from which leader, stage 1 and fusion losses are taken; None: those of the plans.
    """

    name: str
    ours: bool = False
    source: tuple[str, int | str] | None = None
    changes: tuple[str, ...] = ()
    recipe: str | None = None
    leader: str | None = None

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Row:
        """Undo :meth:`to_plain`, whatever else is there."""
        source = None if plain["source"] is None else tuple(plain["source"])
        return cls(plain["name"], plain["ours"], source, tuple(plain["changes"]), plain["recipe"], plain["leader"])

    def to_plain(self) -> dict[str, Any]:
        """For a JSON file."""
        return {"name": self.name, "ours": self.ours, "source": None if self.source is None else list(self.source),
                "changes": list(self.changes), "recipe": self.recipe, "leader": self.leader}


def _losses(**weights: float) -> tuple[str, ...]:
    """Changes that leave these weights alone, whatever the plans' recipe has."""
    return tuple(f"losses.{part.name}={weights.get(part.name, 0):g}" for part in fields(Losses))


STAGE_1 = "pretraining.epochs=2"
#: Parts of our method left out one at a time; pre-training and cross-attention, out by default, put in.
ABLATIONS: Mapping[str, Row] = MappingProxyType({name: Row(name, ours=True, changes=changes) for name, changes in {
    "pretraining": (STAGE_1,),
    "no_adversarial_pretraining": (STAGE_1, "pretraining.adversarial=0"),
    "cross_attention": ("leader.cross_attention=true",),
    "no_viewing": ("bilevel.viewing=",),
    "balance_alone": _losses(balance=6),
    "no_auxiliary_head": ("bilevel.auxiliary_weight=0",),
    "dropout": ("training.modality_dropout=0.25",),
}.items()})
#: What teaches the leader, by the ends of the rows' names.
TEACHERS = {"frozen": ("leader.rate=0", "pretraining.epochs=0"), "fusion_losses_alone": ("bilevel.hypergradient=none",),
            "joint": ("bilevel.hypergradient=joint",)}
#: Whether learning to fuse helps, in colour and in grey.
LEARNING: Mapping[str, Row] = MappingProxyType({row.name: row for row in (
    *(Row(teacher, ours=True, changes=changes) for teacher, changes in TEACHERS.items()),
    Row(GREY, ours=True, changes=IN_GREY),
    *(Row(f"{GREY}_{teacher}", ours=True, changes=(*IN_GREY, *changes)) for teacher, changes in TEACHERS.items()))})
OWN: Mapping[str, Row] = MappingProxyType({METHOD: Row(METHOD, ours=True), **LEARNING, **ABLATIONS})
#: What another network gets from the image that a person sees.
IMAGES: Mapping[str, Row] = MappingProxyType({f"{name}{ITS_IMAGE}": Row(f"{name}{ITS_IMAGE}", source=(IMAGE, name))
                                              for name in OWN})
NO_RECONSTRUCTION = f"{PAPER}_no_reconstruction"
#: The paper's Table 3: its own system, one part left out at a time.
TABLE_3: Mapping[str, Row] = MappingProxyType({name: Row(name, ours=True, recipe=PAPER, changes=changes) for name, changes in {
    PAPER: (),
    f"{PAPER}_no_adversarial_pretraining": ("pretraining.adversarial=0",),
    f"{PAPER}_no_adversarial_training": ("losses.adversarial=0",),
    f"{PAPER}_no_cross_attention": ("leader.cross_attention=false",),
}.items()} | {NO_RECONSTRUCTION: Row(NO_RECONSTRUCTION, ours=True, recipe=NO_RECONSTRUCTION)})
#: The paper's pre-trained encoder in front of nnU-Net, by its recipe, and what stands behind the name of the images it reads.
PRETRAINED_ENCODER, PRETRAINED = "pretrained_encoder", "_pretrained"
#: Names that stand for several rows.
OF_OUR_OWN = ("singles", "fixed", "learning", "ablations", "table3")
GROUPS = (*OF_OUR_OWN[:-1], "leaders", "followers", "table1", "table2", OF_OUR_OWN[-1])
USUAL = (PEER, "singles", "fixed", METHOD)
#: Without labels.
USUAL_ALONE = ("fixed", METHOD)


def choose_rows(names: Sequence[str], *, modalities: Sequence[str], images: Mapping[str, Path] | None = None,
                variants: Mapping[str, str] | None = None, labelled: bool = True) -> list[Row]:
    """The rows of these names, in this order, and those of ``images`` and ``variants``.

    Args:
        names: PEER, names of modalities, of FIXED, of OWN, of ``images``, also as NAME_pretrained, or GROUPS.
        modalities: Names of the dataset's channels.
        images: Folders of images that others fused, each with the name of its row; table3 has both rows of each.
        variants: Entries of the recipe that differ, as SECTION.ENTRY=VALUE words, each with the name of its row of Fuse4Seg.
        labelled: Whether there is anything to segment. If not, a leader's row is its training alone, and table2 is without the
            paper's own system, which needs labels.

    Raises:
        OptionError: A name is unknown or there twice, or its row needs labels that the dataset lacks.
    """
    own = {PEER: Row(PEER), **{name: Row(name, source=("modality", index)) for index, name in enumerate(modalities)},
           **{rule: Row(rule, source=("rule", rule)) for rule in FIXED}, **TABLE_3, **OWN, **IMAGES}
    given = {name: Row(name, source=("folder", str(folder.absolute()))) for name, folder in (images or {}).items()}
    behind = {f"{name}{PRETRAINED}": replace(row, name=f"{name}{PRETRAINED}", ours=True, recipe=PRETRAINED_ENCODER)
              for name, row in given.items()}
    with_images = [name for pair in zip(given, behind, strict=True) for name in pair]
    own = {**given, **behind, **own}
    # Reading the rivals' recipes imports their networks, which takes seconds.
    rivals = {} if labelled and set(names) <= {*own, *OF_OUR_OWN} else rival_rows()
    known = {**own, **rivals}
    leaders, followers = (tuple(name for name, row in rivals.items() if not row.ours and (row.recipe is None) == fuses)
                          for fuses in (True, False))
    groups = {"singles": tuple(modalities), "fixed": FIXED, "learning": tuple(LEARNING), "ablations": tuple(ABLATIONS),
              "leaders": leaders, "followers": followers, "table1": (PEER, *followers, *leaders, PAPER, METHOD),
              "table2": (*leaders, PAPER, METHOD), "table3": (*TABLE_3, *with_images)}
    alone = {} if labelled else {**given, **_rows_without_labels(leaders)}
    if not labelled:
        groups["table2"] = (*leaders, METHOD)
    chosen = [row for name in names for row in groups.get(name, (name,))]
    for name in chosen:
        if name not in known:
            raise OptionError("--rows", f"unknown row {name}. Choose from: {', '.join([*known, *groups])}.")
    if not labelled and (segmented := [name for name in chosen if name not in alone]):
        raise OptionError("--rows", f"the dataset has no labels, which {', '.join(segmented)} need. Choose from: "
                                    f"{', '.join(alone)}.")
    known |= alone
    rows = [known[name] for name in chosen]
    rows += [row for row in given.values() if row not in rows]
    rows += [Row(name, ours=True, changes=tuple(changes.split())) for name, changes in (variants or {}).items()]
    _require_different(row.name for row in rows)
    return rows


def _rows_without_labels(leaders: Iterable[str]) -> dict[str, Row]:
    """What fuses and segments nothing: rules, leaders trained alone, and the plans' recipe."""
    return {**{rule: Row(rule, source=("rule", rule)) for rule in FIXED},
            **{name: Row(name, ours=True, recipe=name) for name in leaders}, METHOD: Row(METHOD, ours=True)}


def fuses_first(row: Row) -> bool:
    """Whether what fuses its image must be trained before."""
    return row.source is not None and row.source[0] in (LEADER, IMAGE)


def what_fuses(row: Row) -> Row:
    """What is trained first, of a row that :func:`fuses_first`: another row of ours, or its leader alone."""
    kind, name = row.source
    return OWN[str(name)] if kind == IMAGE else Row(f"{row.name}{ALONE}", ours=True, recipe=str(name))


def rival_rows() -> dict[str, Row]:
    """A row for each recipe but our own.

    What fuses alone is a leader, and stock nnU-Net segments what it fuses; a follower of fixed stages gets the stacked channels;
    both also stand in our bi-level training. Anything else is a method of its own.
    """
    rows = []
    for name in recipe_names():
        recipe = read_recipe(name)
        if name in (WITH_LABELS, WITHOUT_LABELS, PRETRAINED_ENCODER, *OWN):
            continue
        if not recipe.segments:
            rows += [Row(name, source=(LEADER, name)), Row(f"{name}{IN_OURS}", ours=True, leader=name)]
        elif network_module("follower", recipe.follower.network).FOLLOWER.fixed:
            rows += [Row(name, recipe=name), Row(f"{name}{IN_OURS}", ours=True, recipe=name)]
        else:
            rows.append(Row(name, ours=True, recipe=name))
    return {row.name: row for row in rows}


def _require_different(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise OptionError("--rows", f"{name} is there twice. Give each row a name of its own.")
        if not name or set(name) & set("/\\") or name.startswith("."):
            raise OptionError("--rows", f"{name!r} cannot be the name of a folder. Give another.")
        seen.add(name)
