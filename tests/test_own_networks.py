"""The page on networks of one's own: its files, in a copy of the package, do what it says, and no other file changes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "documentation" / "how-to" / "own-networks.md"
#: A file beside the page, and the folder that the page copies it to.
ROW = re.compile(r"^\| \[([\w.]+)\]\((networks/[\w.]+)\) \| `([\w/]+)` \|", re.MULTILINE)
FILES = {"fuse4seg/leaders/shares.py", "fuse4seg/recipes/shares.toml", "tests/leaders/test_shares.py",
         "fuse4seg/followers/dilated.py", "fuse4seg/recipes/dilated.toml"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package and tests with the page's files in them."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("fuse4seg", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name, file in files().items():
        assert not (folder / name).exists()
        shutil.copy(file, folder / name)
    return folder


def files() -> dict[str, Path]:
    """What the page's table copies, by where it goes."""
    return {f"{folder}/{name}": PAGE.parent / link for name, link, folder in ROW.findall(PAGE.read_text())}


def run(copy: Path, *words: str) -> str:
    """What Python says, with the copy in front of everything else."""
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def command(copy: Path, name: str, *words: str) -> None:
    """Run one of ours."""
    run(copy, "-c", f"import sys; from fuse4seg.cli.{name} import main; sys.exit(main())", *words)


def test_the_page_names_every_file() -> None:
    assert files().keys() == FILES
    assert {*files().values()} == {path for path in (PAGE.parent / "networks").iterdir() if path.is_file()}


def test_its_tests_pass(copy: Path) -> None:
    said = run(copy, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "tests/leaders/test_shares.py",
               "tests/followers/test_fixed_followers.py", "-k", "shares or dilated")
    assert re.search(r"^10 passed", said, re.MULTILINE), said


def test_they_read_as_ours_do(copy: Path) -> None:
    """But for docstrings where the contract has them."""
    modules = sorted(name for name in FILES if name.endswith(".py"))
    run(copy, "-m", "ruff", "check", "--no-cache", "--ignore", "D102,D103", *modules)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "changes"), [("shares", ["leader.folding=true"]), ("dilated", [])])
def test_its_recipes_can_be_planned_and_trained(copy: Path, planned_phantom: Path, tmp_path: Path, recipe: str,
                                                changes: list[str]) -> None:
    shutil.copytree(planned_phantom, tmp_path / "root")
    at = ["--root", str(tmp_path / "root")]
    command(copy, "plan_experiment", "-d", "990", "-p", "Mine", "-gpu_memory_target", "0.2", "--recipe", recipe, *at,
            "--set", "patches.largest_batch=2", "training.epochs=1", "training.iterations=1", *changes)
    command(copy, "train", "990", "2d", "0", "-p", "Mine", "-device", "cpu", *at)
    model = tmp_path / "root" / "nnUNet_results" / "Dataset990_Phantom" / "Fuse4SegTrainer__Mine__2d"
    assert (model / "fold_0" / "checkpoint_final.pth").is_file()
