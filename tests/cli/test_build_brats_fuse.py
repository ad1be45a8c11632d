"""f4s_build_brats_fuse: faults are named, and what is whole is built all the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuse4seg.cli.build_brats_fuse import main


def test_a_faulty_case_is_named_and_left_out(brats_release: Path, trained_model: Path, trained_phantom: Path, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    for path in brats_release.rglob("*.nii.gz"):
        (tmp_path / "in" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path.parent.name / path.name).write_bytes(path.read_bytes()[:400] if path.name.endswith("1_t2.nii.gz")
                                                                     else path.read_bytes())
    words = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(trained_model), "-device", "cpu", "-np", "1"]
    assert main(words) == 1
    captured = capsys.readouterr()
    assert "BraTS2021_1_t2.nii.gz cannot be read" in captured.err
    assert "T1+T1ce+T2+FLAIR" in captured.out
    assert list(json.loads((tmp_path / "out" / "manifest.json").read_text())["cases"]) == ["BraTS2021_2"]
