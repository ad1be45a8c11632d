"""Commands whose cases workers do: files are byte for byte those of the command by itself, records too but for times."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fuse4seg.cli import build_brats_fuse, fuse, predict, preprocess

DATASET = "Dataset990_Phantom"


@pytest.fixture(params=["--devices", "--scheduler"])
def workers(request: pytest.FixtureRequest) -> list[str]:
    """Flags that name two."""
    return ["--devices", "cpu", "cpu"] if request.param == "--devices" else ["--scheduler", request.getfixturevalue("scheduler")]


@pytest.fixture(scope="module")
def images(untrained_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cases, one of which has a channel of noughts."""
    folder = tmp_path_factory.mktemp("images")
    for case in ("phantom_000", "phantom_001", "phantom_002"):
        for path in (untrained_phantom / "nnUNet_raw" / DATASET / "imagesTr").glob(f"{case}_*"):
            shutil.copy(path, folder)
    for number in range(4):
        shutil.copy(folder / f"phantom_000_{number:04d}.nii.gz", folder / f"short_{number:04d}.nii.gz")
    (folder / "short_0001.nii.gz").write_bytes((folder / "short_0001.nii.gz").read_bytes()[:2000])
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != "run.json"}


def record(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "run.json").read_text())
    for case in found["cases"].values():
        case.pop("seconds", None)
    return found


class TestPredict:
    @pytest.fixture(scope="class")
    def alone(self, images: Path, untrained_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """What the command leaves in one process."""
        output = tmp_path_factory.mktemp("alone") / "out"
        assert predict.main([*self.words(images, output, untrained_phantom), "-device", "cpu"]) == 1
        return output

    def words(self, images: Path, output: Path, root: Path) -> list[str]:
        return ["-i", str(images), "-o", str(output), "--root", str(root)]

    def test_leaves_what_one_process_leaves(self, images: Path, untrained_phantom: Path, alone: Path, workers: list[str],
                                            tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output = tmp_path / "out"
        assert predict.main([*self.words(images, output, untrained_phantom), *workers]) == 1
        assert "case short" in capsys.readouterr().err
        assert contents(output) == contents(alone)
        assert record(output) == record(alone)
        assert {case: entry["status"] for case, entry in record(output)["cases"].items()} == {
            "phantom_000": "done", "phantom_001": "done", "phantom_002": "done", "short": "failed"}
        # And goes on from there, in one process, with nothing to do but the faulty case.
        before = (output / "fused" / "phantom_000.nii.gz").stat().st_mtime_ns
        assert predict.main([*self.words(images, output, untrained_phantom), "-device", "cpu", "--continue_prediction"]) == 1
        assert (output / "fused" / "phantom_000.nii.gz").stat().st_mtime_ns == before

    def test_segments_fused_images(self, alone: Path, untrained_phantom: Path, workers: list[str], tmp_path: Path) -> None:
        assert predict.main(["-i", str(alone / "fused"), "-o", str(tmp_path / "out"), "--root", str(untrained_phantom),
                             "--from_fused", *workers]) == 0
        for case in ("phantom_000", "phantom_001", "phantom_002"):
            assert (tmp_path / "out" / f"{case}.nii.gz").read_bytes() == (alone / f"{case}.nii.gz").read_bytes()


def test_both_stages_of_a_cascade(untrained_cascade: Path, tmp_path: Path) -> None:
    words = ["-i", str(untrained_cascade / "nnUNet_raw" / DATASET / "imagesTs"), "-c", "3d_cascade_fullres", "-f", "0",
             "--root", str(untrained_cascade), "--disable_tta"]
    assert predict.main([*words, "-o", str(tmp_path / "alone"), "-device", "cpu"]) == 0
    assert predict.main([*words, "-o", str(tmp_path / "apart"), "--devices", "cpu"]) == 0
    assert contents(tmp_path / "apart") == contents(tmp_path / "alone")


def test_an_ensemble(untrained_cascade: Path, tmp_path: Path) -> None:
    words = ["-i", str(untrained_cascade / "nnUNet_raw" / DATASET / "imagesTs"), "-c", "3d_lowres", "3d_cascade_fullres",
             "-f", "0", "--root", str(untrained_cascade), "--disable_tta"]
    assert predict.main([*words, "-o", str(tmp_path / "alone"), "-device", "cpu"]) == 0
    assert predict.main([*words, "-o", str(tmp_path / "apart"), "--devices", "cpu"]) == 0
    assert contents(tmp_path / "apart") == contents(tmp_path / "alone")


class TestFuse:
    @pytest.mark.parametrize("by", ["rule", "model"])
    def test_leaves_what_one_process_leaves(self, by: str, images: Path, untrained_phantom: Path, untrained_model: Path,
                                            scheduler: str, tmp_path: Path) -> None:
        how = ["--rule", "wavelet"] if by == "rule" else ["-m", str(untrained_model), "-device", "cpu"]
        words = ["-i", str(images), *how, "--root", str(untrained_phantom)]
        assert fuse.main([*words, "-o", str(tmp_path / "alone")]) == 1
        assert fuse.main([*words, "-o", str(tmp_path / "apart"), "--scheduler", scheduler]) == 1
        assert contents(tmp_path / "apart") == contents(tmp_path / "alone")
        # Three images, of a model also in grey, and two records.
        assert len(contents(tmp_path / "alone")) == (5 if by == "rule" else 8)


class TestPreprocess:
    def test_leaves_what_processes_here_leave(self, planned_phantom: Path, scheduler: str, tmp_path: Path) -> None:
        root = tmp_path / "roots"
        shutil.copytree(planned_phantom, root)
        data = root / "nnUNet_preprocessed" / DATASET / "nnUNetPlans_2d"
        before = contents(data)
        shutil.rmtree(data)
        assert preprocess.main(["-d", "990", "-c", "2d", "--root", str(root), "--scheduler", scheduler]) == 0
        assert contents(data).keys() == before.keys()
        assert len(before) == 15
        assert all(contents(data)[name] == content for name, content in before.items() if name.endswith(".b2nd"))
        assert not list(data.parent.glob(".*"))


class TestBuildBratsFuse:
    def test_leaves_what_processes_here_leave(self, brats_release: Path, untrained_model: Path, scheduler: str,
                                              tmp_path: Path) -> None:
        words = ["-i", str(brats_release), "-m", str(untrained_model), "-device", "cpu"]
        assert build_brats_fuse.main([*words, "-o", str(tmp_path / "alone"), "-np", "1"]) == 0
        assert build_brats_fuse.main([*words, "-o", str(tmp_path / "apart"), "--scheduler", scheduler]) == 0
        assert contents(tmp_path / "apart") == contents(tmp_path / "alone")
