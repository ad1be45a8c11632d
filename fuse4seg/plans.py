"""Plans files: what they are called, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fuse4seg.errors import PlansNotFoundError, RecipeError
from fuse4seg.files import read_json
from fuse4seg.recipes.reading import from_plain
from fuse4seg.recipes.recipe import Recipe

PLANS_NAME = "Fuse4SegPlans"
NETWORK = "fuse4seg.networks.fuse_then_segment.FuseThenSegment"
PLAN_AGAIN = "Plan again with f4s_plan_experiment, or name other plans with -p."
#: What a plans file says about how we made it stands under this key.
OURS = "fuse4seg"
#: Under that key, the method, and how many GPUs share a batch.
RECIPE, GPUS = "recipe", "gpus"


def read_plans(path: Path) -> dict[str, Any]:
    """Content of a plans file.

    Raises:
        PlansNotFoundError: It is missing or cannot be read.
    """
    plans = read_json(path, PlansNotFoundError)
    if not isinstance(plans, dict) or not isinstance(plans.get("configurations"), dict):
        raise PlansNotFoundError(path, "holds no plans")
    return plans


def planned_recipe(plans: dict[str, Any], path: Path | str) -> Recipe:
    """The method that plans were made for.

    Args:
        plans: Their content.
        path: Their file or name, for messages.

    Raises:
        PlansNotFoundError: They name none, or that of another version.
    """
    try:
        return from_plain(plans[OURS][RECIPE], source=RECIPE)
    except (KeyError, TypeError) as error:
        raise PlansNotFoundError(Path(path), "hold no recipe", mend=PLAN_AGAIN) from error
    except RecipeError as error:
        problem = f"hold a recipe that cannot be used ({error.entry}: {error.problem.rstrip('.')})"
        raise PlansNotFoundError(Path(path), problem, mend=PLAN_AGAIN) from error
