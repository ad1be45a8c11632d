"""nnU-Net's splits_final.json: which cases each fold trains on and which it validates."""

from __future__ import annotations

from pathlib import Path

from fuse4seg.errors import FoldError
from fuse4seg.files import read_json

SPLITS_FILE = "splits_final.json"
#: nnU-Net's cross-validation, where there is no such file yet.
USUAL = 5


def read_splits(preprocessed: Path) -> list[dict[str, list[str]]] | None:
    """Folds of a preprocessed dataset, each with lists of cases ``train`` and ``val``; None before the first training.

    Raises:
        FoldError: The file cannot be read, or holds something else.
    """
    path = preprocessed / SPLITS_FILE
    if not path.is_file():
        return None
    splits = read_json(path, lambda file, problem="is missing": FoldError(f"{file} {problem}. Mend it, or remove it."))
    if not isinstance(splits, list) or not all(map(_is_fold, splits)):
        raise FoldError(f"{path} is no list of folds with the case names train and val. Mend it, or remove it.")
    return splits


def require_fold(preprocessed: Path, fold: int) -> None:
    """Make sure that a preprocessed dataset has a fold; nnU-Net would draw another split at random, and say so in its log alone.

    Raises:
        FoldError: It has not.
    """
    splits = read_splits(preprocessed)
    count = USUAL if splits is None else len(splits)
    if not 0 <= fold < count:
        raise FoldError(f"{preprocessed.name} has no fold {fold}. Train one of 0 to {count - 1}, or all.")


def _is_fold(fold: object) -> bool:
    return isinstance(fold, dict) and all(isinstance(fold.get(part), list) and all(isinstance(case, str) for case in fold[part])
                                          for part in ("train", "val"))
