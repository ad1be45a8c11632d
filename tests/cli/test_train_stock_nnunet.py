"""The command that f4s_compare runs for stock nnU-Net: what it hands on, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from fuse4seg.cli.train_stock_nnunet import main
from fuse4seg.training.run import Training


def test_hands_on_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr("fuse4seg.comparison.stock_nnunet.train_stock_nnunet",
                        lambda *words, **more: given.append((*words, more)))
    flags = ["-p", "Small", "-device", "cpu", "--epochs", "4", "--iterations", "5", "--seed", "6", "--c"]
    assert main(["502", "2d", "3", *flags]) == 0
    assert given == [(Training("502", "2d", 3, plans="Small", device="cpu"),
                      {"epochs": 4, "iterations": 5, "seed": 6, "resume": True})]


@pytest.mark.parametrize("words", [["502", "2d", "x"], ["502", "2d", "0", "--pretrain_epochs", "2"], ["502", "2d"]])
def test_refuses_what_it_does_not_know(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "error: " in capsys.readouterr().err
