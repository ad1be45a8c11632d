"""What a user can choose about a training beside its plans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fuse4seg.errors import CheckpointError, OptionError
from fuse4seg.losses.fusion import PAPER, WITHOUT_LABELS, FusionLossWeights
from fuse4seg.training.bilevel import BilevelSettings
from fuse4seg.training.hypergradients import ESTIMATORS
from fuse4seg.training.pretraining import PretrainingWeights
from fuse4seg.training.viewing import CHANGES

#: Of pre-training where it is wanted, as in the paper.
PRETRAIN_EPOCHS = 80
#: nnU-Net draws 50 validation batches for 250 training batches.
TRAINING_PER_VALIDATION = 5


@dataclass(frozen=True)
class TrainingOptions:
    """Options of one training; they go into the checkpoint.

    Attributes:
        epochs: Of cooperative training (paper: 140).
        pretrain_epochs: Of pre-training (paper: PRETRAIN_EPOCHS); 0 leaves it out, as nothing was gained by it on real cases.
        iterations: Per epoch of either stage (nnU-Net: 250).
        seed: Of weights, sampling and augmentation.
        bilevel: The bi-level step.
        pretraining: Weights of Eq. 9.
        leader_learning_rate: Adam's at the start of either stage. The paper's 1e-4 goes with 20,000 iterations of
            pre-training; short trainings need more (method.md, "Where we leave the paper"). 0: the leader stays as it starts.
        modality_dropout: Probability that a sample of cooperative training goes without a modality, in [0, 1); each is left
            out by itself, and one at least stays.

    Source: method.md, "Two stages".
    """

    epochs: int = 140
    pretrain_epochs: int = 0
    iterations: int = 250
    seed: int = 0
    bilevel: BilevelSettings = field(default_factory=BilevelSettings)
    pretraining: PretrainingWeights = field(default_factory=PretrainingWeights)
    leader_learning_rate: float = 2e-3
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("pretrain_epochs", 0), ("iterations", 1), ("seed", 0)):
            if getattr(self, name) < least:
                problem = f"must be at least {least}, got {getattr(self, name)}. Give a larger number."
                raise OptionError(f"--{name}", problem)
        for flag, number, without in (("--fusion_weight", self.bilevel.fusion_weight, "leaves it out"),
                                      ("--auxiliary_head", self.bilevel.auxiliary_weight, "leaves it out"),
                                      ("--leader_learning_rate", self.leader_learning_rate, "leaves the leader as it starts")):
            if not 0 <= number < math.inf:
                raise OptionError(flag, f"must be a number from 0 on, got {number}. 0 {without}.")
        if not 0 <= self.modality_dropout < 1:
            raise OptionError("--modality_dropout", f"must be a probability from 0 to below 1, got {self.modality_dropout}. "
                                                    "0 trains with all modalities.")
        if self.bilevel.hypergradient not in ESTIMATORS:
            raise OptionError("--hypergradient", f"unknown estimator {self.bilevel.hypergradient}. "
                                                 f"Choose one of: {', '.join(ESTIMATORS)}.")
        for change in self.bilevel.viewing:
            if change not in CHANGES:
                raise OptionError("--viewing", f"unknown change {change}. Choose from: {', '.join(CHANGES)}; or none.")

    @classmethod
    def without_labels(cls) -> TrainingOptions:
        """Defaults for a dataset of images alone."""
        return cls(pretrain_epochs=PRETRAIN_EPOCHS, bilevel=BilevelSettings(losses=WITHOUT_LABELS))

    @property
    def validation_iterations(self) -> int:
        """Validation batches per epoch, in nnU-Net's proportion."""
        return max(1, self.iterations // TRAINING_PER_VALIDATION)

    def require_fit(self, modalities: int) -> None:
        """Make sure that a dataset of so many modalities can be trained with these options.

        Raises:
            OptionError: Its only modality would be left out.
        """
        if self.modality_dropout and modalities == 1:
            raise OptionError("--modality_dropout", "the dataset has one modality, which cannot be left out. Leave the flag out.")

    def require_no_task(self) -> None:
        """Make sure that a dataset without labels can be trained with these options.

        Raises:
            OptionError: One concerns the segmentation, or no fusion loss is left.
        """
        usual = BilevelSettings()
        for flag, chosen, accepted in (("--hypergradient", self.bilevel.hypergradient, (usual.hypergradient, "joint")),
                                       ("--auxiliary_head", self.bilevel.auxiliary_weight, (usual.auxiliary_weight, 0)),
                                       ("--fusion_weight", self.bilevel.fusion_weight, (usual.fusion_weight,)),
                                       ("--viewing", self.bilevel.viewing, (usual.viewing, ()))):
            if chosen not in accepted:
                given = " ".join(chosen) if isinstance(chosen, tuple) else chosen
                raise OptionError(flag, f"{given} means nothing without labels: the fusion losses alone are trained. "
                                        f"Leave it out.")
        if not self.leader_learning_rate:
            raise OptionError("--leader_learning_rate", "0 leaves nothing to train, as the dataset has no labels. Leave it out.")
        if not any(asdict(self.bilevel.losses).values()):
            raise OptionError("--fusion_losses", "none leaves nothing to train, as the dataset has no labels. Keep another.")

    def to_plain(self) -> dict[str, Any]:
        """Nested dictionaries of numbers and names."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> TrainingOptions:
        """Undo :meth:`to_plain`.

        Raises:
            KeyError, TypeError: Entries are missing or unknown, or of another kind.
        """
        step = plain["bilevel"]
        bilevel = BilevelSettings(**{**step, "losses": FusionLossWeights(**step["losses"]), "viewing": tuple(step["viewing"])})
        return cls(**{**plain, "bilevel": bilevel, "pretraining": PretrainingWeights(**plain["pretraining"])})

    @classmethod
    def of_checkpoint(cls, state: dict[str, Any], path: Path) -> TrainingOptions:
        """What a checkpoint was trained with.

        Raises:
            CheckpointError: It does not say so, or another version wrote it.
        """
        try:
            return cls.from_plain(state["options"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(path, "is no checkpoint of Fuse4Seg, or one of another version. Train again.") from error

    def changed(self, *, fusion_losses: Sequence[str] | None = None, pretraining_losses: Sequence[str] | None = None,
                viewing: Sequence[str] | None = None, **chosen: float | str | None) -> TrainingOptions:
        """These options with what was chosen; None keeps an entry.

        Args:
            fusion_losses: Parts of the fusion loss to keep, each as NAME or NAME=WEIGHT; the others get 0. A name alone gives
                the part's default weight; where that is 0, its weight in the paper or without labels.
            pretraining_losses: The same for what pre-training adds to the content loss.
            viewing: Changes of the fused image, or "none".
            chosen: Options and the bi-level step's entries by their own names.

        Raises:
            OptionError: There is no such part, or its weight is none.
        """
        given = {name: value for name, value in chosen.items() if value is not None}
        of_step = {entry.name: given.pop(entry.name) for entry in fields(BilevelSettings) if entry.name in given}
        if fusion_losses is not None:
            known = [asdict(weights) for weights in (FusionLossWeights(), PAPER, WITHOUT_LABELS)]
            defaults = {name: next(weights[name] for weights in known if weights[name]) for name in known[0]}
            of_step["losses"] = FusionLossWeights(**_only(fusion_losses, defaults, flag="--fusion_losses"))
        if viewing is not None:
            of_step["viewing"] = () if list(viewing) == ["none"] else tuple(viewing)
        if pretraining_losses is not None:
            weights = _only(pretraining_losses, asdict(PretrainingWeights()), flag="--pretraining_losses")
            given["pretraining"] = PretrainingWeights(**weights)
        return replace(self, **given, bilevel=replace(self.bilevel, **of_step))


def _only(parts: Sequence[str], defaults: dict[str, float], *, flag: str) -> dict[str, float]:
    """The weights of these parts, NAME or NAME=WEIGHT; 0 for all others, and for all if the only part is "none".

    Raises:
        OptionError: There is no such part, or its weight is none.
    """
    kept: dict[str, float] = {}
    for part in [] if list(parts) == ["none"] else parts:
        name, given, weight = part.partition("=")
        if name not in defaults:
            raise OptionError(flag, f"unknown loss {name}. Choose from: {', '.join(defaults)}; or none.")
        kept[name] = _weight(part, weight, flag=flag) if given else defaults[name]
    return {name: kept.get(name, 0.0) for name in defaults}


def _weight(part: str, text: str, *, flag: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise OptionError(flag, f"{part} gives no weight. Write it as {part.partition('=')[0]}=0.5, with a number from 0 on.")
    return weight
