"""splits_final.json: read as it is, and refused with its name where it is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuse4seg.datasets.splits import read_splits, require_fold
from fuse4seg.errors import FoldError

SOUND = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": ["a", "b"]}]


def test_are_none_before_the_first_training(tmp_path: Path) -> None:
    assert read_splits(tmp_path) is None
    require_fold(tmp_path, 4)
    with pytest.raises(FoldError, match="no fold 5"):
        require_fold(tmp_path, 5)


def test_are_read_and_counted(tmp_path: Path) -> None:
    (tmp_path / "splits_final.json").write_text(json.dumps(SOUND))
    assert read_splits(tmp_path) == SOUND
    require_fold(tmp_path, 1)
    for fold in (2, -1):
        with pytest.raises(FoldError, match=f"no fold {fold}. Train one of 0 to 1"):
            require_fold(tmp_path, fold)


@pytest.mark.parametrize("content", ["[", "{}", "[1]", '[{"train": ["a"]}]', '[{"train": "a", "val": ["b"]}]',
                                     '[{"train": [1], "val": []}]'])
def test_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "splits_final.json").write_text(content)
    with pytest.raises(FoldError, match="splits_final.json"):
        read_splits(tmp_path)


@pytest.mark.parametrize(("train", "val", "said"), [
    ([], ["a"], "no training cases"), (["a"], [], "no validation cases.*fold all"),
    (["a", "b", "a"], ["c"], "names case a 2 times"),
    (["a"], ["b", "b"], "names case b 2 times under val"), (["a", "b"], ["b"], "case b in both")])
def test_folds_that_cannot_be_trained_are_refused_and_others_are_not(tmp_path: Path, train: list[str], val: list[str],
                                                                     said: str) -> None:
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": train, "val": val}, *SOUND]))
    with pytest.raises(FoldError, match=rf"splits_final\.json: fold 0 .*{said}"):
        require_fold(tmp_path, 0)
    require_fold(tmp_path, 1)
