"""f4s_convert_dataset: the formats, and bad input in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from fuse4seg.cli.convert_dataset import main


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for modality in ("MRI", "CT"):
        (tmp_path / "in" / modality).mkdir(parents=True)
        Picture.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "in" / modality / "a.png")
    return tmp_path / "in"


def test_writes_below_the_root(pairs: Path, tmp_path: Path) -> None:
    assert main(["harvard", str(pairs), "12", "--name", "Heads", "--copy", "-np", "1", "--root", str(tmp_path)]) == 0
    written = tmp_path / "nnUNet_raw" / "Dataset012_Heads" / "imagesTr" / "a_0001.png"
    assert written.is_file()
    assert not written.is_symlink()


@pytest.mark.parametrize(("words", "said"), [(["brats", "nowhere", "12"], "nowhere is not a folder"),
                                             (["msd", ".", "12"], "dataset.json"), (["brats", ".", "12"], "holds no file"),
                                             (["dicom", ".", "12"], "holds no file *.dcm"),
                                             (["dicom", ".", "12", "--series_rules", "x"], "x: is missing"),
                                             (["brats", ".", "12", "--channels", "T1"], "--channels: is for dicom alone"),
                                             (["harvard", ".", "12", "--release", "2018"], "--release: is for brats alone"),
                                             (["harvard", ".", "1200"], "OUT_ID"), (["harvard", ".", "12", "-np", "0"], "-np")])
def test_bad_input_is_one_line(pairs: Path, tmp_path: Path, words: list[str], said: str,
                               capsys: pytest.CaptureFixture[str]) -> None:
    words[1] = str(pairs if words[1] == "." else tmp_path / words[1])
    assert main([*words, "--root", str(tmp_path)]) == 1
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_second_time_is_refused(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["harvard", str(pairs), "12", "-np", "1", "--root", str(tmp_path)]
    assert main(words) == 0
    assert main(words) == 1
    assert "Dataset012_Harvard exists" in capsys.readouterr().err
