"""What a user can choose about the plans."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fuse4seg.errors import OptionError, RecipeError
from fuse4seg.plans import PLANS_NAME
from fuse4seg.recipes.reading import LONGEST_NAME, changed, name_after, read_recipe
from fuse4seg.recipes.recipe import WITH_LABELS, WITHOUT_LABELS, Recipe

SMALLEST_BATCH = 2
_NAME = re.compile(r"[A-Za-z0-9]([\w.=+-]*[A-Za-z0-9=])?", re.ASCII)


@dataclass(frozen=True)
class PlanOptions:
    """Options of one planning.

    Attributes:
        recipe: Name of a recipe that comes along, or a file of one; None for the usual one with labels, or without.
        changes: Entries of the recipe that differ, as :func:`~fuse4seg.recipes.reading.changed` takes them.
        gpu_memory_target: Gigabytes (1e9 bytes) that training should fill; None for what the visible GPU has to give, without
            one for what nnU-Net plans the follower for.
        plans_name: Name of the plans file, without its ending; None for one that says recipe and changes.
        overwrite_target_spacing: Millimetres between voxels along the image's three axes, instead of the median.
        gpus: How many share each batch; the memory is that of each.
        allow_missing: Training cases may lack channels, whatever dataset.json says.

    Raises:
        OptionError: One is out of range; the message names the command's flag.
        RecipeError: There is no such recipe, or a change fits none of those that could be meant.
    """

    recipe: str | Path | None = None
    changes: tuple[str, ...] = ()
    gpu_memory_target: float | None = None
    plans_name: str | None = None
    overwrite_target_spacing: Sequence[float] | None = None
    gpus: int = 1
    allow_missing: bool = False

    def __post_init__(self) -> None:
        if self.gpu_memory_target is not None and not 0 < self.gpu_memory_target < math.inf:
            problem = f"{self.gpu_memory_target:g} GB is no memory. Give a number above 0."
            raise OptionError("-gpu_memory_target", problem)
        if self.gpus < 1:
            raise OptionError("-num_gpus", f"must be at least 1, got {self.gpus}.")
        name = self.plans_name
        if name is not None and (not _NAME.fullmatch(name) or "__" in name or len(name) > LONGEST_NAME):
            raise OptionError("-overwrite_plans_name", f"{name!r} is no name for plans. Use up to {LONGEST_NAME} of letters, "
                                                       f"digits, single _ and . + - =; begin and end with a letter or digit.")
        if self.recipe == "":
            raise OptionError("--recipe", "is empty. Leave it out for the usual one.")
        spacing = self.overwrite_target_spacing
        if spacing is not None and (len(spacing) != 3 or not all(0 < step < math.inf for step in spacing)):
            problem = f"{' '.join(map(str, spacing))} is no spacing. Give three numbers above 0."
            raise OptionError("-overwrite_target_spacing", problem)
        try:
            self.recipe_for(labelled=True)
        except RecipeError as error:
            # Only the dataset knows whether it has labels.
            with suppress(RecipeError):
                self.recipe_for(labelled=False)
                return
            raise error

    def recipe_for(self, *, labelled: bool) -> Recipe:
        """The method for a dataset with or without labels.

        Raises:
            RecipeError: There is no such recipe, or a change does not fit it.
        """
        return changed(read_recipe(self.recipe or (WITH_LABELS if labelled else WITHOUT_LABELS)), self.changes)

    @property
    def name(self) -> str:
        """Of the plans file, without its ending."""
        if self.plans_name is not None:
            return self.plans_name
        stem = Path(self.recipe).stem if self.recipe else WITH_LABELS
        return name_after(PLANS_NAME if stem in (WITH_LABELS, WITHOUT_LABELS) else name_after(PLANS_NAME, [stem]), self.changes)
