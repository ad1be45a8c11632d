"""nnU-Net's splits_final.json: which cases each fold trains on and which it validates."""

from __future__ import annotations

from collections import Counter
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
    """Make sure that a preprocessed dataset has a usable fold; of one that it lacks, nnU-Net would draw a split at random.

    A fold without validation cases is refused: nnU-Net ends in an error there, and trains on all cases as fold all.

    Raises:
        FoldError: It has not; or the fold trains or validates no case, names one twice, or validates one it trains on.
    """
    splits = read_splits(preprocessed)
    count = USUAL if splits is None else len(splits)
    if not 0 <= fold < count:
        raise FoldError(f"{preprocessed.name} has no fold {fold}. Train one of 0 to {count - 1}, or all.")
    problem = None if splits is None else _problem(splits[fold])
    if problem:
        raise FoldError(f"{preprocessed / SPLITS_FILE}: fold {fold} {problem}")


def _problem(fold: dict[str, list[str]]) -> str | None:
    if not fold["train"]:
        return "has no training cases. Add some."
    if not fold["val"]:
        return "has no validation cases. Add some, or train fold all, which trains on every case."
    counts = {part: Counter(fold[part]) for part in ("train", "val")}
    for part, cases in counts.items():
        case, count = cases.most_common(1)[0]
        if count > 1:
            return f"names case {case} {count} times under {part}. Name it once."
    both = counts["train"].keys() & counts["val"].keys()
    return f"has case {min(both)} in both train and val. Remove it from one." if both else None


def _is_fold(fold: object) -> bool:
    return isinstance(fold, dict) and all(isinstance(fold.get(part), list) and all(isinstance(case, str) for case in fold[part])
                                          for part in ("train", "val"))
