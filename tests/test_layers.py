"""Dependencies point down: what a package may import.

One way up is left on purpose, and cannot be seen in imports: recipes read the files of leaders and followers by the name that a
recipe gives (recipes/kinds.py, by importlib), as these files say which entries the recipe may have.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "fuse4seg"
#: From the top to the bottom, as the page on the design has it.
LAYERS = (("cli",), ("demo", "brats_fuse", "comparison", "info", "selection", "sharing"), ("planning", "training"), ("steps",),
          ("report",), ("inference",), ("evaluation",), ("leaders", "followers"), ("datasets", "farm", "losses", "networks"),
          ("recipes",))
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
#: All other modules lie below the packages, and above what knows nothing but its own files.
OTHERS = LEVELS["recipes"] - 0.5


def imported(path: Path) -> Iterator[str]:
    """Parts of fuse4seg that a module imports, wherever in it: a package's or a module's first name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fuse4seg."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "fuse4seg":
            yield from (alias.name for alias in node.names)


def test_every_package_has_its_place() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages <= LEVELS.keys()


def test_nothing_imports_from_beside_or_above() -> None:
    wrong, seen = [], 0
    for path in ROOT.rglob("*.py"):
        # The package itself hands on what Python users want.
        if path == ROOT / "__init__.py":
            continue
        own = path.relative_to(ROOT).with_suffix("").parts[0]
        for other in imported(path):
            seen += 1
            if other != own and other in LEVELS and LEVELS[other] <= LEVELS.get(own, OTHERS):
                wrong.append(f"{path.relative_to(ROOT)}: {other}")
    assert seen > 300
    assert wrong == []
