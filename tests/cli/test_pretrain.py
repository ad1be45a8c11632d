"""f4s_pretrain: stage 1 alone, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fuse4seg.cli.pretrain import main

CHANGES = ["pretraining.epochs=1", "training.iterations=1"]
FOLD = Path("Dataset990_Phantom", f"Fuse4SegTrainer-{'-'.join(CHANGES)}__Fuse4SegPlans__2d", "fold_0")
WORDS = ["990", "2d", "0", "-device", "cpu"]


class TestPretrain:
    def test_leaves_what_training_starts_from_and_no_model(self, own_results: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*WORDS, "--set", *CHANGES, "--seed", "7"]) == 0
        fold = own_results / FOLD
        assert [path.name for path in fold.glob("*.pth")] == ["pretrained.pth"]
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.splitlines()[-1] == f"pre-trained: {fold / 'pretrained.pth'}"
        state = torch.load(fold / "pretrained.pth", weights_only=True)
        assert (state["epochs_done"], state["seed"]) == (1, 7)
        assert all(bool(torch.isfinite(value).all()) for value in state["fusion"].values())

    @pytest.mark.parametrize(("change", "said"), [
        ("pretraining.epochs=0", "pretraining.epochs: is 0, so there is no stage 1. Give --set pretraining.epochs=80"),
        ("pretraining.epochs=-2", "--set: pretraining.epochs: must be at least 0"),
        ("leader.rate=0", "--set: leader.rate: 0 leaves nothing to train in pre-training"),
        ("training.iterations=0", "--set: training.iterations: must be at least 1")])
    def test_refuses_what_does_not_fit_in_one_line(self, own_results: Path, capsys: pytest.CaptureFixture[str],
                                                   change: str, said: str) -> None:
        assert main([*WORDS, "--set", change]) == 1
        line, = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert said in line
        assert not own_results.exists()

    @pytest.mark.parametrize("words", [["--epochs", "3"], ["--c"], ["--val"]])
    def test_refuses_flags_of_stage_2(self, words: list[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main([*WORDS, *words])
