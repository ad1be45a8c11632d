"""The rows of a comparison: each one way to segment the same cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fuse4seg.errors import OptionError
from fuse4seg.plans import BRIGHTER

#: Rules of f4s_fuse that stand for fusion without learning.
FIXED = ("max", "mean", "wavelet", "colour")
#: The method itself, and the row that the others are tested against.
METHOD, PEER = "fuse4seg", "stacked"
#: The paper's fused image of one channel, as the planner's ``--fused_image grey`` has it.
GREY = "grey"
IN_GREY: Mapping[str, Any] = MappingProxyType({"fusion": {"colours": 1, "brighter": BRIGHTER[1]}})


@dataclass(frozen=True)
class Row:
    """One way to segment.

    Attributes:
        name: Of its folder and in tables.
        ours: Whether Fuse4Seg trains, or stock nnU-Net.
        source: What stock nnU-Net's one channel is: ("modality", index), ("rule", name) or ("folder", path); None: all stacked.
        flags: Of f4s_train beside the budget; none of stock nnU-Net.
        network: Arguments of FuseThenSegment that differ from the plans; those of ``fusion`` are merged.
    """

    name: str
    ours: bool = False
    source: tuple[str, int | str] | None = None
    flags: tuple[str, ...] = ()
    network: Mapping[str, Any] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """For a JSON file."""
        return {"name": self.name, "ours": self.ours, "source": None if self.source is None else list(self.source),
                "flags": list(self.flags), "network": dict(self.network)}


#: The paper's Table 3, and what is ours, left out one at a time; pre-training and the cross-attention, out by default, put in.
ABLATIONS: Mapping[str, Row] = MappingProxyType({row.name: row for row in (
    Row("pretraining", ours=True, flags=("--pretrain_epochs", "2")),
    Row("no_adversarial_pretraining", ours=True, flags=("--pretrain_epochs", "2", "--pretraining_losses", "decomposition")),
    Row("paper_losses", ours=True, flags=("--fusion_losses", "intensity", "texture", "decomposition", "adversarial")),
    Row("cross_attention", ours=True, network={"fusion": {"cross_attention": True}}),
    Row("no_viewing", ours=True, flags=("--viewing", "none")),
    Row("balance_alone", ours=True, flags=("--fusion_losses", "balance")),
    Row("no_auxiliary_head", ours=True, flags=("--auxiliary_head", "0")),
)})
#: What teaches the leader, by the ends of the rows' names.
TEACHERS = {"frozen": ("--leader_learning_rate", "0"), "fusion_losses_alone": ("--hypergradient", "none"),
            "joint": ("--hypergradient", "joint")}
#: Whether learning to fuse helps, in colour and in grey.
LEARNING: Mapping[str, Row] = MappingProxyType({row.name: row for row in (
    *(Row(teacher, ours=True, flags=flags) for teacher, flags in TEACHERS.items()),
    Row(GREY, ours=True, network=IN_GREY),
    *(Row(f"{GREY}_{teacher}", ours=True, flags=flags, network=IN_GREY) for teacher, flags in TEACHERS.items()))})
OWN: Mapping[str, Row] = MappingProxyType({METHOD: Row(METHOD, ours=True), **LEARNING, **ABLATIONS})
#: Names that stand for several rows.
GROUPS = ("singles", "fixed", "learning", "ablations")
USUAL = (PEER, "singles", "fixed", METHOD)


def choose_rows(names: Sequence[str], *, modalities: Sequence[str], images: Mapping[str, Path] | None = None,
                variants: Mapping[str, str] | None = None) -> list[Row]:
    """The rows of these names, in this order, and those of ``images`` and ``variants``.

    Args:
        names: PEER, names of modalities, of FIXED, of OWN, or GROUPS.
        modalities: Names of the dataset's channels.
        images: Folders of images that others fused, each with the name of its row.
        variants: Further flags of f4s_train, each with the name of its row of Fuse4Seg.

    Raises:
        OptionError: A name is unknown or there twice.
    """
    known = {PEER: Row(PEER), **{name: Row(name, source=("modality", index)) for index, name in enumerate(modalities)},
             **{rule: Row(rule, source=("rule", rule)) for rule in FIXED}, **OWN}
    groups = {"singles": tuple(modalities), "fixed": FIXED, "learning": tuple(LEARNING), "ablations": tuple(ABLATIONS)}
    chosen = [row for name in names for row in groups.get(name, (name,))]
    for name in chosen:
        if name not in known:
            raise OptionError("--rows", f"unknown row {name}. Choose from: {', '.join([*known, *groups])}.")
    rows = [known[name] for name in chosen]
    rows += [Row(name, source=("folder", str(folder.absolute()))) for name, folder in (images or {}).items()]
    rows += [Row(name, ours=True, flags=tuple(flags.split())) for name, flags in (variants or {}).items()]
    _require_different(row.name for row in rows)
    return rows


def _require_different(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise OptionError("--rows", f"{name} is there twice. Give each row a name of its own.")
        if not name or set(name) & set("/\\") or name.startswith("."):
            raise OptionError("--rows", f"{name!r} cannot be the name of a folder. Give another.")
        seen.add(name)
