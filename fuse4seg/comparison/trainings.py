"""The trainings of a comparison: one process each, on one or several devices, each taken up where it was cut short."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fuse4seg.comparison.prepared_data import environment_of
from fuse4seg.comparison.rows import IMAGE, Row, what_fuses
from fuse4seg.comparison.stock_nnunet import STOCK_PLANS
from fuse4seg.inference.validate_fold import FUSION_LOSSES, VALIDATION
from fuse4seg.recipes.reading import name_after
from fuse4seg.recipes.recipe import Recipe
from fuse4seg.side_by_side import Errand, last_line, own_command, run_errands

#: Folders of a comparison: what is compared, and leaders that were trained alone.
TRAININGS, FUSIONS = "trainings", "fusions"
LOG = "log.txt"


@dataclass(frozen=True)
class Budget:
    """What every training gets; ours spends ``pretrain_epochs`` on stage 1 besides, which is part of its cost and is reported."""

    epochs: int
    iterations: int
    pretrain_epochs: int = 0

    @classmethod
    def of(cls, recipe: Recipe) -> Budget:
        """What a recipe says, whatever it trains."""
        return cls(recipe.training.epochs, recipe.training.iterations, recipe.pretraining.epochs)

    def to_plain(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


@dataclass(frozen=True)
class Trial:
    """One training of a row.

    Attributes:
        row: Which.
        fold: Of nnU-Net's splits.
        seed: Of this training.
        dataset: Full name.
        configuration: Such as 2d.
        plans: Their name.
        output: Folder of the comparison.
        budget: What it gets.
        changes: Entries of its plans' recipe that differ, where the budget is not that of the plans; of ours alone.
        purpose: Folder of the output that it lies in.
        first: The training of what fuses its image, which must come before; None where there is none.
    """

    row: Row
    fold: int
    seed: int
    dataset: str
    configuration: str
    plans: str
    output: Path
    budget: Budget
    changes: tuple[str, ...] = ()
    purpose: str = TRAININGS
    first: Trial | None = None

    @property
    def place(self) -> Path:
        """Folder of this training's results and log."""
        return place_of(self.output, self.row.name, self.fold, self.seed, purpose=self.purpose)

    @property
    def data(self) -> Path:
        """The row's preprocessed dataset; where another training fuses it, of each training its own."""
        own = "" if self.first is None else f"_fold{self.fold}_seed{self.seed}"
        return self.output / "data" / f"{self.row.name}{own}" / self.dataset

    def after_its_leader(self, budget: Budget) -> Trial:
        """The same, after the training of what fuses its image, with that budget."""
        first = replace(self, row=what_fuses(self.row), purpose=purpose_of_fusing(self.row), budget=budget)
        return replace(self, first=first)

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.row.name}, fold {self.fold}, seed {self.seed}"

    @property
    def model(self) -> Path:
        """Folder Trainer__Plans__configuration."""
        if not self.row.ours:
            return self.place / self.dataset / f"nnUNetTrainer__{STOCK_PLANS}__{self.configuration}"
        return self.place / self.dataset / f"{name_after('Fuse4SegTrainer', self.changes)}__{self.plans}__{self.configuration}"

    @property
    def fold_folder(self) -> Path:
        """With checkpoints and the validation."""
        return self.model / f"fold_{self.fold}"

    @property
    def record(self) -> Path:
        """What the validation leaves last: of segmentations or, without labels, of fused images."""
        validation = self.fold_folder / VALIDATION
        alone = validation / FUSION_LOSSES
        return alone if alone.is_file() else validation / "summary.json"

    @property
    def finished(self) -> bool:
        """Whether it is trained and validated."""
        return self.record.is_file()

    def command(self, device: str) -> list[str]:
        """Words of the training's process."""
        words = [self.dataset, self.configuration, self.fold, "--seed", self.seed, "-p", self.plans, "-device", device, "--c"]
        if self.row.ours:
            return own_command("train", *map(str, [*words, *(["--set", *self.changes] if self.changes else [])]))
        budget = ["--epochs", self.budget.epochs, "--iterations", self.budget.iterations]
        return [sys.executable, "-m", "fuse4seg.cli.train_stock_nnunet", *map(str, [*words, *budget])]


def purpose_of_fusing(row: Row) -> str:
    """Folder of the training of what fuses a row's image."""
    return TRAININGS if row.source[0] == IMAGE else FUSIONS


def place_of(output: Path, row: str, fold: int, seed: int, *, purpose: str = TRAININGS) -> Path:
    """Folder of a training within a comparison's output."""
    return output / purpose / row / f"fold{fold}_seed{seed}"


def run_trials(trials: Sequence[Trial], *, devices: Sequence[str]) -> list[str]:
    """Run what is not finished, as many at a time as there are devices.

    Args:
        trials: In the order wanted.
        devices: "cpu", "mps", "cuda" or "cuda:1"; one named twice takes two trainings at a time.

    Returns:
        One line for each training that failed, naming its log; the others are done.
    """
    waiting = [Errand(trial.title, trial.command, trial.place / LOG, environment_of(trial.data, trial.place))
               for trial in trials if not trial.finished]
    return [f"{errand.name}: {last_line(errand.log)}"
            for errand, status in run_errands(waiting, devices=devices, doing="training", unit="training") if status]
