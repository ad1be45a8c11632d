"""f4s_pretrain: stage 1 alone, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fuse4seg.cli.pretrain import main

FOLD = Path("Dataset990_Phantom", "Fuse4SegTrainer__Fuse4SegPlans__2d", "fold_0")
WORDS = ["990", "2d", "0", "-device", "cpu", "--iterations", "1"]


class TestPretrain:
    def test_leaves_what_training_starts_from_and_no_model(self, own_results: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*WORDS, "--pretrain_epochs", "1", "--seed", "7"]) == 0
        fold = own_results / FOLD
        assert [path.name for path in fold.glob("*.pth")] == ["pretrained.pth"]
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.splitlines()[-1] == f"pre-trained: {fold / 'pretrained.pth'}"
        state = torch.load(fold / "pretrained.pth", weights_only=True)
        assert (state["epochs_done"], state["options"]["seed"]) == (1, 7)
        assert all(bool(torch.isfinite(value).all()) for value in state["fusion"].values())

    @pytest.mark.parametrize(("words", "said"), [(["--pretrain_epochs", "0"], "--pretrain_epochs: 0 leaves nothing to do"),
                                                 (["--pretrain_epochs", "-2"], "--pretrain_epochs: must be at least 0"),
                                                 (["--leader_learning_rate", "0"],
                                                  "--leader_learning_rate: 0 leaves nothing to train in pre-training"),
                                                 (["--iterations", "0"], "--iterations: must be at least 1")])
    def test_refuses_what_does_not_fit_in_one_line(self, own_results: Path, capsys: pytest.CaptureFixture[str],
                                                   words: list[str], said: str) -> None:
        assert main([*WORDS, *words]) == 1
        line, = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {said}")
        assert not own_results.exists()

    @pytest.mark.parametrize("words", [["--epochs", "3"], ["--hypergradient", "joint"], ["--c"]])
    def test_refuses_flags_of_stage_2(self, words: list[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main([*WORDS, *words])
