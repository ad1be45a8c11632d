"""f4s_report, and f4s_predict --report: a page of what was predicted, or one line that says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from fuse4seg.cli import predict
from fuse4seg.cli.report import main

DATASET = "Dataset990_Phantom"
HERE = ["-device", "cpu", "-npp", "0", "-nps", "0", "--report"]


@pytest.fixture(scope="module")
def predicted(trained_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Roots' unseen case, predicted with --report; the input's folder is beside."""
    folder = tmp_path_factory.mktemp("reported")
    shutil.copytree(trained_phantom / "nnUNet_raw" / DATASET / "imagesTs", folder / "images")
    assert predict.main(["-i", str(folder / "images"), "-o", str(folder / "out"), "--root", str(trained_phantom), *HERE]) == 0
    return folder


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command, which must fail with one line, which is returned."""

    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert len(captured.err.splitlines()) == 1
        return captured.err

    return run


class TestPredict:
    def test_leaves_a_report_with_the_sources(self, predicted: Path) -> None:
        page = (predicted / "out" / "report" / "index.html").read_text()
        assert "from left to right: T1, T1ce, T2, FLAIR, fused" in page
        assert "Fuse4SegTrainer__Fuse4SegPlans__2d" in page

    def test_reports_what_was_predicted_where_a_case_failed(self, predicted: Path, trained_phantom: Path, tmp_path: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copytree(predicted / "images", tmp_path / "images")
        (tmp_path / "images" / "short_0000.nii.gz").write_bytes(b"no image")
        words = ["-i", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "--root", str(trained_phantom)]
        assert predict.main([*words, *HERE]) == 1
        assert "case short" in capsys.readouterr().err
        page = (tmp_path / "out" / "report" / "index.html").read_text()
        assert "1 case shown, 1 that could not be." in page
        assert "case short has no T1ce image" in page

    def test_of_parts_waits_for_all(self, trained_phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert predict.main(["-i", str(tmp_path), "-o", str(tmp_path / "out"), "--root", str(trained_phantom), "-num_parts", "2",
                             "--report"]) == 1
        assert capsys.readouterr().err.startswith("error: --report: shows all parts together. Run f4s_report")


class TestReport:
    def test_prints_which_page_to_open(self, predicted: Path, trained_phantom: Path, tmp_path: Path,
                                       capsys: pytest.CaptureFixture[str]) -> None:
        labels = trained_phantom / "nnUNet_raw" / DATASET / "labelsTs"
        assert main([str(predicted / "out"), "-i", str(predicted / "images"), "--labels", str(labels), "-o",
                     str(tmp_path / "report"), "--no_viewer"]) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'report' / 'index.html'}\n"
        page = (tmp_path / "report" / "index.html").read_text()
        case = next(labels.iterdir()).name.removesuffix(".nii.gz")
        predicted_labels, true = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz")))
                                  for folder in (predicted / "out", labels))
        spacing = sitk.ReadImage(str(labels / f"{case}.nii.gz")).GetSpacing()
        for name, value in json.loads((predicted / "out" / "dataset.json").read_text())["labels"].items():
            one, other = predicted_labels == value, true == value
            if value and one.any():
                dice = 2 * (one & other).sum() / (one.sum() + other.sum())
                volume = one.sum() * np.prod(spacing) / 1000
                assert f'<th scope="row">{name}</th><td>{volume:.1f}</td><td>{dice:.3f}</td>' in page

    def test_refuses_a_folder_without_a_prediction(self, tmp_path: Path, refused: Callable[..., str]) -> None:
        assert f"{tmp_path} holds no prediction" in refused(tmp_path)
        assert "nowhere holds no prediction" in refused(tmp_path / "nowhere")

    def test_refuses_ratings_of_other_cases(self, predicted: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
        rows = {"another": {"rating": "pass", "note": "", "time": ""}}
        (tmp_path / "ann.json").write_text(json.dumps({"report": "", "rater": "Ann", "ratings": rows}))
        assert "rates 'another', which this report does not hold" in refused(
            predicted / "out", "-o", tmp_path / "report", "--ratings", tmp_path / "ann.json")
        assert not (tmp_path / "report").exists()

    def test_names_other_sources_than_were_predicted(self, predicted: Path, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copytree(predicted / "images", tmp_path / "images")
        changed = sorted((tmp_path / "images").iterdir())[0]
        changed.write_bytes(sorted((tmp_path / "images").iterdir())[1].read_bytes())
        assert main([str(predicted / "out"), "-i", str(tmp_path / "images"), "-o", str(tmp_path / "report"), "--no_viewer"]) == 0
        page = (tmp_path / "report" / "index.html").read_text()
        assert f"T1 is not shown: {changed} has changed since it was predicted" in page
        assert capsys.readouterr().out.endswith("index.html\n")
