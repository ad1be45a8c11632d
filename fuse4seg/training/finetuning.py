"""Fine-tuning: a new model begins with what fits of a trained one, by name and shape, each modality and class by its own name."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor

from fuse4seg.datasets.dataset_json import channel_names
from fuse4seg.datasets.modalities import places_of
from fuse4seg.model_errors import CheckpointError
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.networks.stem import spread_over
from fuse4seg.recipes.recipe import Recipe
from fuse4seg.steps.adversary import OnePerModality
from fuse4seg.steps.levels import Levels, build_levels
from fuse4seg.training.origin import DISCRIMINATORS, FOLLOWER, HEAD, LEADER, Labels, Origin, find_origin, read_origin
from fuse4seg.training.recipe import described_for
from fuse4seg.training.weight_roles import Roles, own_weights, roles_of

if TYPE_CHECKING:
    from fuse4seg.training.run import Training
    from fuse4seg.training.trainer import Fuse4SegTrainer

log = logging.getLogger(__name__)

#: Parts of a model, by the beginnings of the names of their weights, the first that fits. What is asked of an origin is to fit
#: something of each of ITS_OWN and FOLLOWING, as far as it has them.
ITS_OWN = {"leader's encoder": f"{LEADER}encoder.", "leader's fusion": LEADER}
FOLLOWING = {"follower's encoder": f"{FOLLOWER}encoder.", "follower's decoder": FOLLOWER}
PARTS = {**ITS_OWN, **FOLLOWING, "auxiliary head": HEAD, "discriminators": DISCRIMINATORS}
#: Lists in nnU-Net's decoders that begin at the coarsest stage: those of U-Nets of other depths meet at the finest.
COARSEST_FIRST = tuple(f"{FOLLOWER}decoder.{entries}." for entries in ("stages", "transpconvs", "seg_layers"))
#: With a list of discriminators, one for each modality.
EACH = f"{DISCRIMINATORS}each."


class Taken(NamedTuple):
    """What a weight gets of an origin.

    Attributes:
        value: In the weight's shape, but for its length along ``axis``.
        axis: Of the entries that are taken; None where all are.
        entries: Where the entries of ``value`` go in the weight.
    """

    value: Tensor
    axis: int | None = None
    entries: Sequence[int] = ()

    def give_to(self, weight: Tensor) -> None:
        """Copy it there."""
        value = self.value.to(device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            if self.axis is None:
                weight.copy_(value)
            else:
                weight.index_copy_(self.axis, torch.tensor(self.entries, device=weight.device), value)


@dataclass(frozen=True)
class Beginner:
    """The model that is to be trained.

    Attributes:
        levels: Its networks.
        configuration: Name of its configuration, for messages.
        modalities: Names of its channels, in order.
        labels: What it segments.
        extra: Input channels of its follower behind the image.
        roles: Of its weights.
    """

    levels: Levels
    configuration: str
    modalities: tuple[str, ...]
    labels: Labels
    extra: int
    roles: Roles

    @classmethod
    def of(cls, levels: Levels, *, plans: PlansManager, configuration: str, dataset_json: dict[str, Any]) -> Beginner:
        """A model as its plans and dataset describe it."""
        planned: ConfigurationManager = plans.get_configuration(configuration)
        modalities = tuple(channel_names(dataset_json))
        extra = determine_num_input_channels(plans, planned, dataset_json) - len(modalities)
        roles = roles_of(levels.network, planned.network_arch_init_kwargs, inputs=levels.network.fusion.read_channels + extra,
                         classes=plans.get_label_manager(dataset_json).num_segmentation_heads)
        return cls(levels, configuration, modalities, Labels.of(dataset_json), extra, roles)

    def weights(self) -> dict[str, Tensor]:
        """All of its weights, each once, under the names of :mod:`~fuse4seg.training.origin`."""
        levels = self.levels
        parts = {LEADER: levels.network.fusion, FOLLOWER: levels.network.segmentation, HEAD: levels.auxiliary_head,
                 DISCRIMINATORS: levels.adversary}
        return {prefix + name: weight for prefix, part in parts.items() if part is not None
                for name, weight in own_weights(part).items()}


@dataclass(frozen=True)
class Transfer:
    """What a model takes over of an origin.

    Attributes:
        origin: Where from.
        beginner: Where to.
        taken: By the weight's name.
    """

    origin: Origin
    beginner: Beginner
    taken: Mapping[str, Taken]

    def carry_out(self) -> None:
        """Copy what is taken into the model's weights; the rest stays as it was drawn."""
        for name, weight in self.beginner.weights().items():
            if name in self.taken:
                self.taken[name].give_to(weight)

    def account(self) -> Iterator[str]:
        """What is taken over and what starts anew, a line for each part."""
        yield f"taken over from {self.origin.record['model']} (the rest starts anew):"
        heads = [name for name in self.beginner.roles.classes if name.startswith(FOLLOWER)]
        counted = _by_part([name for name in self.beginner.weights() if name not in self.beginner.roles.modalities])
        for part, names in counted.items():
            yield self._count(part, [name for name in names if name not in heads])
        yield from self._left()
        yield from self._stems()
        places = places_of(self.beginner.modalities, self.origin.modalities)
        if self.origin.is_ours and (self.beginner.roles.modalities or isinstance(self.beginner.levels.adversary, OnePerModality)):
            yield f"  modalities: {_of_both(self.beginner.modalities, [place is not None for place in places])}"
        yield self._count("segmentation heads", heads) + self._classes(heads)

    def _left(self) -> Iterator[str]:
        """Of the origin's leader, what the new one lacks: without it, what is taken over answers otherwise."""
        weights = self.beginner.weights()
        left = [name for name in self.origin.weights if name.startswith(LEADER) and name not in weights]
        if left:
            layers = dict.fromkeys(name.removeprefix(LEADER).partition(".")[0] for name in left)
            yield f"  left out, as this leader has no such part: {len(left)} weights of its {', '.join(layers)}"

    def _stems(self) -> Iterator[str]:
        """Of first layers that read other channels than they did."""
        weights, origin, beginner = self.beginner.weights(), self.origin, self.beginner
        for name in filter(self.taken.__contains__, beginner.roles.inputs):
            before, now = origin.weights[name].shape[1] - origin.extra, weights[name].shape[1] - beginner.extra
            if before != now or not origin.is_ours:
                yield f"  first layer: from {before} to {now} channels"

    def _count(self, part: str, names: Sequence[str]) -> str:
        return f"  {part}: {sum(name in self.taken for name in names)} of {len(names)} weights"

    def _classes(self, heads: Sequence[str]) -> str:
        """Which of the classes, where they are not all the same."""
        if self.beginner.labels.all == self.origin.labels.all or not any(name in self.taken for name in heads):
            return ""
        rows = self.beginner.labels.rows
        return f", classes {_of_both(list(rows), [name in self.origin.labels.rows for name in rows])}"


def transfer(origin: Origin, beginner: Beginner) -> Transfer:
    """Match a trained model's weights with those of a new one, which may be without memory.

    - A weight is taken if name and shape are the same, and a layer only as a whole.
    - What has an entry for each modality is matched by their names, heads by those of the classes: whole where all labels are the
      same, else entry by entry; of regions not at all.
    - A stem that reads other channels is :func:`~fuse4seg.networks.stem.spread_over` these. Of stock nnU-Net it always is, as it
      read modalities.
    - U-Nets of other depths share their finest stages.

    Raises:
        CheckpointError: The origin is of other dimensions, has weights that are not finite, or fits nothing of a part.
    """
    axes = beginner.levels.network.fusion.axes
    if origin.axes != axes:
        raise CheckpointError(origin.path, f"holds weights of another dimension: for images of {origin.axes} axes, and "
                                           f"{beginner.configuration} has {axes}. Give a model of {axes}D configurations.")
    weights = beginner.weights()
    known = {name: weight for name, weight in _renamed(origin, beginner, weights).items() if _matters(name, origin, beginner)}
    fitting = {name: fit for name, weight in weights.items()
               if name in known and (fit := _fit(name, weight, known[name], origin, beginner)) is not None}
    lacking = {_layer(name) for name in weights.keys() - fitting.keys()}
    taken = {name: fit for name, fit in fitting.items() if _layer(name) not in lacking}
    if not all(bool(torch.isfinite(fit.value).all()) for fit in taken.values()):
        raise CheckpointError(origin.path, "holds weights that are NaN or infinite. Give another one.")
    _require_something_of_each_part(taken, weights, origin, beginner)
    return Transfer(origin, beginner, taken)


def read_transferable(model: Path, network: FuseThenSegment, recipe: Recipe, training: Training, *, plans: dict[str, Any],
                      dataset_json: dict[str, Any]) -> Origin:
    """Read the model that a training is to begin with, and make sure that it can, before there is a trainer.

    Args:
        model: Its checkpoint or folder.
        network: That is to be trained; may be without memory.
        recipe: Of the training.
        training: Which one.
        plans: Of the training.
        dataset_json: Of the dataset.

    Raises:
        OptionError: There is no such model, or which of its folds is meant is not clear.
        CheckpointError: As :func:`~fuse4seg.training.origin.read_origin` and :func:`transfer`.
    """
    origin = read_origin(find_origin(model, fold=training.fold))
    manager, described = PlansManager(dict(plans)), described_for(recipe, dataset_json)
    levels = build_levels(network, classes=manager.get_label_manager(described).num_segmentation_heads, recipe=recipe)
    transfer(origin, Beginner.of(levels, plans=manager, configuration=training.configuration, dataset_json=described))
    if origin.dataset == manager.dataset_name and str(training.fold) not in (str(origin.fold), "all"):
        log.warning("%s is of fold %s of the same dataset: it has trained on cases that fold %s validates, whose Dice will be "
                    "too good.", model, origin.fold, training.fold)
    return origin


def take_over(trainer: Fuse4SegTrainer) -> None:
    """Let a trainer whose networks are drawn begin with what fits of its origin, if it has one, and say so."""
    if trainer.origin is None:
        return
    taken = transfer(trainer.origin, Beginner.of(trainer.levels, plans=trainer.plans_manager,
                                                 configuration=trainer.configuration_name, dataset_json=trainer.dataset_json))
    taken.carry_out()
    for line in taken.account():
        trainer.say(line)
    trainer.fine_tuned_from, trainer.origin = trainer.origin.record, None


def _matters(name: str, origin: Origin, beginner: Beginner) -> bool:
    """Whether a weight was trained, and will be: without labels there is no segmentation."""
    return not name.startswith((FOLLOWER, HEAD)) or (origin.segments and beginner.levels.recipe.segments)


def _renamed(origin: Origin, beginner: Beginner, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An origin's weights by the names that they have in the new model."""
    moved: dict[str, dict[int, int]] = {}
    for entries in COARSEST_FIRST:
        before, now = (_length(entries, names) for names in (origin.weights, weights))
        moved[entries] = {place: place + now - before for place in range(before)}
    if isinstance(beginner.levels.adversary, OnePerModality):
        places = places_of(beginner.modalities, origin.modalities)
        moved[EACH] = {place: number for number, place in enumerate(places) if place is not None}
    renamed = {}
    for name, weight in origin.weights.items():
        entries = next((entries for entries in moved if name.startswith(entries)), None)
        if entries is None:
            renamed[name] = weight
            continue
        number, dot, rest = name.removeprefix(entries).partition(".")
        if number.isdecimal() and int(number) in moved[entries]:
            renamed[f"{entries}{moved[entries][int(number)]}{dot}{rest}"] = weight
    return renamed


def _length(entries: str, names: Mapping[str, Tensor]) -> int:
    """Of a list of modules, by the names of weights."""
    matched = (re.match(re.escape(entries) + r"(\d+)\.", name, re.ASCII) for name in names)
    return max((int(found[1]) + 1 for found in matched if found), default=0)


def _fit(name: str, weight: Tensor, old: Tensor, origin: Origin, beginner: Beginner) -> Taken | None:
    """What of an old weight a new one gets; None where it does not fit."""
    roles = beginner.roles
    if name in roles.modalities:
        places = places_of(beginner.modalities, origin.modalities)
        return _entries_of(weight, old, roles.modalities[name], places, of=len(origin.modalities))
    if name in roles.inputs:
        return _stem_of(weight, old, roles.inputs[name], origin, beginner)
    if name in roles.classes and beginner.labels.all != origin.labels.all:
        places = [origin.labels.rows.get(label) for label, _ in sorted(beginner.labels.rows.items(), key=lambda row: row[1])]
        return _entries_of(weight, old, roles.classes[name], places, of=len(origin.labels.rows))
    return Taken(old) if old.shape == weight.shape else None


def _entries_of(weight: Tensor, old: Tensor, axis: int | None, places: Sequence[int | None], *, of: int) -> Taken | None:
    """Entries along an axis: of each new one its place in the old weight, which has ``of`` of them."""
    pairs = [(new, place) for new, place in enumerate(places) if place is not None and 0 <= place < of]
    if axis is None or not pairs or old.ndim != weight.ndim or old.shape[axis] != of or weight.shape[axis] != len(places):
        return None
    if any(old.shape[other] != weight.shape[other] for other in range(weight.ndim) if other != axis):
        return None
    return Taken(old.index_select(axis, torch.tensor([place for _, place in pairs])), axis, [new for new, _ in pairs])


def _stem_of(weight: Tensor, old: Tensor, axis: int | None, origin: Origin, beginner: Beginner) -> Taken | None:
    """A first layer: its image's channels as they are or spread, then those of a cascade's labels, if they are the same."""
    if old.ndim != weight.ndim or axis != 1 or old.shape[0] != weight.shape[0] or old.shape[2:] != weight.shape[2:]:
        return None
    channels, before = weight.shape[1] - beginner.extra, old.shape[1] - origin.extra
    if before < 1:
        return None
    image = old[:, :before]
    if not origin.is_ours or channels != before:
        image = spread_over(image, channels)
    if origin.extra == beginner.extra and origin.labels.all == beginner.labels.all:
        return Taken(torch.cat([image, old[:, before:]], dim=1))
    return Taken(image, 1, range(channels))


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _by_part(names: Sequence[str]) -> dict[str, list[str]]:
    """Names by the parts that they belong to; parts without any are left out."""
    found: dict[str, list[str]] = {part: [] for part in PARTS}
    for name in names:
        found[next(part for part, prefix in PARTS.items() if name.startswith(prefix))].append(name)
    return {part: some for part, some in found.items() if some}


def _require_something_of_each_part(taken: Mapping[str, Taken], weights: Mapping[str, Tensor], origin: Origin,
                                    beginner: Beginner) -> None:
    """Make sure that the two are of one architecture; what goes by names alone, as heads do, shows nothing of that.

    Raises:
        CheckpointError: A part has nothing in common.
    """
    required = [*(ITS_OWN if origin.is_ours else ()), *(FOLLOWING if _matters(FOLLOWER, origin, beginner) else ())]
    if not required:
        raise CheckpointError(origin.path, "has a segmentation network alone, and this recipe segments nothing. Give a model of "
                                           "Fuse4Seg.")
    plain = [name for name in weights if not any(name in role for role in beginner.roles)]
    for part, names in _by_part(plain).items():
        if part in required and not any(name in taken for name in names):
            raise CheckpointError(origin.path, f"fits nothing of the {part}: it is another network, or has other features. Plan "
                                               f"with the same, or give another model.")


def _of_both(names: Sequence[str], known: Sequence[bool]) -> str:
    """Those that are known, and those that are not, in words."""
    groups = [[name for name, is_known in zip(names, known, strict=True) if is_known == wanted] for wanted in (True, False)]
    return "; anew: ".join(", ".join(group) or "none" for group in groups if group or group is groups[0])
