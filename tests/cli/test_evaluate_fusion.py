"""f4s_evaluate_fusion: table on stdout, files on disk, and an exit status that says when a case is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from fuse4seg.cli.evaluate_fusion import main


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The command's words for two cases of noise."""
    random = np.random.default_rng(0)
    for name in ("CT", "MRI", "fused"):
        (tmp_path / name).mkdir()
        for case in "ab":
            Picture.fromarray(random.integers(0, 256, (48, 48), dtype=np.uint8)).save(tmp_path / name / f"{case}.png")
    return ["-i", str(tmp_path / "CT"), str(tmp_path / "MRI"), "-f", str(tmp_path / "fused"), "-np", "1",
            "-o", str(tmp_path / "r" / "r.json")]


def test_prints_a_table_and_writes_json_and_csv(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    names = ["EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM"]
    assert capsys.readouterr().out.splitlines()[0].split() == ["fused", *names]
    assert list(json.loads((tmp_path / "r" / "r.json").read_text())["mean"]) == names
    assert (tmp_path / "r" / "r.csv").is_file()


def test_a_faulty_case_fails_the_command_but_not_the_others(words: list[str], tmp_path: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "MRI" / "b.png").write_text("")
    assert main(words) == 1
    captured = capsys.readouterr()
    assert "mean" in captured.out
    assert "b.png cannot be read" in captured.err
    assert list(json.loads((tmp_path / "r" / "r.json").read_text())["cases"]) == ["a"]


@pytest.mark.parametrize(("flags", "problem"), [(["--range", "1", "1"], "black"), (["--ssim_range", "0"], "--ssim_range"),
                                                (["-np", "0"], "-np"), (["-o", "result.txt"], "does not end with .json")])
def test_options_out_of_range_are_one_line(words: list[str], flags: list[str], problem: str,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, *flags]) == 1
    captured = capsys.readouterr()
    assert problem in captured.err
    assert captured.out == ""


def test_unpaired_folders_write_nothing(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fused" / "b.png").unlink()
    assert main(words) == 1
    assert "fused lacks 1 image(s)" in capsys.readouterr().err
    assert not (tmp_path / "r" / "r.json").exists()
