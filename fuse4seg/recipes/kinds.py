"""Networks that a recipe may name: one for each file in fuse4seg/leaders and fuse4seg/followers, which holds its entries, too."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from fuse4seg.errors import RecipeError

#: Folder of the networks of a section.
FOLDERS = {"leader": "leaders", "follower": "followers"}


def network_names(section: str) -> tuple[str, ...]:
    """Networks that a section may name.

    Example:
        >>> "gate" in network_names("leader")
        True
    """
    folder = Path(__file__).parents[1] / FOLDERS[section]
    return tuple(sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")))


def network_module(section: str, name: str) -> ModuleType:
    """The file of a network, by its name, so that a new one touches no other file; read when asked for, as it needs torch.

    Raises:
        RecipeError: The file lacks what planning asks it for.
    """
    module = import_module(f"fuse4seg.{FOLDERS[section]}.{name}")
    for wanted in ("Settings", section.upper()):
        if not hasattr(module, wanted):
            raise RecipeError(f"{section}.network", f"{module.__file__} has no {wanted}. Give it one, as the other files there "
                                                    "have.")
    return module
