"""What a recipe may say: its entries with their types, ranges and meaning, and nowhere else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_origin, get_type_hints

from fuse4seg.errors import RecipeError
from fuse4seg.recipes.kinds import network_names

#: Of recipes as they stand in plans and checkpoints; another one means to plan and train again. Raise it with every entry that
#: is added, renamed or removed, as every entry must be there.
VERSION = 2
#: What a dataset is planned with unless the user says otherwise: with labels, and without.
WITH_LABELS, WITHOUT_LABELS = "fuse4seg", "fusion_alone"
#: Of numbers that networks compute with in single precision.
LARGEST = 3e38
#: Of whole numbers: those that planning lays networks out by, and others.
WIDEST, LARGEST_WHOLE = 100_000, 2**31 - 1
#: Choices of entries; what each stands for is in ESTIMATORS of steps/hypergradients.py, steps/schedule.py, steps/levels.py,
#: COLOURS of planning/leaders.py, and, in the order of its draws, steps/viewing.py. Tests hold these together.
FUSED_IMAGES = ("colour", "grey")
HYPERGRADIENTS = ("gauss_newton", "joint", "none")
VIEWING = ("blur", "gamma", "window", "noise")
SCHEDULES = ("polynomial", "halved", "constant")
OPTIMISERS = ("sgd", "adamw")


def entry(about: str, *, least: float | None = None, below: float = math.inf, choices: tuple[str, ...] = (),
          planned: bool = False) -> Any:
    """A field of a section.

    A new one needs a value in every recipe that is like no other, and a new page (recipes/reference.py). How a training is
    carried out (device, saving) is no entry of a method but a flag of its command.

    Args:
        about: What it means; the documentation's words.
        least: Smallest value of a number, or of each of several.
        below: What a number must be smaller than.
        choices: All values that a word, or each of several, may have.
        planned: Decided when plans are made; a training cannot change it.
    """
    return field(metadata={"about": about, "least": least, "below": below, "choices": choices, "planned": planned})


@dataclass(frozen=True)
class Section:
    """A table of entries.

    Raises:
        RecipeError: An entry is of another type, or out of range; it says what would do.
    """

    def __post_init__(self) -> None:
        for own in fields(self):
            if own.metadata:
                require_value(f"{section_name(type(self))}.{own.name}", getattr(self, own.name),
                            get_type_hints(type(self))[own.name], **own.metadata)


@dataclass(frozen=True)
class Leader(Section):
    """The fusion network, and what moves it in both stages; its file adds entries of its own."""

    network: str = entry("a file of fuse4seg/leaders", choices=network_names("leader"), planned=True)
    fused_image: str = entry("colour: three channels; grey: one, as a single modality always",
                             choices=FUSED_IMAGES, planned=True)
    reference: str = entry("modality that asks, or is taken for the visible image; empty: dataset.json's, else the first",
                           planned=True)
    rate: float = entry("first rate of its Adam and the discriminators'; 0: it stays as it starts", least=0)
    schedule: str = entry("how the rate falls: polynomial, nnU-Net's; halved, every 20 epochs, the paper's; constant",
                          choices=SCHEDULES)


@dataclass(frozen=True)
class Follower(Section):
    """The segmentation network, and what moves it; its file adds entries of its own."""

    network: str = entry("a file of fuse4seg/followers", choices=network_names("follower"), planned=True)
    optimiser: str = entry("sgd, as nnU-Net's, or adamw", choices=OPTIMISERS)
    rate: float = entry("first learning rate", least=0)
    schedule: str = entry("how the rate falls", choices=SCHEDULES)
    momentum: float = entry("of SGD; 0 with adamw", least=0, below=1)
    nesterov: bool = entry("Nesterov's momentum, of SGD")
    weight_decay: float = entry("of either", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise RecipeError("follower.nesterov", "needs a momentum above 0. Set it to false, or give one.")
        if self.optimiser != "sgd" and self.momentum:
            raise RecipeError("follower.momentum", f"{self.optimiser} has none. Set it to 0, and follower.nesterov=false.")


@dataclass(frozen=True)
class Patches(Section):
    """What memory planning may choose."""

    size: tuple[int, ...] = entry("voxels along the axes, of configurations with as many; none: planned",
                                  least=8, planned=True)
    batch: int = entry("samples, as far as memory allows; 0: planned", least=0, planned=True)
    largest_batch: int = entry("most samples of a planned batch; 0: what memory and dataset allow", least=0, planned=True)


@dataclass(frozen=True)
class Pretraining(Section):
    """Stage 1: the leader learns to take every modality apart and to put it together again (paper, Eq. 9)."""

    epochs: int = entry("of stage 1; 0 leaves it out", least=0)
    own: bool = entry("by the leader's own losses, as published, in place of those below")
    adversarial: float = entry("weight of the adversarial loss; 0 leaves the discriminators out", least=0)
    decomposition: float = entry("sigma, weight of the decomposition loss; the content loss gets 1 - sigma", least=0, below=1)


@dataclass(frozen=True)
class Training(Section):
    """Stage 2: how long, and of what."""

    epochs: int = entry("of stage 2", least=1)
    iterations: int = entry("of an epoch of either stage (nnU-Net: 250)", least=1)
    modality_dropout: float = entry("probability of each modality to be left out of a sample; one at least stays", least=0,
                                    below=1)


@dataclass(frozen=True)
class Losses(Section):
    """Weight of each part of the fusion loss; 0 leaves it out. All but own and chroma look at the luma."""

    own: float = entry("the leader's own losses, as published, where it has some", least=0)
    intensity: float = entry("intensities of the brightest source", least=0)
    texture: float = entry("strongest gradient of any source (paper, Eq. 13)", least=0)
    decomposition: float = entry("features: low frequencies shared, high ones not (paper, Eq. 11)", least=0)
    adversarial: float = entry("a discriminator per modality takes the image for it (paper, Eq. 10)", least=0)
    edges: float = entry("edges of the source with the strongest, in strength and direction", least=0)
    ssim: float = entry("1 less the mean SSIM to the sources", least=0)
    balance: float = entry("mean square of what each source's SSIM lacks: the least seen counts most", least=0)
    vif: float = entry("1 less the mean visual information fidelity to the sources", least=0)
    scd: float = entry("1 less half of the sum of correlations of differences (metric SCD)", least=0)
    chroma: float = entry("colour where nothing is labelled; without labels, anywhere", least=0)

    @classmethod
    def only(cls, **weights: float) -> Losses:
        """These weights, and 0 for all other parts.

        Example:
            >>> Losses.only(edges=2.0).ssim
            0.0
        """
        return cls(**{**{part.name: 0.0 for part in fields(cls)}, **weights})


@dataclass(frozen=True)
class Bilevel(Section):
    """How the segmentation teaches the leader; a recipe without this section fuses images without labels."""

    hypergradient: str = entry("gauss_newton: with the follower's answer, to first order; joint: the direct gradient, of one "
                               "batch; none: the fusion losses alone", choices=HYPERGRADIENTS)
    damping: float = entry("added to what the Gauss-Newton ratio divides by", least=0)
    fusion_weight: float = entry("lambda, of the fusion losses for the leader (paper, Eq. 6)", least=0)
    auxiliary_weight: float = entry("of a segmentation head on the leader's features, in training",
                                    least=0)
    cross_entropy: float = entry("alpha, of cross-entropy in the segmentation loss (paper, Eq. 14)", least=0)
    dice: float = entry("beta, of the Dice loss in it", least=0)
    mirroring: bool = entry("the follower's image is mirrored at random, along nnU-Net's axes")
    viewing: tuple[str, ...] = entry("small random changes of the image: blur, gamma, window, noise", choices=VIEWING)


@dataclass(frozen=True)
class Recipe:
    """A whole method.

    Attributes:
        name: Of its file; of a changed one with what was changed.
        about: What it is, in a sentence.
        leader, follower, patches, pretraining, training, losses: Its sections.
        bilevel: None where nothing is segmented.

    Raises:
        RecipeError: Sections contradict each other.
    """

    name: str
    about: str
    leader: Leader
    follower: Follower
    patches: Patches
    pretraining: Pretraining
    training: Training
    losses: Losses
    bilevel: Bilevel | None

    def __post_init__(self) -> None:
        for entry_name in ("batch", "largest_batch"):
            if getattr(self.patches, entry_name) == 1:
                raise RecipeError(f"patches.{entry_name}", "1 is too few: each level needs a part of a batch. Give at least 2.")
        if len(self.patches.size) not in (0, 2, 3):
            raise RecipeError("patches.size", f"has {len(self.patches.size)} axes. Give two or three, or none.")
        if self.bilevel is not None and not self.bilevel.cross_entropy and not self.bilevel.dice:
            raise RecipeError("bilevel.dice", "0 beside a cross-entropy of 0 leaves nothing to segment by. Give one a weight.")
        still = not self.leader.rate
        if still and self.pretraining.epochs:
            raise RecipeError("leader.rate", "0 leaves nothing to train in pre-training. Set pretraining.epochs=0, too.")
        if self.bilevel is None and still:
            raise RecipeError("leader.rate", "0 leaves nothing to train where nothing is segmented. Give a rate above 0.")
        grey = self.leader.fused_image == "grey"
        if self.bilevel is None and not any(getattr(self.losses, part.name) for part in fields(Losses)
                                            if not (grey and part.name == "chroma")):
            raise RecipeError("losses", "all weights are 0, which leaves nothing to train where nothing is segmented.")

    @property
    def segments(self) -> bool:
        """Whether it needs labels, and segments."""
        return self.bilevel is not None

    def require_labels(self, *, labelled: bool) -> None:
        """Make sure that there are labels to learn from.

        Raises:
            RecipeError: A dataset has none.
        """
        if self.segments and not labelled:
            raise RecipeError("bilevel", f"the dataset has no labels to segment. Plan it with --recipe {WITHOUT_LABELS}.",
                              source=self.name)


#: By their names in a recipe; files of networks make those of leader and follower longer.
SECTIONS: dict[str, type[Section]] = {"leader": Leader, "follower": Follower, "patches": Patches, "pretraining": Pretraining,
                                      "training": Training, "losses": Losses, "bilevel": Bilevel}


def section_name(section: type[Section]) -> str:
    """What a section is called in a recipe, also one that the file of a network makes longer."""
    return next(name for name, kind in SECTIONS.items() if issubclass(section, kind))


def require_value(path: str, value: Any, kind: Any, *, choices: tuple[str, ...], least: float | None, below: float,
                planned: bool = False, **_: object) -> None:
    """Make sure that a value is of a type, and in a range; arguments of :func:`entry`.

    Raises:
        RecipeError: It is not; it says what would do.
    """
    several = get_origin(kind) is tuple
    single = get_args(kind)[0] if several else kind
    values = list(value) if several and isinstance(value, tuple) else [value]
    # A bool is an int for Python, and a whole number is a float for people.
    sound = (single, int) if single is float else single
    if several != isinstance(value, tuple) or any(not isinstance(one, sound) or isinstance(one, bool) != (single is bool)
                                                  for one in values):
        raise RecipeError(path, f"{value!r} is not {described(kind)}.")
    if choices and len(set(values)) < len(values):
        raise RecipeError(path, "says something twice.")
    for one in values:
        if choices and one not in choices:
            raise RecipeError(path, f"there is no {one!r}. Choose from: {', '.join(choices)}.")
        if least is not None and not (least <= one < below):
            raise RecipeError(path, f"must be {in_range(least, below)}, got {one!r:.20}.")
        if least is not None and one > (LARGEST if single is float else WIDEST if planned else LARGEST_WHOLE):
            raise RecipeError(path, f"{one!r:.20} is too large to compute with.")


def described(kind: Any) -> str:
    """A type in plain English, as messages and the documentation say it."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    several = {int: "a list of whole numbers", str: "a list of words"}
    return several[get_args(kind)[0]] if get_origin(kind) is tuple else words[kind]


def in_range(least: float, below: float) -> str:
    """A range of numbers in plain English."""
    return f"at least {least:g}" if math.isinf(below) else f"from {least:g} to below {below:g}"
